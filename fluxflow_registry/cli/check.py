"""`--check`: shapes, device, datasets with one batch of each, and metrics, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fluxflow_registry.cli.invocation import Invocation, device_of
from fluxflow_registry.cli.output import Result
from fluxflow_registry.cli.train import warn_of_late_starts
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.opening import merge_problems, open_sources
from fluxflow_registry.engine.preflight.metrics import try_metrics
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.errors import DataError, Problem, table
from fluxflow_registry.plan.steps import RecipePlan


def check_command(invocation: Invocation) -> Result:
    """Check the recipe of the command line; raises FluxflowError with what is wrong."""
    plan = invocation.plan
    device_of(invocation.arguments.device)
    return check_run(plan)


def check_run(plan: RecipePlan) -> Result:
    """Prove everything that can be proven without training; returns the shapes and the number of samples."""
    shapes = prove_shapes(plan)
    sources = open_sources(plan)
    warn_of_late_starts(plan, sources)
    samples = {name: len(source) for name, source in sources.items()}
    unreadable: dict[str, Sequence[Problem]] = {}
    for name, source in sources.items():
        try:
            Reader(source, range(len(source)), 0).read(0, 1)
        except DataError as error:
            unreadable[name] = error.problems
    if unreadable:
        raise DataError(merge_problems(unreadable, plan.datasets))
    try_metrics(plan, sources)
    return Result(lambda: {"shapes": shapes, "samples": samples}, lambda: "\n".join(_lines(shapes, samples)))


def _lines(shapes: Mapping[str, Mapping[str, str]], samples: Mapping[str, int]) -> Iterator[str]:
    yield from ("the recipe is valid, all shapes fit, and all datasets can be read", "")
    for name, count in samples.items():
        yield f"dataset {name}: {count:,} samples"
    for step, values in shapes.items():
        yield from ("", f"step {step}", *table(values.items()))
