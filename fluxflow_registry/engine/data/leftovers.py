"""Samples of a dataset on which a step does not train, in words: damaged ones, and those that fill no batch."""

from __future__ import annotations

from collections.abc import Sequence

from fluxflow_registry.contracts import Source, SourceExtras
from fluxflow_registry.engine.data.order import BatchCounts, batch_counts, buckets_of
from fluxflow_registry.errors import Problem, counted

#: How many damaged samples a warning names.
NAMED = 8


def unused_samples(source: Source, batch_size: int) -> list[str]:
    """What a source notes about its samples, and which of them a step with this batch size never trains on."""
    extras = SourceExtras.of(source)
    damaged = extras.left_out
    sentences = [*extras.notes, *([damaged_at_opening(damaged)] if damaged else [])]
    unfilled = leftovers(batch_counts(source, batch_size)) if buckets_of(source) is not None else None
    return [*sentences, unfilled] if unfilled else sentences


def damaged_at_opening(problems: Sequence[Problem]) -> str:
    """How many samples were found damaged when the dataset was opened, and the first of them by name."""
    shown = [f"    {line}" for problem in problems[:NAMED] for line in str(problem).splitlines()]
    more = [f"    and {len(problems) - NAMED:,} more"] if len(problems) > NAMED else []
    listed = "    `fluxflow-run RECIPE --inspect-data` lists all of them"
    return "\n".join([f"skipped {counted(len(problems), 'damaged sample')}", *shown, *more, listed])


def leftovers(counts: BatchCounts) -> str | None:
    """How many samples fill no batch of an epoch, and which buckets fill none at all; None where all are trained on."""
    if not counts.left_over:
        return None
    message = f"an epoch skips {counts.left_over:,} of {counted(sum(counts.samples), 'sample')}: they fill no batch"
    never = [
        f"{name} ({samples:,})"
        for name, samples, batches in zip(counts.names, counts.samples, counts.batches, strict=True)
        if samples and not batches
    ]
    if never:
        message += f"; buckets with fewer than {counts.batch_size} samples are never trained on: {', '.join(never)}"
    return message
