"""Which samples are held out of training: a function of each one's name alone."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Protocol

from fluxflow_registry import Problem

if TYPE_CHECKING:
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
