"""Datasets: where the samples of a batch come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, field, frozen, validators

from fluxflow_registry.contracts.kind import Extras, Kind, Product
from fluxflow_registry.errors import Problem

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@frozen
class Field:
    """One field of a dataset's batches: shape of a single sample, dtype, meaning.

    `shape=None` with `dtype="text"` is a list of strings, one per sample. Where not all batches have the same
    shape, `also` holds the other shapes that a batch may have: each is checked before training. Fields that
    vary together have equally many, in the same order.
    """

    shape: tuple[int, ...] | None
    dtype: str = "float32"
    meaning: str = ""
    also: tuple[tuple[int, ...], ...] = ()


def variants(fields: Mapping[str, Field]) -> list[Mapping[str, Field]]:
    """The fields of every form that a batch may have, each with one shape; the usual form first."""
    count = 1 + max((len(field.also) for field in fields.values()), default=0)
    return [
        {
            name: evolve(field, shape=(field.shape, *field.also)[number], also=()) if field.also else field
            for name, field in fields.items()
        }
        for number in range(count)
    ]


class Source(Protocol):
    """An opened dataset: map-style over indices, so that any position is reached in constant time."""

    def __len__(self) -> int:
        """Number of samples."""

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        """Return the samples at `indices` as one batch.

        Every random choice about sample i (crop, flip) is a pure function of (seed, i), so that
        neither the worker nor the batch in which a sample is read can change it.

        Raises SampleError for samples that are damaged; it is called again with others in their places.
        """


class SourceExtras(Extras):
    """Optional members of a source."""

    samples_at_once: int = 1
    """Samples to read in one call of `batch`, where one long read is cheaper than many short ones."""
    digest: str | None = None
    """Identifies the samples, where they can change between two processes: a resumed run warns of another digest."""
    buckets: Sequence[int] | NDArray[np.int64] | None = None
    """For each sample the number of its bucket; a batch holds samples of one bucket only."""
    views: int = 1
    """Number of forms of each batch, trained on in turn; each counts as a batch, except for `max_steps`."""
    left_out: Sequence[Problem] = ()
    """One problem for each sample that was found damaged on opening and is not among the samples."""
    notes: Sequence[str] = ()
    """Sentences on how it was opened, which the user should know."""
    about: Sequence[str] = ()
    """Sentences that describe its samples; `--inspect-data` prints them."""

    def field_notes(self, name: str) -> Sequence[str]:
        """Return sentences on a field of the batches, which the user should know where a step reads it."""
        return ()

    def name(self, index: int) -> str:
        """Return the name of a sample, for messages."""
        return str(index)

    def bucket_name(self, number: int) -> str:
        """Return the name of a bucket, for messages."""
        return str(number)

    def view(self, fields: Mapping[str, Any], number: int) -> Mapping[str, Any]:
        """Return form `number` of a batch, on whatever device its tensors are."""
        return fields

    def sizes(self) -> NDArray[np.int64] | None:
        """Return int64 [samples, 2]: width and height of each sample as it is stored, 0 where unknown."""
        return None


class Dataset(Protocol):
    """A class whose options describe the data and whose instances are called to open it."""

    def fields(self) -> Mapping[str, Field]:
        """Return the fields of a batch, known without opening anything."""

    def __call__(self) -> Source:
        """Open the source; raises DataError."""


class DatasetExtras(Extras):
    """Optional members of a dataset."""

    def overlap(self, label: str, other: str, trained: object) -> Problem | None:
        """Return a Problem where this dataset, labeled `label`, is held out and shares samples with another.

        Called where a model is measured on this dataset and trained on the dataset labeled `other`, whose options,
        of any type, are `trained`. Decide by the options alone; the recipe's location is added to the Problem.
        """


@frozen
class DatasetSettings:
    """The keys of a dataset's entry that belong to the recipe: they hold for steps that do not set their own."""

    batch_size: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Samples in a batch; it overrides `defaults`, and a step's own setting overrides it."""
    workers: int | None = field(default=None, validator=validators.optional([validators.ge(0), validators.le(1024)]))
    """Processes that read the data; it overrides `defaults`, and a step's own setting overrides it."""


DATASET = Kind(
    "dataset",
    "datasets",
    "an opened Source",
    Dataset,
    DatasetExtras,
    DatasetSettings,
    parameters=(),
    product=Product("source", Source, SourceExtras),
    key="my_{name}",
)
