"""Which samples are held out of training: a function of each one's name alone."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fluxflow_registry import Problem

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

#: What is read of a dataset.
Split = Literal["train", "held_out", "all"]


class Options(Protocol):
    """What says which samples are read."""

    @property
    def holdout(self) -> float:
        """Share of the samples that is held out."""

    @property
    def split(self) -> Split:
        """Which of them are read."""


def something_held_out(options: Options, _: Any, value: Split) -> None:
    """Raise ValueError where nothing is held out that could be read: for attrs, as the validator of `split`."""
    if value == "held_out" and options.holdout == 0.0:
        raise ValueError("`split` is `held_out`, and `holdout` is 0: it says what share is held out, such as 0.05")


def chosen(options: Options, names: Iterable[bytes]) -> NDArray[np.bool_] | None:
    """Which samples are read, by their names: bool [n]; None: all of them."""
    if options.holdout == 0.0 or options.split == "all":
        return None
    held: NDArray[np.bool_] = chances(names) < options.holdout
    return held if options.split == "held_out" else ~held


def chances(names: Iterable[bytes]) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, evenly spread: 53 bits of BLAKE2b. A million names take half a second.

    It is the same wherever the name stands and whatever other names there are.
    """
    import numpy as np

    digests = b"".join(blake2b(name, digest_size=8, person=b"held out").digest() for name in names)
    bits = np.frombuffer(digests, dtype=">u8").astype(np.uint64) >> np.uint64(11)
    return bits.astype(np.float64) * np.float64(2.0**-53)


def overlap(mine: Options, label: str, other: str, trained: Options) -> Problem | None:
    """What is wrong where `mine` is held out and `trained`, another part of the same samples, has some of them too."""
    if mine.split != "held_out" or (trained.split == "train" and trained.holdout >= mine.holdout):
        return None
    there = f"`split: {trained.split}`"
    better = f"`split: train` and `holdout: {mine.holdout}`"
    if trained.split == "train":
        there = f"`holdout: {trained.holdout}`" if trained.holdout else "no `holdout`"
        better = f"`holdout: {mine.holdout}`"
    return _seen(
        label,
        f"`{other}` has {there}, where `{label}` has `holdout: {mine.holdout}`",
        f"{better} in `{other}`, or `split: all` in `{label}`, which promises nothing",
    )


def astride(mine: Options, label: str, other: str, root: Path, trained: Path) -> Problem | None:
    """What is wrong where `mine` is held out of a folder which is in the one that is trained on, or has it in it.

    Names begin at the folder of each dataset: the same picture has another one in each, and falls elsewhere.
    """
    inner, outer = (root, trained) if root.is_relative_to(trained) else (trained, root)
    if mine.split != "held_out" or not inner.is_relative_to(outer):
        return None
    if any(part.startswith(".") for part in inner.relative_to(outer).parts):  # left out of the outer one
        return None
    names = (label, other) if inner == root else (other, label)
    return _seen(
        label,
        f"the folder of `{names[0]}` is within that of `{names[1]}`, where its pictures have other names",
        "the same `path` and `holdout` in both, or folders that are apart",
    )


def _seen(label: str, told: str, better: str) -> Problem:
    message = f"dataset `{label}` is held out, and yet training sees samples of it: {told}"
    return Problem(message, None, (("or else", better),))


def nothing_left(options: Options, samples: int, where: str | None) -> Problem:
    """What to say of a part without a sample."""
    told = f"`holdout: {options.holdout}` leaves the part `{options.split}` empty: none of {samples:,} samples is in it"
    better = "a larger" if options.split == "held_out" else "a smaller"
    return Problem(told, where, (("or else", f"{better} `holdout`, or more samples"),))


def told(options: Options, read: Sized, whole: Sized) -> list[str]:
    """A sentence on what part of a dataset is read, where one is."""
    if options.holdout == 0.0 or options.split == "all":
        return []
    return [f"split `{options.split}`: {len(read):,} of {len(whole):,} samples, with `holdout: {options.holdout}`"]
