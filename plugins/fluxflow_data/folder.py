"""Dataset `folder`: pictures of a local folder, each with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from fluxflow_registry import DataError, Field, Problem

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

    def fields(self) -> dict[str, Field]:
        """Say what a batch holds, per sample."""
        return {
            "image": Field(
                shape=(3, self.image_size, self.image_size),
                dtype="float32",
                meaning="centre of the picture, in [-1, 1]",
            ),
            "caption": Field(shape=None, dtype="text", meaning="what the picture shows"),
        }

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

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Tensor | list[str]]:
        """Read the samples at `indices`; `seed` and the index decide which ones are mirrored.

        Returns image [B, 3, S, S] and caption, a list of B strings. Raises DataError for pictures
        that have become unreadable, or were not verified.
        """
        import numpy as np
        import torch

        from .checking import read_all

        options = self.options
        pictures = read_all([self.samples[index].path for index in indices], options.image_size)
        for place, index in enumerate(indices):
            if chance(seed, index) < options.flip:
                pictures[place] = pictures[place][:, ::-1]
        pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
        prefix = f"{options.caption_prefix}. " if options.caption_prefix else ""
        return {
            "image": pixels.to(torch.float32, memory_format=torch.contiguous_format) / 127.5 - 1.0,
            "caption": [prefix + self.samples[index].caption for index in indices],
        }


def chance(seed: int, index: int) -> float:
    """Draw the number in [0, 1) that belongs to sample `index` under `seed`: 53 bits of BLAKE2b."""
    digest = blake2b(f"flip:{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _no_pictures(root: Path) -> Problem:
    looked = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
    return Problem("there are no pictures in this folder", shown(root), (("looked for", looked),))
