"""`--inspect-data`: what is in the datasets of a recipe, as text, as JSON and as contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from attrs import asdict, frozen
from torch import Tensor

from fluxflow_registry.cli.invocation import Invocation
from fluxflow_registry.cli.output import Result, say, say_note
from fluxflow_registry.contracts import Field, Source
from fluxflow_registry.engine.data import survey as surveys
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.data.order import epoch_order
from fluxflow_registry.engine.images import contact_sheet
from fluxflow_registry.engine.run.folder import require_folders
from fluxflow_registry.errors import (
    Flag,
    FluxflowError,
    Problem,
    RecipeError,
    RunError,
    counted,
    one_line,
    printable,
    table,
)
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state.disk import write_file, writing

#: Samples of a dataset that are read by default.
SAMPLES = 10_000

#: Images on a contact sheet.
SHEET = 32

#: Pixels of the square into which each of them is fitted.
SIDE = 160

#: Damaged samples that are named in the text; JSON has all of them.
NAMED = 24


@frozen
class Inspected:
    """What is reported of one dataset."""

    type: str
    fields: Mapping[str, Field]
    survey: surveys.Survey
    uses: tuple[surveys.StepUse, ...]
    measured: tuple[surveys.EvaluationUse, ...]
    sheet: Path | None


def inspect_data_command(invocation: Invocation) -> Result:
    """Open, read and describe every dataset; raises FluxflowError for those that cannot be opened."""
    plan, samples = invocation.plan, invocation.arguments.samples
    samples = SAMPLES if samples is None else samples
    if samples < 1:
        raise RecipeError(f"`--samples` must be at least 1, got {samples}", Flag("--samples"), code="out-of-range")
    folder = Path(invocation.arguments.output) / f"inspect-{plan.recipe.name}"
    require_folders([folder.parent, folder])
    found = {}
    for name, source in open_sources(plan, fill_batches=False).items():
        say(f"reading {counted(min(samples, len(source)), 'sample')} of dataset `{name}`")
        found[name] = inspected(plan, name, source, folder, samples)
    return Result(lambda: data(found), lambda: "\n\n".join(text(name, each) for name, each in found.items()))


def inspected(checked: RecipePlan, name: str, source: Source, folder: Path, samples: int) -> Inspected:
    """Everything that is reported of one dataset; writes its contact sheet."""
    dataset = checked.datasets[name]
    seed = checked.recipe.seed
    settings = {step.name: step.settings for step in checked.steps if step.settings.dataset == name}
    uses = [surveys.step_use(source, step, name, s.batch_size, s.max_steps, seed) for step, s in settings.items()]
    order: list[int] = []
    if settings:
        step, first = next(iter(settings.items()))
        order = epoch_order(source, first.batch_size, (seed, step, name, 0)).tolist()[:SHEET]
    try:
        survey = surveys.survey(source, samples)
        sheet = _sheet_of(source, order or range(min(SHEET, len(source))), folder / f"{name}.png")
    except FluxflowError:
        raise
    except Exception as error:
        message = f"dataset `{name}` failed to read its samples: {one_line(error)}"
        raise FluxflowError(message, dataset.where, code="component-failed", subject=name) from error
    measured = [
        surveys.EvaluationUse(step.name, label, min(each.settings.samples, len(source)))
        for step in checked.steps
        for label, each in step.evaluations.items()
        if each.settings.dataset == name
    ]
    fields = dict(dataset.instance.fields())
    return Inspected(dataset.component.name, fields, survey, tuple(uses), tuple(measured), sheet)


def _sheet_of(source: Source, indices: Sequence[int], file: Path) -> Path | None:
    """Write the contact sheet of a dataset; where that fails, print a note, as the survey is still shown."""
    try:
        return write_sheet(source, indices, file)
    except RunError as error:
        say_note(f"{error}; choose another folder with --output")
        return None


def write_sheet(source: Source, indices: Sequence[int], file: Path) -> Path | None:
    """Write the samples that have an image, with their captions; None if none has."""
    cells: dict[int, tuple[Tensor, str]] = {}
    for read, fields in surveys.read_undamaged(source, indices, {}):
        image = fields.get("image")
        if isinstance(image, Tensor) and image.ndim == 4 and image.shape[1] == 3:
            texts = next((field for field in fields.values() if isinstance(field, list)), [""] * len(read))
            cells.update(zip(read, zip(image, map(str, texts), strict=True), strict=True))
    shown = [cells[index] for index in indices if index in cells]
    if not shown:
        return None
    with writing("write the contact sheet", str(file)):
        sheet, stream = contact_sheet([[i] for i, _ in shown], [caption for _, caption in shown], side=SIDE), BytesIO()
        sheet.save(stream, "PNG")
        write_file(file, stream.getvalue())
    return file


def data(found: Mapping[str, Inspected]) -> dict[str, Any]:
    """The report as JSON."""
    return {
        name: {
            **asdict(each),
            "survey": {
                **asdict(each.survey),
                "damaged": [problem.as_json() for problem in each.survey.damaged],
                "left_out": [problem.as_json() for problem in each.survey.left_out],
            },
            "sheet": str(each.sheet) if each.sheet else None,
        }
        for name, each in found.items()
    }


def text(name: str, found: Inspected) -> str:
    """The report on one dataset as text."""
    seen = found.survey
    less = f", and {len(seen.left_out):,} left out" if seen.left_out else ""
    lines = [f"dataset {name} ({found.type}): {counted(seen.samples, 'sample')}{less}"]
    rows: list[tuple[str, str]] = [("note", note) for note in seen.notes]
    rows += [(f"field {key}", _field(field)) for key, field in found.fields.items()]
    rows += [("images", _stored(seen.stored))] if seen.stored is not None else []
    rows += [(f"bucket {bucket}", counted(number, "sample")) for bucket, number in seen.buckets.items()]
    for each in found.uses:
        rows += _use(each, bool(seen.buckets))
    for use in found.measured:
        of = f"{use.samples:,} of {counted(seen.samples, 'sample')}"
        rows.append((f"step {use.step}", f"evaluation {use.evaluation} uses {of}"))
    if not found.uses and not found.measured:
        rows.append(("steps", "no step or evaluation uses it"))
    rows += [row for key, texts in seen.texts.items() for row in _texts(key, texts)]
    lines += table((head, printable(text)) for head, text in rows)  # captions of several lines on one
    if seen.left_out:
        lines += [f"    {len(seen.left_out):,} left out (damaged or without a caption):", *_named(seen.left_out)]
    if seen.damaged:
        taken = len(seen.damaged) < seen.samples  # otherwise there is nothing to replace them
        what = "cannot be read and will be replaced by others" if taken else "cannot be read"
        lines += [f"    {counted(len(seen.damaged), 'sample')} {what}:", *_named(seen.damaged)]
    lines += [f"    {_readable(seen)}"] if seen.read else []
    lines += [f"    contact sheet: {found.sheet}"] if found.sheet else []
    return "\n".join(lines)


def _readable(seen: surveys.Survey) -> str:
    """How many of the samples that were read can be read."""
    none = len(seen.damaged) == seen.read
    if seen.read < seen.samples:
        which = "none" if none else "all others" if seen.damaged else "all"
        some = f"{seen.read:,} of {counted(seen.samples, 'sample')}, evenly spaced, were checked"
        return f"{some}: {which} can be read; set --samples to check more"
    if none:
        return "none can be read"
    return f"all {'others' if seen.damaged or seen.left_out else 'samples'} can be read"


def _field(field: Field) -> str:
    shape = "text" if field.shape is None else f"{field.dtype} {list(field.shape)}"
    more = f" or {', '.join(str(list(other)) for other in field.also)}" if field.also else ""
    return f"{shape}{more}: {field.meaning}"


def _stored(stored: surveys.StoredSizes) -> str:
    sizes = (stored.smallest, stored.median, stored.largest)
    smallest, median, largest = (f"{width:,} x {height:,}" for width, height in sizes)
    unknown = f"; the size of {stored.unknown:,} is unknown" if stored.unknown else ""
    if smallest == largest:
        return f"all stored as {smallest}{unknown}"
    return f"stored as {smallest} to {largest}, median {median}{unknown}"


def _use(use: surveys.StepUse, bucketed: bool) -> list[tuple[str, str]]:
    views = f", each in {use.views} sizes" if use.views > 1 else ""
    rows = [(f"step {use.step}", f"{counted(use.batches, 'batch')} of {use.filling.batch_size} in an epoch{views}")]
    if bucketed:
        by_bucket = zip(use.filling.names, use.filling.batches, strict=True)
        rows.append(("", "per bucket " + ", ".join(f"{name}: {number:,}" for name, number in by_bucket)))
    if not use.batches:
        return [*rows, ("", f"too few samples for a batch of {use.filling.batch_size}, so training will not start")]
    left = surveys.leftovers(use.filling)
    rows += [("", left)] if left else []
    return rows + ([("", f"starts with the samples {', '.join(use.first)}")] if use.first else [])


def _texts(field: str, texts: surveys.TextStatistics) -> list[tuple[str, str]]:
    """The statistics of the texts of a field, one per row."""
    if texts.empty == texts.number:
        return [(field, "empty in every sample")]
    longest = f"{texts.longest:,} at most (sample {texts.longest_name})"
    rows = [f"{counted(round(texts.mean), 'character')} on average, {longest}"]
    rows += [f"{texts.empty:,} of {texts.number:,} are empty"] if texts.empty else []
    if texts.repeated:
        rows.append(f"{texts.repeated:,} of {texts.number:,} occur more than once, such as")
        shown = [(words if len(words) <= 60 else f"{words[:57]}...", number) for words, number in texts.commonest]
        rows += [f"{number:,} times `{words}`" for words, number in shown]
    else:
        rows.append("all are different")
    return [(field, rows[0]), *(("", row) for row in rows[1:])]


def _named(problems: Sequence[Problem]) -> list[str]:
    return surveys.lines_of_first(problems, NAMED, " " * 8, ", listed by --json")
