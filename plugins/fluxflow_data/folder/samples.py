"""The images of a folder, and their captions in text files beside them."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from posixpath import splitext

from attrs import evolve, frozen

from fluxflow_registry import Place, Problem, counted

from ..captions import CaptionError, decode_caption
from ..files import CAPTION_BYTES, read_limited, why_missing

#: Suffixes of images, in any case. Other files, among them icons and the working files of editors, are counted.
SUFFIXES = (
    ".apng", ".avif", ".avifs", ".bmp", ".bw", ".dib", ".gif", ".icb", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe",
    ".jpeg", ".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".ras",
    ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".vda", ".vst", ".webp",
)  # fmt: skip

#: Suffixes of the captions beside images; the first that exists is read.
CAPTION_SUFFIXES = (".txt", ".TXT", ".caption", ".CAPTION")

#: So many suffixes of files that are not read are named.
SUFFIXES_NAMED = 8


@frozen
class Sample:
    """One image and its caption."""

    path: Path
    caption: str
    #: The path below the folder, in composed Unicode and with `/` between folders.
    name: str


@frozen
class Flaw:
    """A problem with one image, or with a line of a captions file that belongs to none."""

    problem: Problem
    image: str | None = None


def one_per_image(flaws: Iterable[Flaw]) -> list[Flaw]:
    """The flaws, all those of an image merged into its first: one image is unusable, whatever the number of reasons."""
    merged: dict[object, Flaw] = {}
    for number, flaw in enumerate(flaws):
        key: object = number if flaw.image is None else flaw.image
        first = merged.setdefault(key, flaw).problem
        if first is not flaw.problem:
            further = ("see also", f"{flaw.problem.where}  {flaw.problem.message}")
            merged[key] = evolve(flaw, problem=evolve(first, notes=(*first.notes, further, *flaw.problem.notes)))
    return list(merged.values())


def image_name(path: Path, name: str) -> tuple[str, str, Place]:
    """How a problem describes an image, the bare name of its sample, and where it is stored."""
    return f"image `{name}`", name, Place(str(path))


def stem(name: str) -> str:
    """An image's name without its suffix, which it shares with its caption: the key that it would have in a shard."""
    root, suffix = splitext(name)
    return name if suffix == "." else root


def is_image(name: str) -> bool:
    """Whether a file is an image, by its suffix."""
    return splitext(name)[1].lower() in SUFFIXES


def list_files(root: Path, problems: list[Problem]) -> dict[str, str]:
    """Every file below `root` that is not hidden: its name in composed Unicode, and its name on disk.

    Names are relative to `root`, with `/` between folders. (macOS stores `é` as two characters, so that a name copied
    from elsewhere is another string.)
    """

    def report(error: OSError) -> None:
        message = f"cannot read folder `{error.filename}`: {error.strerror}"
        problems.append(Problem(message, str(error.filename), code="unreadable-file"))

    names = {}
    for folder, inner, files in os.walk(root, onerror=report):
        inner[:] = (name for name in inner if not name.startswith("."))
        for file in files:
            if not file.startswith("."):
                name = (Path(folder).relative_to(root) / file).as_posix()
                names[composed(name)] = name
    return dict(sorted(names.items()))


def composed(name: str) -> str:
    """The name in Unicode's composed form, in which names are compared."""
    return unicodedata.normalize("NFC", name)


def from_text_files(
    root: Path, files: Mapping[str, str], images: Collection[str], flaws: list[Flaw], uncaptioned: bool = False
) -> list[Sample]:
    """The samples with the captions beside them: `a.txt` or `a.caption` for `a.jpg`; adds to `flaws` what is wrong.

    Where images may be `uncaptioned`, one without a text file, or with an empty one, has an empty caption.
    """
    samples = []
    for name in sorted(images):
        caption = _read_caption(root, files, name)
        if uncaptioned and isinstance(caption, Problem) and caption.code == "missing-caption":
            caption = ""
        if isinstance(caption, Problem):
            flaws.append(Flaw(caption, name))
        else:
            samples.append(Sample(root / files[name], caption, name))
    if len(flaws) == len(images) > 1 and all(map(_lacks_text_file, flaws)):  # one cause
        hint = "add `a.txt` for `a.jpg` and so on, name a file in `captions`, or set `uncaptioned: true`"
        message = f"none of the {len(images):,} images in folder `{root.name}` has a caption"
        flaws[:] = [Flaw(Problem(message, str(root), (("hint", hint),), code="missing-caption", subject=root.name))]
    return samples


def texts_beside(files: Collection[str], name: str) -> list[str]:
    """The captions beside an image, of which the first one is read."""
    return [text for suffix in CAPTION_SUFFIXES if (text := stem(name) + suffix) in files]


def _lacks_text_file(flaw: Flaw) -> bool:
    return flaw.problem.code == "missing-caption" and str(flaw.problem.where).endswith(str(flaw.image))


def _read_caption(root: Path, files: Mapping[str, str], name: str) -> str | Problem:
    """The caption beside an image, or why there is none."""
    text = next(iter(texts_beside(files, name)), None)
    if text is None:
        expected = root / (stem(name) + CAPTION_SUFFIXES[0])
        hint = f"add `{expected}`, or set `uncaptioned: true` if no captions are needed"
        message = f"image `{name}` has no caption"
        return Problem(message, str(root / name), (("hint", hint),), code="missing-caption", subject=name)
    path, code = root / files[text], "unreadable-file"
    try:
        caption = decode_caption(read_limited(path, CAPTION_BYTES))
        if caption:
            return caption
        code, message = "missing-caption", f"the caption of image `{name}` is empty"
    except CaptionError as error:
        message = f"the caption of image `{name}` {error}"
    except FileNotFoundError:
        message = f"the caption of image `{name}` {why_missing(path)}"
    except OSError as error:
        message = f"cannot read the caption of image `{name}`: {error.strerror}"
    return Problem(message, str(path), code=code, subject=name)


def ignored_files(files: Iterable[str], read: Collection[str]) -> list[str]:
    """One sentence on the files that are neither images nor captions, by suffix; nothing where there are none."""
    others = [name for name in files if not is_image(name) and name not in read]
    if not others:
        return []
    numbers = Counter(splitext(name)[1].lower() or "without a suffix" for name in others)
    counts = sorted(numbers.items(), key=lambda count: (-count[1], count[0]))
    named = ", ".join(f"{number:,} {suffix}" for suffix, number in counts[:SUFFIXES_NAMED])
    more = f", and {len(counts) - SUFFIXES_NAMED} more suffixes" if len(counts) > SUFFIXES_NAMED else ""
    return [f"ignored {counted(len(others), 'file')} whose names are not those of images: {named}{more}"]
