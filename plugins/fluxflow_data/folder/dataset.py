"""Dataset `folder`: images of a local folder, each with a caption."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import compress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen, validators

from fluxflow_registry import DataError, Place, Problem, printable

from ..holdout import HoldoutOptions, nested_folders, overlap
from ..image_dataset import ImageSource
from .samples import SUFFIXES, Flaw, Sample, from_file, from_text_files, image_name, list_files, one_per_image, stem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _captions_are_text_files(folder: Folder, _: Any, uncaptioned: bool) -> None:
    if uncaptioned and folder.captions is not None:
        raise ValueError("`uncaptioned` is true, but `captions` names a file: remove one of them")


# More than a dozen attributes: one for each option of the recipe.
@frozen
class Folder(HoldoutOptions):
    """Images of a folder and of the folders in it, with captions, as squares or in aspect buckets.

    image: float32 [B, 3, H, W] in [-1, 1]; caption: text. An image is resized with antialiasing until it covers its
    size, and the center is cropped. Transparent images are blended with white, 16 bits are scaled to 8, EXIF's
    orientation is applied, and an animation contributes its first frame. Samples are in the order of their names.
    Hidden files and folders are ignored, and links to folders are not followed.
    """

    path: str = field(validator=validators.min_len(1))
    """The folder, relative to the folder in which the command runs."""
    captions: str | None = field(default=None, validator=validators.optional(validators.min_len(1)))
    """A file of lines `name<TAB>caption`, names relative to `path`; null: `a.txt` beside `a.jpg`."""
    uncaptioned: bool = field(default=False, validator=_captions_are_text_files)
    """Whether an image without a text file has an empty caption, which is enough for an autoencoder."""
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
        images = {name for name in files if Path(name).suffix.lower() in SUFFIXES}
        samples: list[Sample] = []
        try:
            if self.captions is None:
                samples = from_text_files(root, files, images, flaws, self.uncaptioned)
            else:
                table = Path(os.path.expanduser(self.captions))
                samples = from_file(root, table, files if root.is_dir() else None, images, flaws)
        except DataError as error:
            problems += error.problems
        if root.is_dir() and not images and not samples:
            hint = ("hint", f"add images whose names end in {', '.join(SUFFIXES)}")
            message = f"folder `{root.name}` contains no images"
            problems.append(Problem(message, str(root), (hint,), code="empty-dataset", subject=root.name))
        names = {root / files[name]: name for name in images} | {sample.path: sample.name for sample in samples}
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
        read = [sample for sample in intact if sample.name in selected]
        if not read:
            raise DataError(self.empty_split(len(intact), str(root)))
        left_out = [flaw.problem for flaw in flaws if flaw.image is None or flaw.image in selected]
        stored_sizes = np.array([sizes[sample.path] for sample in read], dtype=np.int64)
        return FolderSource(self, read, stored_sizes, left_out, self.describe_split(read, intact))

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
    ) -> None:
        super().__init__(options, stored_sizes, left_out, about)
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
        return self._samples[index].path.read_bytes()

    def _read_caption(self, index: int) -> str:
        return self._samples[index].caption


def _list_files(root: Path, problems: list[Problem]) -> dict[str, str]:
    """The folder's files by name; adds to `problems` what keeps it from being read."""
    if root.is_dir():
        return list_files(root, problems)
    if root.exists():
        message, code = f"cannot read the images of `{root.name}`: it is a file, not a folder", "unreadable-file"
    else:
        message, code = f"folder `{root.name}` does not exist", "missing-file"
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
