"""`--prove-resume`: the shortened recipe, run uninterrupted and run with kills, compared bit by bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import asdict, frozen

from fluxflow_registry.check.checker import check
from fluxflow_registry.cli.invocation import INTERRUPTED, STOPPED, Invocation
from fluxflow_registry.cli.output import Result, finish, load_plugins, say
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.folder import CHECKPOINTS
from fluxflow_registry.errors import Flag, FluxflowError, RecipeError, counted, table
from fluxflow_registry.hookspecs import hookimpl
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan, StepPlan
from fluxflow_registry.plan.updates import WhenMet
from fluxflow_registry.state.disk import writing

if TYPE_CHECKING:
    from fluxflow_registry.engine.run.observers import ObservedRun


@frozen
class Interruption:
    """Where a process is stopped or killed: its description, and the request that causes it."""

    description: str
    request: Mapping[str, int]


def prove_resume_command(invocation: Invocation) -> Result:
    """Run the proof; the exit code is 0 where all results are the same, 1 where something differs."""
    plan, arguments = invocation.plan, invocation.arguments
    if not hasattr(os, "fork"):
        message = "`--prove-resume` does not work on this system: it needs `fork` and SIGKILL"
        raise RecipeError(message, Flag("--prove-resume"), code="unsupported-system")
    root = Path(arguments.output)
    with writing("create the output folder", str(root)):
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".proof-", dir=root))
    request = {
        "recipe": str(Path(arguments.recipe).resolve()),
        "settings": arguments.set,
        "plugins": arguments.plugin,
        "device": arguments.device,
    }
    try:
        return _prove(plan, request, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prove(plan: RecipePlan, request: Mapping[str, Any], work: Path) -> Result:
    reference, interrupted = work / "reference", work / "interrupted"
    say(f"reference run: {counted(len(plan.steps), 'short step')}, uninterrupted")
    _run({**request, "folder": str(reference)}, None)
    trace = read_trace(reference)
    interruptions = plan_interruptions(trace)
    for interruption in interruptions:
        say(interruption.description)
        _run({**request, "folder": str(interrupted), "death": interruption.request}, interruption)
    say("resumed and trained to the end")
    _run({**request, "folder": str(interrupted)}, None)
    difference, counts = first_difference(reference, interrupted), counts_of(trace)
    explanation = explain(plan, difference) if difference else []
    rows = [f"    {number:>7,}  {what}" for what, number in counts.items() if number]
    same = [f"identical bit by bit, after {counted(len(interruptions), 'interruption')}:", *rows]
    data = {
        "same": difference is None,
        "interruptions": [each.description for each in interruptions],
        "compared": counts,
        "first": {"explanation": explanation, **asdict(difference)} if difference else None,
    }
    return Result(lambda: data, lambda: "\n".join(explanation or same), 1 if difference else 0)


def _run(request: dict[str, Any], interruption: Interruption | None) -> None:
    """Run one process; raises what it reports, or that it was not interrupted as planned."""
    folder = Path(request["folder"])
    folder.mkdir(exist_ok=True)
    output = folder.parent / "output.txt"
    import torch._dynamo  # noqa: F401  (its optimizers import it: once here, instead of in each process)

    process = get_context("fork").Process(target=run_and_exit, args=(request, output))
    process.start()
    try:
        process.join()
    except BaseException:  # its folder is removed, and Python would wait for it at exit
        process.kill()
        process.join()
        raise
    if process.exitcode in (-signal.SIGINT, INTERRUPTED):
        raise KeyboardInterrupt
    expected = 0 if interruption is None else STOPPED if "stop" in interruption.request else -signal.SIGKILL
    if process.exitcode != expected:
        code = process.exitcode or 0
        message = "a run of the proof failed"
        if interruption is not None:
            message = f"a run of the proof was not interrupted as planned: {interruption.description}"
        cause = ("cause", output.read_text().strip() or f"exit code {code}")
        error = FluxflowError(message, None, [cause], code="proof-failed")
        error.exit_code = 1 if interruption is not None or code < 0 else code
        raise error


def plan_interruptions(trace: Lines) -> list[Interruption]:
    """A stop in the first step, a kill in each step, and one while the checkpoint after it is written."""
    batches: dict[str, list[int]] = {}
    for what, step, at in trace:
        if what == "batch":
            batches.setdefault(step, []).append(at)
    found: list[Interruption] = []
    for step, at_batch in batches.items():
        for word, request, share in (("stopped", "stop", 3), ("killed", "batch", 5)):
            at = at_batch[max(len(at_batch) * share // 6 - 1, 0)]
            if word == "killed" or (not found and len(at_batch) > 2):
                description = f"{word} after {counted(at - at_batch[0] + 1, 'batch')} of step `{step}`"
                found.append(Interruption(description, {request: at}))
    return [*found, Interruption("killed while writing the next checkpoint", {"checkpoint": 1})]


class Death:
    """Ends the process after a batch of the run: at once, as a power cut does, or by a stop, as a signal does."""

    def __init__(self, run_batch: int, stop: bool) -> None:
        self.run_batch, self.stop = run_batch, stop

    @hookimpl(trylast=True)
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Kill the process, or request a stop, if this is the batch."""
        if position.run_batch == self.run_batch and self.stop:
            run.engine.stopping = "the proof"
        elif position.run_batch == self.run_batch:
            os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(number: int) -> None:
    """Kill the process within the n-th checkpoint that it writes, when half of a file is on the disk."""
    from fluxflow_registry.state import checkpoints, disk

    write = disk.write
    started: set[Path] = set()

    def write_or_die(path: Path, parts: Any, synced: bool = True) -> dict[str, Any]:
        if path.parent.parent.name == CHECKPOINTS:
            started.add(path.parent)
        if len(started) == number and path.name == checkpoints.STATE:
            content = b"".join(bytes(part) for part in parts)
            write(path, [content[: len(content) // 2]])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(path, parts, synced)

    disk.write = write_or_die


def run_shortened(request: dict[str, Any]) -> int:
    """Run the shortened recipe as requested; returns the exit code."""
    registry = load_plugins(request["plugins"])
    checked = check(request["recipe"], registry, request["settings"])
    from fluxflow_registry.cli.invocation import device_of
    from fluxflow_registry.engine.data.opening import open_sources
    from fluxflow_registry.engine.diagnosis.proof import Trace, shortened
    from fluxflow_registry.engine.run.folder import RunFolder
    from fluxflow_registry.engine.run.loop import train
    from fluxflow_registry.engine.run.run import Run
    from fluxflow_registry.engine.run.stopping import Stopped

    short = shortened(checked)
    folder = RunFolder(Path(request["folder"]), "proof")
    run = Run(short, folder, open_sources(short), device_of(request["device"]))
    run.observers.register(Trace(folder.path / "trace.jsonl"))
    death = request.get("death", {})
    if "batch" in death or "stop" in death:
        run.observers.register(Death(death.get("batch") or death["stop"], stop="stop" in death))
    if "checkpoint" in death:
        die_while_writing(death["checkpoint"])
    try:
        train(run)
    except Stopped:
        return STOPPED
    return 0


def run_and_exit(request: dict[str, Any], output: Path) -> NoReturn:
    """In the process: print to a file, and exit with the exit code of the run.

    If the command is killed, the process removes the folder and ends.
    """
    from fluxflow_registry.engine.data.processes import watch_parent

    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    watch = watch_parent(partial(_remove_and_exit, output.parent))
    try:
        finish(lambda: run_shortened(request), as_json=False)
    finally:
        parent = parent_process()
        if parent is not None and not parent.is_alive():  # a run fails once its folder is gone
            watch.join()


def _remove_and_exit(folder: Path) -> NoReturn:
    for _ in range(100):  # the run may be writing
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            break
    os._exit(INTERRUPTED)


#: (what, step, batches of the run before it) of each line of a trace, with its entries (kind, name, digest).
Lines = dict[tuple[str, str, int], list[list[str]]]


@frozen
class Difference:
    """The first thing in which two runs differ."""

    step: str
    batch: int
    #: What its line of the trace is about: a batch, a transition, an evaluation; or the final models.
    what: str
    #: Whether it is a field, a value, a loss, a part of the state, and so on; and its name among those.
    kind: str
    name: str
    #: What models keep outside their state dicts and what differs there too, as `<model>.<attribute>`.
    hidden: tuple[str, ...] = ()
    #: The models that returned something else for what they had received, where that was watched.
    models: tuple[str, ...] | None = None


def read_trace(folder: Path) -> Lines:
    """The lines of a trace; of a batch that was trained several times the first one."""
    lines: Lines = {}
    for line in trace_lines(folder):
        lines.setdefault((line["what"], line["step"], line["at"]), line["entries"])
    return lines


def trace_lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line of a trace, in the order of writing; one that a kill has truncated is skipped."""
    for line in (folder / "trace.jsonl").read_text().splitlines():
        with suppress(ValueError):
            yield json.loads(line)


def first_difference(reference: Path, interrupted: Path) -> Difference | None:
    """The first difference of any process of the interrupted run, or else of the finished models."""
    return _in_traces(read_trace(reference), trace_lines(interrupted)) or _in_models(reference, interrupted)


def _in_traces(reference: Lines, interrupted: Iterable[dict[str, Any]]) -> Difference | None:
    order = {key: number for number, key in enumerate(reference)}
    found, seen = [], set()
    for line in interrupted:
        key = (line["what"], line["step"], line["at"])
        seen.add(key)
        expected = {(kind, name): digest for kind, name, digest in reference.get(key, ())}
        actual = {(kind, name): digest for kind, name, digest in line["entries"]}
        names = dict.fromkeys([*expected, *actual])
        differing = [each for each in names if expected.get(each) != actual.get(each)]
        first = next((each for each in differing if each[0] not in EXPLAINING), None)
        if first is not None:
            hidden = tuple(name for kind, name in differing if kind == "hidden")
            models = _differing_models(first[1], expected, actual)
            difference = Difference(line["step"], line["batch"], line["what"], *first, hidden, models)
            found.append((order.get(key, len(order)), difference))
    missing = [key for key in reference if key not in seen]
    found += [(order[key], Difference(key[1], key[2], key[0], "missing", "")) for key in missing]
    return min(found, key=lambda item: item[0])[1] if found else None


#: Kinds of entries that may differ without harm.
EXPLAINING = ("hidden", "called")

Entries = Mapping[tuple[str, str], str]


def _differing_models(caller: str, expected: Entries, actual: Entries) -> tuple[str, ...] | None:
    """The models that returned something else to a value or a loss for the same inputs; None where it called none."""
    calls = [entry for entry in expected if entry[0] == "called" and entry[1].startswith(f"{caller}>")]
    found = []
    for call in calls:
        (inputs, outputs), (other_inputs, other_outputs) = expected[call].split(), actual.get(call, "- -").split()
        if inputs == other_inputs and outputs != other_outputs:
            found.append(call[1].split(">")[1])
    return tuple(dict.fromkeys(found)) if calls else None


def _in_models(reference: Path, interrupted: Path) -> Difference | None:
    expected, actual = _digests(reference / "final"), _digests(interrupted / "final")
    differing = [file for file in sorted({*expected, *actual}) if expected.get(file) != actual.get(file)]
    return Difference("", 0, "final", "file", differing[0]) if differing else None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def counts_of(trace: Lines) -> dict[str, int]:
    """How many things of each sort a trace compares."""
    names = {"field": "fields", "value": "values", "loss": "losses", "metric": "metrics of evaluations"}
    entries = [entry for line in trace.values() for entry in line]
    counts = {"batches": sum(what == "batch" for what, _, _ in trace)}
    counts["samples"] = sum(len(json.loads(digest)) for kind, _, digest in entries if kind == "samples")
    counts.update({label: sum(kind == each for kind, _, _ in entries) for each, label in names.items()})
    counts["tensors and counters of weights, optimizers, averages"] = sum(kind == "state" for kind, _, _ in entries)
    return counts


HIDDEN = "it keeps state outside checkpoints, or uses random numbers of its own:\n"

STATEFUL = """take random numbers from `generator`, return the state kept between batches from `state_dict`,
and restore it in `load_state_dict`"""

#: Kinds whose components may keep nothing between calls, since their state is never saved: what to do instead.
STATELESS = {
    "metric": """take random numbers from `generator`, and keep no state from one call to the next:
a metric must depend only on the values that it receives""",
    "dataset": """keep no state from one batch to the next: a sample must depend only on its index,
and its random part only on the index and the seed""",
    "model": """draw random numbers with torch, whose generators are seeded before each call,
and keep in a buffer (`register_buffer`) what has to last from one batch to the next""",
}


def explain(plan: RecipePlan, difference: Difference) -> list[str]:
    """What differs first, which component causes it, and why."""
    if difference.kind == "file":
        return [f"a resumed run ends differently: `final/{difference.name}` differs"]
    where = f"at batch {difference.batch} of step `{difference.step}`"
    if difference.kind == "missing":
        return [f"a resumed run differs: {difference.what} {where} is missing"]
    return [f"a resumed run differs {where}", *blame(plan, difference)]


def blame(plan: RecipePlan, difference: Difference) -> list[str]:
    """Lines that name what differs, its component with plugin and location, and the likely cause."""
    step = plan.step(difference.step)
    what, configured = _component(plan, step, difference)
    rows = [("first     ", what)]  # as wide as the widest label, also alone
    if configured is not None:
        component = configured.component
        rows += [("component", f"{component.kind} `{component.name}`"), ("defined in", str(component.where))]
        rows += [("plugin", str(component.plugin)), ("likely", HIDDEN + STATELESS.get(component.kind, STATEFUL))]
        unknown = component.kind != "model" and difference.models is None
        called = _models_called(step, difference) if unknown else []
        rows += [("or", f"model {' or '.join(f'`{name}`' for name in called)}, which it calls")] if called else []
    return table(rows)


def _models_called(step: StepPlan, difference: Difference) -> list[str]:
    """The models that the value or the loss that differs calls."""
    needs: Mapping[str, str] = {}
    if difference.kind == "value":
        needs = step.values[difference.name].needs
    elif difference.kind == "loss":
        update, _, label = difference.name.partition("/")
        needs = step.updates[update].losses[label].needs
    return [name for name in needs.values() if step.values[name].source == "model"]


def _guilty_model(step: StepPlan, difference: Difference) -> str | None:
    """The model because of which a value or a loss differs: it was seen to, or what it hides differs too."""
    if difference.models is not None:
        return next(iter(difference.models), None)
    keeping = {name.partition(".")[0] for name in difference.hidden}
    return next((name for name in _models_called(step, difference) if name in keeping), None)


def _component(plan: RecipePlan, step: StepPlan, difference: Difference) -> tuple[str, ConfiguredComponent | None]:
    kind, name = difference.kind, difference.name
    model = _guilty_model(step, difference)
    if model is not None:
        kept = next((each for each in difference.hidden if each.startswith(f"{model}.")), None)
        why = f": its `{kept.partition('.')[2]}` differs" if kept else ", from the same inputs"
        return f"{kind} `{name}`, which calls model `{model}`{why}", plan.models[model]
    dataset = plan.datasets.get(step.settings.dataset)
    if kind == "samples":
        return "the batch contains different samples", dataset
    if kind == "field":
        return f"field `{name}` of the same samples", dataset
    if kind == "value":
        return f"value `{name}`, from the same inputs", step.providers.get(name)
    if kind == "loss":
        update, _, label = name.partition("/")
        loss = step.updates[update].losses.get(label)
        return f"loss `{name}`, from the same values", loss.component if loss else None
    if kind == "total":
        return f"the weighted sum of update `{name}`, from the same losses", step.updates[name].balancer
    if kind == "metric":
        evaluation, _, metric = name.partition("/")
        return f"metric `{name}`, from the same weights", step.evaluations[evaluation].metrics.get(metric)
    if kind in ("returned", "kept"):
        part, _, attribute = name.rpartition(".") if kind == "kept" else (name, "", "")
        transition = step.components[part]
        does = f"keeps in `{attribute}`" if attribute else "returns after the epoch"
        return f"what transition `{transition.name}` {does}", transition
    section, _, part = name.partition(".")
    if section == "update" and part.removesuffix(".lr") in step.updates:
        moved = step.updates[part.removesuffix(".lr")]
        return f"the learning rate of update `{moved.name}`", moved.scheduler or moved.optimizer
    return f"`{name}`", _of_state(plan, step, name)


def _of_state(plan: RecipePlan, step: StepPlan, name: str) -> ConfiguredComponent | None:
    """The component behind a part of the state, such as `update.vae.optimizer.state.0.exp_avg`."""
    section, _, rest = name.partition(".")
    part, _, key = rest.partition(".")
    if section == "update" and part in step.updates:
        update = step.updates[part]
        kept, _, label = key.partition(".")
        start = update.starts.get(label)
        if kept == "starts" and isinstance(start, WhenMet):
            return start.condition
        owners = {"optimizer": update.optimizer, "scheduler": update.scheduler, "weigher": update.balancer}
        return owners.get(kept, update.optimizer)
    if section == "buffer":  # which the model changes itself
        return plan.models.get(part)
    if section == "model":
        trained = [update for update in step.updates.values() if part in update.trains]
        return trained[0].optimizer if trained else plan.models.get(part)
    # As `component.loss.vae.kl.count` belongs to `loss.vae.kl`.
    owning = [known for known in step.components if section == "component" and f"{rest}.".startswith(f"{known}.")]
    return step.components[max(owning, key=len)] if owning else None
