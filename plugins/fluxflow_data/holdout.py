"""Samples held out of training: whether a sample is one of them depends on its name alone."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen, validators

from fluxflow_registry import Location, Problem

from .image_dataset import ImageOptions

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

Split = Literal["train", "held_out", "all"]


def _something_is_held_out(options: HoldoutOptions, _: Any, split: Split) -> None:
    if split == "held_out" and options.holdout == 0.0:
        raise ValueError("`split` is `held_out`, but `holdout` is 0: set the share to hold out, such as 0.05")


@frozen(kw_only=True)
class HoldoutOptions(ImageOptions):
    """The options of images, and those that decide which samples of a dataset are read."""

    holdout: float = field(default=0.0, validator=validators.and_(validators.ge(0.0), validators.lt(1.0)))
    """Share of the samples that is held out of training; a hash of a sample's name decides whether it is."""
    split: Split = field(default="train", validator=_something_is_held_out)
    """Which samples are read: those that are not held out, those that are, or all."""

    def selected(self, names: Iterable[bytes]) -> NDArray[np.bool_] | None:
        """Which samples are read, by their names: bool [n]; None: all of them."""
        if self.holdout == 0.0 or self.split == "all":
            return None
        held_out: NDArray[np.bool_] = uniform_by_name(names) < self.holdout
        return held_out if self.split == "held_out" else ~held_out

    def describe_split(self, read: Sized, dataset: Sized) -> list[str]:
        """One sentence on the split that is read, or nothing where all samples are."""
        if self.holdout == 0.0 or self.split == "all":
            return []
        return [f"split `{self.split}`: {len(read):,} of {len(dataset):,} samples, with `holdout: {self.holdout}`"]

    def empty_split(self, samples: int, where: Location | str) -> Problem:
        """The problem of a split without samples."""
        message = (
            f"the split `{self.split}` is empty: `holdout: {self.holdout}` assigns none of {samples:,} samples to it"
        )
        hint = f"set a {'larger' if self.split == 'held_out' else 'smaller'} `holdout`, or add samples"
        return Problem(message, where, (("hint", hint),), code="empty-dataset", subject=self.split)


def uniform_by_name(names: Iterable[bytes]) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, uniformly distributed: 53 bits of BLAKE2b. A million names take half a second.

    It does not depend on the order of the names, or on the other names.
    """
    import numpy as np

    digests = b"".join(blake2b(name, digest_size=8, person=b"held out").digest() for name in names)
    bits = np.frombuffer(digests, dtype=">u8").astype(np.uint64) >> np.uint64(11)
    return bits.astype(np.float64) * np.float64(2.0**-53)


def overlap(held_out: HoldoutOptions, label: str, other: str, trained: HoldoutOptions) -> Problem | None:
    """The problem where two datasets read the same samples, and training on `other` reads held-out ones."""
    if held_out.split != "held_out" or (trained.split == "train" and trained.holdout >= held_out.holdout):
        return None
    current, missing = f"`split: {trained.split}`", f"`split: train` and `holdout: {held_out.holdout}`"
    if trained.split == "train":
        current = f"`holdout: {trained.holdout}`" if trained.holdout else "no `holdout`"
        missing = f"`holdout: {held_out.holdout}`"
    return _overlap(
        label,
        f"`{other}` has {current}, but `{label}` has `holdout: {held_out.holdout}`",
        f"set {missing} in `{other}`, or `split: all` in `{label}` if nothing has to be held out",
    )


def nested_folders(held_out: HoldoutOptions, label: str, other: str, root: Path, trained: Path) -> Problem | None:
    """The problem where a held-out folder is inside the folder that is trained on, or the other way round.

    Names of images start at the folder of each dataset, so the same image has two names and may be in both splits.
    """
    inner, outer = (root, trained) if root.is_relative_to(trained) else (trained, root)
    if held_out.split != "held_out" or not inner.is_relative_to(outer):
        return None
    if any(part.startswith(".") for part in inner.relative_to(outer).parts):  # hidden from the outer one
        return None
    labels = (label, other) if inner == root else (other, label)
    return _overlap(
        label,
        f"the folder of `{labels[0]}` is inside that of `{labels[1]}`: images have two names and may be in both splits",
        "use the same `path` and `holdout` in both, or folders that share no files",
    )


def _overlap(label: str, cause: str, hint: str) -> Problem:
    message = f"dataset `{label}` is held out, but training reads samples of it: {cause}"
    return Problem(message, None, (("hint", hint),), code="held-out-overlap", subject=label)
