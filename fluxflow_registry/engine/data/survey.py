"""What is in a dataset: samples, sizes, buckets, captions, and which samples are never trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import frozen

from fluxflow_registry.contracts import Source, SourceExtras
from fluxflow_registry.engine.data.order import BatchCounts, batch_counts, buckets_of, epoch_order, names_of, views_of
from fluxflow_registry.errors import Problem, SampleError, counted
from fluxflow_registry.plan.steps import StepPlan
from fluxflow_registry.plan.values import ValuePlan

#: Samples that are read in one call.
AT_ONCE = 64

#: How many of the first samples of an epoch are named.
FIRST = 8

#: How many damaged samples a warning names.
NAMED = 8


@frozen
class TextStatistics:
    """Statistics of the texts of one field: how many are empty or equal to another, the longest, the commonest."""

    number: int
    empty: int
    repeated: int
    longest: int
    longest_name: str
    mean: float
    commonest: tuple[tuple[str, int], ...]


@frozen
class StoredSizes:
    """Sizes of the images as they are stored: (width, height) by area, and of how many the size is unknown."""

    smallest: tuple[int, int]
    median: tuple[int, int]
    largest: tuple[int, int]
    unknown: int


@frozen
class StepUse:
    """How one step uses a dataset: its batches, and the samples that its first epoch starts with."""

    step: str
    filling: BatchCounts
    views: int
    batches: int
    first: tuple[str, ...]


@frozen
class EvaluationUse:
    """How one evaluation of a step uses a dataset: the number of samples that it measures on."""

    step: str
    evaluation: str
    samples: int


@frozen
class Survey:
    """What is in a dataset of which `read` samples were read."""

    samples: int
    read: int
    notes: tuple[str, ...]
    left_out: tuple[Problem, ...]
    damaged: tuple[Problem, ...]
    stored: StoredSizes | None
    buckets: Mapping[str, int]
    texts: Mapping[str, TextStatistics]


def survey(source: Source, most: int) -> Survey:
    """Read and count samples, at most `most` and evenly spread; damaged ones are listed and skipped."""
    chosen = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).round().astype(np.int64))
    damaged: dict[int, Problem] = {}
    texts: dict[str, dict[int, str]] = {}
    for indices, fields in read_undamaged(source, chosen, damaged):
        for name, field in fields.items():
            if isinstance(field, list):
                texts.setdefault(name, {}).update(zip(indices, map(str, field), strict=True))
    filling = batch_counts(source, 1)
    extras = SourceExtras.of(source)
    return Survey(
        samples=len(source),
        read=len(chosen),
        notes=(*extras.about, *extras.notes),
        left_out=tuple(extras.left_out),
        damaged=tuple(damaged[index] for index in sorted(damaged)),
        stored=stored_sizes(extras.sizes()),
        buckets={} if extras.buckets is None else dict(zip(filling.names, filling.samples, strict=True)),
        texts={name: text_statistics(source, of) for name, of in texts.items()},
    )


def step_use(source: Source, step: str, dataset: str, batch_size: int, max_steps: int | None, seed: int) -> StepUse:
    """How a step uses a dataset."""
    counts = batch_counts(source, batch_size)
    order = epoch_order(source, batch_size, (seed, step, dataset, 0))
    first = tuple(names_of(source, order[:FIRST].tolist()))
    return StepUse(step, counts, views_of(source), counts.in_epoch(max_steps), first)


def read_undamaged(
    source: Source, chosen: Sequence[int] | np.ndarray[Any, Any], damaged: dict[int, Problem]
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The samples that can be read, in batches of one bucket each; adds the others to `damaged`."""
    buckets = buckets_of(source)
    groups: dict[int, list[int]] = {}
    for index in map(int, chosen):
        groups.setdefault(0 if buckets is None else int(buckets[index]), []).append(index)
    for group in groups.values():
        for start in range(0, len(group), AT_ONCE):
            remaining = group[start : start + AT_ONCE]
            while remaining:
                try:
                    yield remaining, source.batch(remaining, 0)
                    break
                except SampleError as error:
                    failed = {index: error.samples[index] for index in remaining if index in error.samples}
                    if not failed:
                        raise
                    damaged.update(failed)
                    remaining = [index for index in remaining if index not in failed]


def stored_sizes(sizes: np.ndarray[Any, Any] | None) -> StoredSizes | None:
    """Statistics of int64 [n, 2], widths and heights; None if all are unknown."""
    if sizes is None or not len(known := sizes[(sizes > 0).all(axis=1)]):
        return None
    by_area = known[np.lexsort((known[:, 0], known[:, 0] * known[:, 1]))]  # then by width: portraits differ from others
    smallest, median, largest = (tuple(map(int, by_area[at])) for at in (0, len(by_area) // 2, -1))
    return StoredSizes(smallest, median, largest, len(sizes) - len(known))  # type: ignore[arg-type]


def text_statistics(source: Source, texts: Mapping[int, str]) -> TextStatistics:
    """Statistics of the texts of one field, given by sample."""
    counts = Counter(text for text in texts.values() if text.strip())
    longest = max(texts, key=lambda index: len(texts[index]))
    return TextStatistics(
        number=len(texts),
        empty=sum(not text.strip() for text in texts.values()),
        repeated=sum(count for count in counts.values() if count > 1),
        longest=len(texts[longest]),
        longest_name=names_of(source, [longest])[0],
        mean=sum(map(len, texts.values())) / len(texts),
        commonest=tuple((text, count) for text, count in counts.most_common(3) if count > 1),
    )


def data_notes(step: StepPlan, sources: Mapping[str, Source]) -> list[str]:
    """What a user should know about the data of a step, each sentence once and with its dataset.

    These are the notes of the datasets that it trains and measures on, those on the fields that it reads there, the
    samples that were found damaged, and the samples that fill no batch.
    """
    trained = step.settings.dataset
    notes = _notes_of(trained, sources, step.values)
    if buckets_of(sources[trained]) is not None:
        unfilled = leftovers(batch_counts(sources[trained], step.settings.batch_size))
        notes += [f"dataset `{trained}`: {unfilled}"] if unfilled else []
    for evaluation in step.evaluations.values():
        notes += _notes_of(evaluation.settings.dataset, sources, evaluation.values)
    return list(dict.fromkeys(notes))


def _notes_of(dataset: str, sources: Mapping[str, Source], values: Mapping[str, ValuePlan]) -> list[str]:
    extras = SourceExtras.of(sources[dataset])
    sentences = [*extras.notes, *([damaged_at_opening(extras.left_out)] if extras.left_out else [])]
    for name in sorted(name for name, value in values.items() if value.source == "field"):
        sentences += extras.field_notes(name)
    return [f"dataset `{dataset}`: {sentence}" for sentence in sentences]


def damaged_at_opening(problems: Sequence[Problem]) -> str:
    """How many samples were found damaged when the dataset was opened, and the first of them by name."""
    shown = lines_of_first(problems, NAMED, " " * 4)
    listed = "    `fluxflow-run RECIPE --inspect-data` lists all of them"
    return "\n".join([f"skipped {counted(len(problems), 'damaged sample')}", *shown, listed])


def lines_of_first(problems: Sequence[Problem], most: int, margin: str, ending: str = "") -> list[str]:
    """The lines of the first problems, and how many more there are."""
    lines = [f"{margin}{line}" for problem in problems[:most] for line in str(problem).splitlines()]
    return lines + ([f"{margin}and {len(problems) - most:,} more{ending}"] if len(problems) > most else [])


def leftovers(counts: BatchCounts) -> str | None:
    """How many samples fill no batch of an epoch, and which buckets fill none at all; None where all are trained on."""
    if not counts.left_over:
        return None
    samples = counted(sum(counts.samples), "sample")
    message = f"an epoch skips {counts.left_over:,} of {samples}: they do not fill a batch"
    never = [
        f"{name} ({number:,})"
        for name, number, batches in zip(counts.names, counts.samples, counts.batches, strict=True)
        if number and not batches
    ]
    if never:
        message += f"; buckets with fewer than {counts.batch_size} samples are never trained on: {', '.join(never)}"
    return message
