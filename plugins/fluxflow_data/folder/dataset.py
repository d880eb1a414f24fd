"""Dataset `folder`: images of a local folder, each with a caption."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import compress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen, validators

from fluxflow_registry import DataError, Place, Problem, counted, printable

from ..files import IMAGE_BYTES, TABLE_BYTES, read_limited, why_missing
from ..holdout import HoldoutOptions, nested_folders, overlap
from ..image_dataset import ImageSource
from .captions_file import read_captions_file
from .samples import (
    SUFFIXES,
    Flaw,
    Sample,
    from_text_files,
    ignored_files,
    image_name,
    is_image,
    list_files,
    one_per_image,
    stem,
    texts_beside,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _captions_are_text_files(folder: Folder, _: Any, uncaptioned: bool) -> None:
    if uncaptioned and folder.captions is not None:
        raise ValueError("`uncaptioned` is true, but `captions` names a file: remove one of them")


def _names_files(_: Any, __: Any, captions: str | list[str] | None) -> None:
    if captions is not None and not all([captions] if isinstance(captions, str) else captions or [""]):
        raise ValueError("`captions` names no file: write the path of one, a list of paths, or null")


# More than a dozen attributes: one for each option of the recipe.
@frozen
class Folder(HoldoutOptions):
    """Images of a folder and of the folders in it, with captions, as squares or in aspect buckets.

    image: float32 [B, 3, H, W] in [-1, 1]; caption: text. An image is resized with antialiasing until it covers its
    size, and the center is cropped. Transparent images are blended with white, 16 bits are scaled to 8, colors are
    converted from the image's profile to sRGB, EXIF's orientation is applied, and an animation contributes its first
    frame. Samples are in the order of their names. Hidden files and folders are ignored, and links to folders are not
    followed.

    A captions file has lines `name<TAB>caption`; with a header, columns such as `file_name` and `caption`, separated by
    tabs, commas, semicolons or `|`; or a mapping with such keys on each line (`.jsonl`). Names are relative to `path`
    or to the captions file. An image that it does not name is not used. One that it names several times, or with a list
    of captions, is a sample with each of them.
    """

    path: str = field(validator=validators.min_len(1))
    """The folder, relative to the folder in which the command runs."""
    captions: str | list[str] | None = field(default=None, validator=_names_files)
    """Files that say which images are used and what they show: TSV, CSV or JSON lines; null: `a.txt` beside `a.jpg`."""
    uncaptioned: bool = field(default=False, validator=_captions_are_text_files)
    """Whether an image without a text, or with an empty one, has an empty caption: enough for an autoencoder."""
    verify: bool = field(default=True, kw_only=True)
    """Decode every new image when the dataset is opened; false: read its header, and find damage in training."""
    damaged_at_most: float = field(default=0.01, kw_only=True, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of images that may be damaged or lack a caption: they are reported and left out; more are an error."""

    def __call__(self) -> FolderSource:
        """Open the folder; raises DataError with everything that is wrong in it."""
        import numpy as np

        root = Path(os.path.expanduser(self.path))  # the home of an unknown user is left as it is written
        problems: list[Problem] = []
        flaws: list[Flaw] = []
        files = _list_files(root, problems)
        images = {name for name in files if is_image(name)}
        if self.captions is None:
            samples, used = from_text_files(root, files, images, flaws, self.uncaptioned), images
        else:
            samples = self._from_captions_files(root, files, problems, flaws)
            used = {sample.name for sample in samples}
        if os.path.isdir(root) and not images and not samples:
            notes = [("hint", f"add images whose names end in {', '.join(SUFFIXES)}")]
            notes += [("status", ignored) for ignored in ignored_files(files, ())]
            message = f"folder `{root.name}` contains no images"
            problems.append(Problem(message, str(root), notes, code="empty-dataset", subject=root.name))
        names = {root / files[name]: name for name in used}
        sizes = self._image_sizes(root, names, flaws)
        intact = [sample for sample in samples if sample.path in sizes]
        flaws = one_per_image(flaws)
        if problems or not intact or len(flaws) > self.damaged_at_most * (len(intact) + len(flaws)):
            damaged = [flaw.problem for flaw in flaws]
            raise DataError([*problems, *(damaged if problems else _with_hint(damaged, len(intact)))])
        # The whole folder has been judged, whatever is held out.
        judged = [sample.name for sample in intact] + [flaw.image for flaw in flaws if flaw.image]
        which = self.selected(stem(name).encode("utf-8", "surrogateescape") for name in judged)
        selected = set(judged if which is None else compress(judged, which))
        chosen = [sample for sample in intact if sample.name in selected]
        if not chosen:
            raise DataError(self.empty_split(len(intact), str(root)))
        left_out = [flaw.problem for flaw in flaws if flaw.image is None or flaw.image in selected]
        stored_sizes = np.array([sizes[sample.path] for sample in chosen], dtype=np.int64)
        unused = self._unused(root, files, images - used)
        return FolderSource(self, chosen, stored_sizes, left_out, self.describe_split(chosen, intact), unused)

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """The problem where this dataset is held out and another one of the same images is trained on."""
        if not isinstance(trained, Folder):
            return None
        try:
            root, theirs = (Path(os.path.realpath(os.path.expanduser(each.path))) for each in (self, trained))
        except ValueError:  # not a path, which is reported when it is opened
            return None
        if root == theirs:
            return overlap(self, label, other, trained)
        return nested_folders(self, label, other, root, theirs)

    def _tables(self) -> list[Path]:
        """The captions files."""
        captions = [self.captions] if isinstance(self.captions, str) else self.captions or ()
        return [Path(os.path.expanduser(each)) for each in captions]

    def _from_captions_files(
        self, root: Path, files: Mapping[str, str], problems: list[Problem], flaws: list[Flaw]
    ) -> list[Sample]:
        """The samples that the captions files describe, in the order of names; those of one image in that of lines."""
        samples: list[Sample] = []
        taken: set[tuple[str, str]] = set()
        for table in self._tables():
            try:
                samples += read_captions_file(root, table, files if os.path.isdir(root) else None, taken, flaws)
            except DataError as error:
                problems += error.problems
        if files and not samples and not problems and not flaws:
            blank = not any(read_limited(table, TABLE_BYTES).strip() for table in self._tables())
            what = "is empty" if blank else "has a header only, or an empty list: it describes no image"
            message = f"captions file `{self._tables()[0].name}` {what}"
            problems.append(Problem(message, str(self._tables()[0]), code="empty-dataset", subject="captions"))
        return sorted(samples, key=lambda sample: sample.name)

    def _unused(self, root: Path, files: Mapping[str, str], unused: Collection[str]) -> list[str]:
        """What of the folder is not used."""
        second: list[str] = []
        tables = {os.path.abspath(table) for table in self._tables()}
        if self.captions is None:
            texts = [texts_beside(files, name) for name in files if is_image(name)]
            read = {text for each in texts for text in each}
            second = sorted({text for each in texts for text in each[1:]})
        else:
            read = {name for name, stored in files.items() if os.path.abspath(root / stored) in tables}
        notes = ignored_files(files, read)
        if second:
            which = f"`{second[0]}`" if len(second) == 1 else f"such as `{second[0]}`"
            notes.append(f"ignored {counted(len(second), 'caption')} beside another one of the same image: {which}")
        if unused:
            table = f"`{self._tables()[0].name}` does not name" if len(tables) == 1 else "no captions file names"
            notes.append(f"skipped {counted(len(unused), 'image')} of the folder that {table}")
        return notes

    def _image_sizes(self, root: Path, names: Mapping[Path, str], flaws: list[Flaw]) -> dict[Path, tuple[int, int]]:
        """The size of each image that can be read; adds to `flaws` why the others cannot."""
        from .size_cache import image_sizes

        paths = sorted(names)
        sizes = image_sizes(root, paths, lambda path: image_name(path, names[path]), self.verify)
        pairs = list(zip(paths, sizes, strict=True))
        flaws += [Flaw(size, names[path]) for path, size in pairs if isinstance(size, Problem)]
        return {path: size for path, size in pairs if not isinstance(size, Problem)}


class FolderSource(ImageSource):
    """The samples of one opened `Folder`, each decoded when a batch needs it."""

    def __init__(
        self,
        options: Folder,
        samples: Sequence[Sample],
        stored_sizes: NDArray[np.int64],
        left_out: Sequence[Problem] = (),
        about: Sequence[str] = (),
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(options, stored_sizes, left_out, about, notes)
        self._root = Path(os.path.expanduser(options.path))
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    @cached_property
    def digest(self) -> str:
        """The identity of the samples, wherever the folder is: a digest of names, captions and sizes of the files."""
        digest = blake2b(digest_size=16)
        for sample in self._samples:
            size = sample.path.stat().st_size if sample.path.exists() else -1
            text = f"{os.path.relpath(sample.path, self._root)}\0{sample.caption}\0{size}\0"
            digest.update(text.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def name(self, index: int) -> str:
        """The path of the image of sample `index`."""
        return printable(str(self._samples[index].path))

    def _image_name(self, index: int) -> tuple[str, str, Place]:
        return image_name(self._samples[index].path, self._samples[index].name)

    def _read_image(self, index: int) -> bytes:
        return read_limited(self._samples[index].path, IMAGE_BYTES)

    def _has_captions(self) -> bool:
        return any(sample.caption for sample in self._samples)

    def _read_caption(self, index: int) -> str:
        return self._samples[index].caption


def _list_files(root: Path, problems: list[Problem]) -> dict[str, str]:
    """The folder's files by name; adds to `problems` what keeps it from being read."""
    if os.path.isdir(root):
        return list_files(root, problems)
    if os.path.exists(root):
        message, code = f"cannot read the images of `{root.name}`: it is a file, not a folder", "unreadable-file"
    else:
        message, code = f"folder `{root.name}` {why_missing(root)}", "missing-file"
    problems.append(Problem(message, str(root), code=code, subject=root.name))
    return {}


def _with_hint(damaged: Sequence[Problem], intact: int) -> Sequence[Problem]:
    """The problems; the first one, which is always shown, with a hint on how to train without the images."""
    if not damaged or not intact:
        return damaged
    images = intact + len(damaged)
    share = ceil(100 * len(damaged) / images) / 100
    hint = f"set `damaged_at_most: {share}` to leave out the damaged images ({len(damaged):,} of {images:,})"
    return [evolve(damaged[0], notes=(*damaged[0].notes, ("hint", hint))), *damaged[1:]]
