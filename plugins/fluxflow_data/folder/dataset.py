"""Dataset `folder`: pictures of a local folder, each with a caption."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen, validators

from fluxflow_registry import DataError, Field, Problem

from ..batching.source import PictureSource, fields_of, smaller, whole_multiple
from ..holdout import Split, astride, chosen, nothing_left, overlap, something_held_out, told
from .captions import from_file, from_sidecars
from .files import SUFFIXES, Flaw, Sample, each_once, listing, shown, stem

if TYPE_CHECKING:
    import numpy as np
    from attrs import Attribute
    from numpy.typing import NDArray


def _beside_pictures(folder: Folder, _: Attribute[bool], value: bool) -> None:
    """Hold that captions stand beside the pictures: a file of captions names every picture."""
    if value and folder.captions is not None:
        raise ValueError("uncaptioned is true, but `captions` names a file: leave one of them out")


@frozen
class Folder:
    """Pictures of a folder and of the folders in it, with captions, as squares or in aspect buckets.

    image: float32 [B, 3, H, W] in [-1, 1]; caption: text. A picture is resized with antialiasing until it
    covers its size, and the centre is cut out; transparency lies on white, 16 bits are scaled, EXIF's
    orientation is obeyed, and an animation gives its first frame. Samples are in the order of their
    names. Hidden files and folders are left out, and links to folders are not followed.
    """

    path: str = field(validator=validators.min_len(1))
    """The folder, relative to the folder in which the command runs."""
    captions: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """A file of lines `name<TAB>caption`, names relative to `path`; None: `a.txt` beside `a.jpg`."""
    uncaptioned: bool = field(default=False, validator=_beside_pictures)
    """Whether a picture needs no text beside it; without one its caption is empty. An autoencoder reads none."""
    image_size: int = field(default=64, validator=validators.ge(1))
    """Side of the square in pixels; its area is the most that any bucket has."""
    bucket_multiple: int | None = field(
        default=None, validator=validators.optional(validators.and_(validators.ge(1), whole_multiple))
    )
    """Each picture goes to the bucket nearest in aspect, whose sides are multiples of this; None: squares."""
    bucket_aspect: float = field(default=2.0, validator=validators.and_(validators.ge(1.0), validators.le(16.0)))
    """How many times as long as wide a bucket is at most."""
    reduced_min_sizes: list[int] | None = field(default=None, validator=smaller)
    """Sides, as `image_size` is one: each batch is first trained on in these smaller copies, the smallest first."""
    caption_prefix: str | None = None
    """Put in front of every caption, as `{prefix}. {caption}`."""
    flip: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Probability that a picture is mirrored left to right, drawn anew for each epoch."""
    holdout: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.lt(1.0)))
    """Share of the samples that is held out of training; which ones, a hash of each one's name says."""
    split: Split = field(default="train", validator=something_held_out)
    """What is read: the samples that are not held out, those that are, or all."""
    verify: bool = True
    """Decode every new picture when the dataset is opened; false: read its first bytes, meet damage in training."""
    damaged_at_most: float = field(default=0.01, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Share of pictures that may be damaged or lack a caption: they are named and left out; more are refused."""

    def fields(self) -> Mapping[str, Field]:
        """Say what a batch holds, per sample."""
        return fields_of(self)

    def __call__(self) -> FolderSource:
        """Open the folder; raises DataError with everything that is wrong in it."""
        root = Path(os.path.expanduser(self.path))  # the home of an unknown user is left as it stands
        problems: list[Problem] = []
        flaws: list[Flaw] = []
        files = self._files(root, problems)
        pictures = {name for name in files if Path(name).suffix.lower() in SUFFIXES}
        if self.captions is None:
            samples = from_sidecars(root, files, pictures, flaws, self.uncaptioned)
        else:
            table = Path(os.path.expanduser(self.captions))
            samples = from_file(root, table, files if root.is_dir() else None, pictures, problems, flaws)
        if root.is_dir() and not pictures and not samples:
            problems.append(_no_pictures(root))
        names = {root / files[name]: name for name in pictures} | {sample.path: sample.name for sample in samples}
        sizes = self._survey(root, names, flaws)
        sound = [sample for sample in samples if sample.path in sizes]
        flaws = each_once(flaws)
        if problems or not sound or len(flaws) > self.damaged_at_most * (len(sound) + len(flaws)):
            wrong = [flaw.problem for flaw in flaws]
            raise DataError([*problems, *self._helped(wrong, len(sound), bool(problems))])
        mine = self._part([sample.name for sample in sound] + [flaw.name for flaw in flaws if flaw.name])
        read = [sample for sample in sound if sample.name in mine]
        if not read:
            raise DataError(nothing_left(self, len(sound), shown(root)))
        left_out = [flaw.problem for flaw in flaws if flaw.name is None or flaw.name in mine]
        return FolderSource(self, read, [sizes[sample.path] for sample in read], left_out, told(self, read, sound))

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """What is wrong where this is held out, and another dataset of the same pictures is trained on."""
        if not isinstance(trained, Folder):
            return None
        try:
            root, theirs = (Path(os.path.realpath(os.path.expanduser(each.path))) for each in (self, trained))
        except ValueError:  # no path at all, which is told when it is opened
            return None
        if root == theirs:
            return overlap(self, label, other, trained)
        return astride(self, label, other, root, theirs)

    def _part(self, names: Sequence[str]) -> set[str]:
        """The names of the pictures that are read, sound or not. The whole folder is judged, whatever is held out."""
        read = chosen(self, (stem(name).encode("utf-8", "surrogateescape") for name in names))
        return set(names if read is None else (name for name, one in zip(names, read.tolist(), strict=True) if one))

    def _survey(self, root: Path, names: Mapping[Path, str], flaws: list[Flaw]) -> dict[Path, tuple[int, int]]:
        """The size of each picture that can be read; adds to `flaws` why the others cannot."""
        from .size_cache import survey

        paths = sorted(names)
        found = list(zip(paths, survey(root, paths, whole=self.verify), strict=True))
        flaws += [Flaw(wrong, names[path]) for path, wrong in found if isinstance(wrong, Problem)]
        return {path: size for path, size in found if not isinstance(size, Problem)}

    def _helped(self, flaws: Sequence[Problem], sound: int, in_vain: bool) -> Sequence[Problem]:
        """The flaws, the first of them, which is always shown, with a word on how to do without what they are about."""
        if not flaws or not sound or in_vain:
            return flaws
        told = f"{len(flaws):,} of {sound + len(flaws):,}"
        share = ceil(100 * len(flaws) / (sound + len(flaws))) / 100
        note = ("or else", f"`damaged_at_most: {share}` leaves out what is damaged, and names it: {told}")
        return [evolve(flaws[0], notes=(*flaws[0].notes, note)), *flaws[1:]]

    def _files(self, root: Path, problems: list[Problem]) -> dict[str, str]:
        """The folder's files by name, after telling what keeps it from being read."""
        if not root.exists():
            problems.append(Problem("there is no such folder", shown(root)))
        elif not root.is_dir():
            problems.append(Problem("is a file, where a folder of pictures is expected", shown(root)))
        else:
            return listing(root, problems)
        return {}


class FolderSource(PictureSource):
    """The samples of one opened `Folder`, each decoded when it is asked for."""

    def __init__(
        self,
        options: Folder,
        samples: Sequence[Sample],
        sizes: Sequence[tuple[int, int]],
        left_out: Sequence[Problem] = (),
        about: Sequence[str] = (),
    ) -> None:
        super().__init__(options, _array(sizes), left_out, about)
        self.path = options.path
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def digest(self) -> str:
        """Identify the samples: a digest of names, captions and sizes of the files, wherever the folder lies."""
        root, found = Path(self.path).expanduser(), blake2b(digest_size=16)
        for sample in self.samples:
            size = sample.path.stat().st_size if sample.path.exists() else -1
            told = f"{os.path.relpath(sample.path, root)}\0{sample.caption}\0{size}\0"
            found.update(told.encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def name(self, index: int) -> str:
        """Say which picture is sample `index`: its path."""
        return shown(self.samples[index].path)

    def _picture(self, index: int) -> bytes:
        return self.samples[index].path.read_bytes()

    def _caption(self, index: int, damaged: dict[int, Problem]) -> str:
        return self.samples[index].caption


def _array(sizes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    import numpy as np

    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def _no_pictures(root: Path) -> Problem:
    looked = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    return Problem("there are no pictures in this folder", shown(root), (("looked for", looked),))
