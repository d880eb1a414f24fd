"""`--check`: shapes, device, datasets with one batch of each, and metrics, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from fluxflow_registry.check.notes import value_notes
from fluxflow_registry.cli.invocation import Invocation, device_of
from fluxflow_registry.cli.output import Result, say_notes
from fluxflow_registry.cli.train import warn_of_lengths
from fluxflow_registry.engine.data.survey import data_notes
from fluxflow_registry.engine.models.build import frozen_parameters
from fluxflow_registry.engine.preflight.everything import try_everything
from fluxflow_registry.engine.preflight.precision import precision_notes
from fluxflow_registry.errors import table
from fluxflow_registry.plan.steps import RecipePlan

CPU = torch.device("cpu")


def check_command(invocation: Invocation) -> Result:
    """Check the recipe of the command line; raises FluxflowError with what is wrong."""
    plan, device = invocation.plan, device_of(invocation.arguments.device)
    say_notes([*value_notes(plan), *precision_notes(plan, device)])
    return check_run(plan, device)


def check_run(plan: RecipePlan, device: torch.device = CPU) -> Result:
    """Try everything that can be tried without training; returns shapes, numbers, and notes on the data."""
    tried = try_everything(plan, device)
    shapes, sources = tried.shapes, tried.sources
    warn_of_lengths(plan, sources)
    notes = list(dict.fromkeys(note for step in plan.steps for note in data_notes(step, sources)))
    say_notes(notes)
    samples = {name: len(source) for name, source in sources.items()}
    parameters = {name: parameter_counts(model) for name, model in tried.models.items()}
    data = {"shapes": shapes, "samples": samples, "parameters": parameters, "notes": notes}
    return Result(lambda: data, lambda: "\n".join(_lines(shapes, samples, parameters)))


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """How many numbers a model has in all its parameters, and in those that its builder has frozen."""
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {"all": sum(counts.values()), "frozen": sum(counts[name] for name in frozen_parameters(model))}


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
