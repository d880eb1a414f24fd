"""Dataset `folder`: pictures of a local folder, each with a caption."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import DataError, Field, Problem, SampleError

from .batching import batch_of, fields_of
from .captions import from_file, from_sidecars
from .files import SUFFIXES, Sample, listing, shown

if TYPE_CHECKING:
    from torch import Tensor


@frozen
class Folder:
    """Pictures of a folder and of the folders in it, as squares, with captions.

    image: float32 [B, 3, S, S] in [-1, 1]; caption: text. The short side is resized to S with
    antialiasing and the centre is cut out; transparency lies on white, 16 bits are scaled, EXIF's
    orientation is obeyed, and an animation gives its first frame. Samples are in the order of their
    names. Hidden files and folders are left out, and links to folders are not followed.
    """

    path: str = field(validator=validators.min_len(1))
    """The folder, relative to the folder in which the command runs."""
    captions: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """A file of lines `name<TAB>caption`, names relative to `path`; None: `a.txt` beside `a.jpg`."""
    image_size: int = field(default=64, validator=validators.ge(1))
    """Side of the square in pixels."""
    caption_prefix: str | None = None
    """Put in front of every caption, as `{prefix}. {caption}`."""
    flip: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.le(1.0)))
    """Probability that a picture is mirrored left to right, drawn anew for each epoch."""
    verify: bool = True
    """Decode every picture when the dataset is opened; false: read its first bytes, and meet damage in training."""

    def fields(self) -> Mapping[str, Field]:
        """Say what a batch holds, per sample."""
        return fields_of(self)

    def __call__(self) -> FolderSource:
        """Open the folder; raises DataError with everything that is wrong in it."""
        from .checking import damaged

        root = Path(self.path).expanduser()
        problems: list[Problem] = []
        files = self._files(root, problems)
        pictures = {name for name in files if Path(name).suffix.lower() in SUFFIXES}
        if self.captions is None:
            samples = from_sidecars(root, files, pictures, problems)
        else:
            table = Path(self.captions).expanduser()
            samples = from_file(root, table, files if root.is_dir() else None, pictures, problems)
        if root.is_dir() and not pictures and not samples:
            problems.append(_no_pictures(root))
        known = {root / files[name] for name in pictures} | {sample.path for sample in samples}
        problems += damaged(sorted(known), whole=self.verify)
        if problems:
            raise DataError(problems)
        return FolderSource(self, samples)

    def _files(self, root: Path, problems: list[Problem]) -> dict[str, str]:
        """The folder's files by name, after telling what keeps it from being read."""
        if not root.exists():
            problems.append(Problem("there is no such folder", shown(root)))
        elif not root.is_dir():
            problems.append(Problem("is a file, where a folder of pictures is expected", shown(root)))
        else:
            return listing(root, problems)
        return {}


class FolderSource:
    """The samples of one opened `Folder`, each decoded when it is asked for."""

    def __init__(self, options: Folder, samples: Sequence[Sample]) -> None:
        self.options = options
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def digest(self) -> str:
        """Identify the samples: a digest of names, captions and sizes of the files, wherever the folder lies."""
        root, found = Path(self.options.path).expanduser(), blake2b(digest_size=16)
        for sample in self.samples:
            size = sample.path.stat().st_size if sample.path.exists() else -1
            told = f"{os.path.relpath(sample.path, root)}\0{sample.caption}\0{size}\0"
            found.update(told.encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def name(self, index: int) -> str:
        """Say which picture is sample `index`: its path."""
        return shown(self.samples[index].path)

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """Read the samples at `indices`; `seed` and the index decide which ones are mirrored.

        Returns image [B, 3, S, S] and caption, a list of B strings. Raises SampleError with all
        pictures of the batch that have become unreadable, or were not verified.
        """
        from .checking import read_all

        def read(index: int) -> bytes:
            return self.samples[index].path.read_bytes()

        damaged: dict[int, Problem] = {}
        pictures = read_all(indices, read, self.name, self.options.image_size, damaged)
        if damaged:
            raise SampleError(damaged)
        return batch_of(self.options, indices, pictures, [self.samples[index].caption for index in indices], seed)


def _no_pictures(root: Path) -> Problem:
    looked = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    return Problem("there are no pictures in this folder", shown(root), (("looked for", looked),))
