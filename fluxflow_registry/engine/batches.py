"""Batches as a pure function of position: an epoch is a permutation, a batch a slice of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from attrs import frozen
from torch.utils.data import DataLoader, Dataset

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.randomness import derive
from fluxflow_registry.errors import DataError, FluxflowError, Problem, one_line


def batches_per_epoch(source: Source, name: str, batch_size: int, max_steps: int | None, where: str) -> int:
    """Full batches in an epoch; raises DataError where the dataset does not fill one."""
    count = len(source) // batch_size
    if count == 0:
        message = f"dataset `{name}` has {len(source)} samples, which is no batch of {batch_size}"
        raise DataError(Problem(message, where))
    return count if max_steps is None else min(count, max_steps)


def permutation(length: int, *place: int | str) -> torch.Tensor:
    """The order of an epoch: a permutation of 0 .. length-1 that depends on its place alone."""
    generator = torch.Generator().manual_seed(derive("order", *place))
    return torch.randperm(length, generator=generator)


class _Slices(Dataset[Any]):
    """Batch number i of one epoch, so that loader workers can read any of them."""

    def __init__(self, source: Source, order: torch.Tensor, batch_size: int, seed: int) -> None:
        self.source = source
        self.order = order
        self.batch_size = batch_size
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any] | _Failure:
        start = index * self.batch_size
        try:
            return self.read(start, start + self.batch_size)
        except FluxflowError as error:
            return _Failure(error.problems)

    def read(self, start: int, stop: int) -> dict[str, Any]:
        """The samples at places `start` .. `stop` - 1 of the epoch; raises DataError whatever goes wrong."""
        indices = self.order[start:stop].tolist()
        try:
            return self.source.batch(indices, self.seed)
        except FluxflowError:
            raise
        except Exception as error:
            shown = ", ".join(map(str, indices[:8])) + (", ..." if len(indices) > 8 else "")
            message = f"{type(self.source).__name__} cannot give samples {shown}: {one_line(error)}"
            raise DataError(message) from error

    def run(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Batches `start` .. `stop` - 1; a source that likes to read many samples at once may.

        A sample does not depend on the batch in which it is read, so slices of a longer read are exact.
        """
        ahead = max(1, getattr(self.source, "samples_at_once", 1) // self.batch_size)
        size = self.batch_size
        for first in range(start, stop, ahead):
            count = min(ahead, stop - first)
            read = self.read(first * size, (first + count) * size)
            for index in range(count):
                yield {name: field[index * size : (index + 1) * size] for name, field in read.items()}


def epoch_batches(
    source: Source, batch_size: int, batches: int, start: int, workers: int, place: tuple[int | str, ...]
) -> Iterator[Mapping[str, Any]]:
    """The batches `start` .. `batches` - 1 of the epoch at `place`, read by `workers` processes (0: here)."""
    slices = _Slices(source, permutation(len(source), *place), batch_size, derive("samples", *place))
    if workers == 0:
        return slices.run(start, batches)
    loader = DataLoader(
        slices,
        batch_size=None,
        sampler=range(start, batches),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_quiet_worker,
        # Its own generator: a loader without one draws a seed from torch's global generator.
        generator=torch.Generator().manual_seed(0),
    )
    return _unwrapped(loader)


@frozen
class _Failure:
    """What a worker could not read; as a value, it reaches the main process without a worker's traceback."""

    problems: tuple[Problem, ...]


def _unwrapped(loader: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for batch in loader:
        if isinstance(batch, _Failure):
            raise DataError(batch.problems)
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet_worker(_: int) -> None:
    """Leave signals to the main process: it finishes the batch and then ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {
        name: field.to(device, non_blocking=True) if isinstance(field, torch.Tensor) else field
        for name, field in batch.items()
    }
