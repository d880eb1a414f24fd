"""`--check`: shapes, device, datasets with one batch of each, and metrics, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from fluxflow_registry.check.notes import value_notes
from fluxflow_registry.cli.invocation import Invocation, device_of
from fluxflow_registry.cli.output import Result, say_notes
from fluxflow_registry.cli.train import warn_of_lengths
from fluxflow_registry.engine.data.batches import Reader
from fluxflow_registry.engine.data.opening import merge_problems, open_sources
from fluxflow_registry.engine.models.build import build_on_meta
from fluxflow_registry.engine.preflight.metrics import try_metrics
from fluxflow_registry.engine.preflight.precision import precision_notes
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.errors import DataError, Problem, table
from fluxflow_registry.plan.steps import RecipePlan


def check_command(invocation: Invocation) -> Result:
    """Check the recipe of the command line; raises FluxflowError with what is wrong."""
    plan = invocation.plan
    say_notes([*value_notes(plan), *precision_notes(plan, device_of(invocation.arguments.device))])
    return check_run(plan)


def check_run(plan: RecipePlan) -> Result:
    """Prove everything that can be proven without training; returns shapes, and numbers of samples and parameters."""
    shapes = prove_shapes(plan)
    sources = open_sources(plan)
    warn_of_lengths(plan, sources)
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
    parameters = {name: parameter_counts(model) for name, model in build_on_meta(plan.models).items()}
    data = {"shapes": shapes, "samples": samples, "parameters": parameters}
    return Result(lambda: data, lambda: "\n".join(_lines(shapes, samples, parameters)))


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """How many numbers a model has in all its parameters, and in those that its builder has frozen."""
    parameters = list(model.parameters())
    frozen = sum(each.numel() for each in parameters if not each.requires_grad)
    return {"all": sum(each.numel() for each in parameters), "frozen": frozen}


def _lines(
    shapes: Mapping[str, Mapping[str, str]], samples: Mapping[str, int], parameters: Mapping[str, Mapping[str, int]]
) -> Iterator[str]:
    yield from ("the recipe is valid, all shapes fit, and all datasets can be read", "")
    for name, count in samples.items():
        yield f"dataset {name}: {count:,} samples"
    for name, counts in parameters.items():
        frozen = f", {counts['frozen']:,} of them frozen" if counts["frozen"] else ""
        yield f"model {name}: {counts['all']:,} parameters{frozen}"
    for step, values in shapes.items():
        yield from ("", f"step {step}", *table(values.items()))
