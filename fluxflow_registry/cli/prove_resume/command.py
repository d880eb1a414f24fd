"""`--prove-resume`: a shortened run of the recipe without interruption and one with kills, compared bit by bit."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.cli.output import emit, emit_json, say
from fluxflow_registry.cli.prove_resume.process import run_and_exit
from fluxflow_registry.cli.signals import INTERRUPTED, STOPPED
from fluxflow_registry.errors import FluxflowError, Problem, RunError, counted
from fluxflow_registry.plan.steps import RecipePlan

#: (what, step, batches of the run before it): a line of a trace, and what it records as (kind, name, digest).
Lines = dict[tuple[str, str, int], list[list[str]]]


@frozen
class Death:
    """Where a process is interrupted: a description, and the request that causes it."""

    description: str
    request: Mapping[str, int]


@frozen
class Difference:
    """The first thing in which two runs differ."""

    step: str
    batch: int
    what: str
    kind: str
    name: str


def prove_resume(checked: RecipePlan, arguments: Namespace) -> int:
    """Run the proof; returns the exit code: 0 if everything is the same, 1 if something differs."""
    root = Path(arguments.output)
    try:
        root.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".proof-", dir=root))
    except OSError as error:
        raise RunError(
            Problem(f"cannot create the output folder: {error.strerror}", str(root), code="unwritable-file")
        ) from None
    try:
        return _prove(checked, arguments, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _prove(checked: RecipePlan, arguments: Namespace, work: Path) -> int:
    request = {
        "recipe": str(Path(arguments.recipe).resolve()),
        "settings": arguments.set,
        "plugins": arguments.plugin,
        "device": arguments.device,
    }
    say(f"a run of {counted(len(checked.steps), 'short step')} without interruption")
    _run({**request, "folder": str(work / "straight")}, None)
    straight = read_trace(work / "straight")
    deaths = plan_deaths(straight)
    for death in deaths:
        say(death.description)
        _run({**request, "folder": str(work / "killed"), "death": death.request}, death)
    say("the last process trains to the end")
    _run({**request, "folder": str(work / "killed")}, None)
    difference = first_difference(straight, work) or final_difference(work)
    return report(checked, straight, deaths, difference, arguments.json)


def _run(request: dict[str, Any], death: Death | None) -> None:
    """Run one process; raises FluxflowError if it failed, or was not interrupted where it should have been."""
    folder = Path(request["folder"])
    folder.mkdir(exist_ok=True)
    output = folder.parent / "output.txt"
    fresh = get_context("forkserver")  # a fresh process for each run, but one import of torch for all of them
    fresh.set_forkserver_preload(["torch._dynamo"])  # which imports torch, and is imported by its optimizers
    process = fresh.Process(target=run_and_exit, args=(request, output))
    process.start()
    process.join()
    if process.exitcode in (-signal.SIGINT, INTERRUPTED):
        raise KeyboardInterrupt
    expected = 0 if death is None else STOPPED if "stop" in death.request else -signal.SIGKILL
    if process.exitcode != expected:
        how = "did not train to its end" if death is None else f"was not {death.description}"
        code = process.exitcode or 0
        cause = output.read_text().strip() or f"exit code {code}"
        error = FluxflowError(Problem(f"a run of the proof {how}", None, (("cause", cause),), code="proof-failed"))
        error.exit_code = 1 if death is not None or code < 0 else code
        raise error


def plan_deaths(straight: Lines) -> list[Death]:
    """A stop in the first step, a kill in each step, and a kill while the next checkpoint is written."""
    batches: dict[str, list[int]] = {}
    for what, step, at in straight:
        if what == "batch":
            batches.setdefault(step, []).append(at)
    deaths: list[Death] = []
    for step, places in batches.items():
        for word, request, share in (("stopped", "stop", 3), ("killed", "batch", 5)):
            at = places[max(len(places) * share // 6 - 1, 0)]
            if word == "killed" or (not deaths and len(places) > 2):
                description = f"{word} after {counted(at - places[0] + 1, 'batch')} of step `{step}`"
                deaths.append(Death(description, {request: at}))
    return [*deaths, Death("killed while it wrote the next checkpoint", {"checkpoint": 1})]


def read_trace(folder: Path) -> Lines:
    """The lines of a trace; a batch that was trained again has several lines, of which the first counts here."""
    lines: Lines = {}
    for line in trace_lines(folder):
        lines.setdefault((line["what"], line["step"], line["at"]), line["told"])
    return lines


def trace_lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of a trace, in the order of writing; a line that a kill has cut off is skipped."""
    found = []
    for line in (folder / "trace.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def first_difference(straight: Lines, work: Path) -> Difference | None:
    """The first thing that differs in any process of the killed run, in the order of events."""
    places = {key: number for number, key in enumerate(straight)}
    found = []
    seen = set()
    for line in trace_lines(work / "killed"):
        key = (line["what"], line["step"], line["at"])
        seen.add(key)
        expected = {(kind, name): told for kind, name, told in straight.get(key, ())}
        actual = {(kind, name): told for kind, name, told in line["told"]}
        for kind, name in dict.fromkeys([*expected, *actual]):
            if expected.get((kind, name)) != actual.get((kind, name)):
                batch = line["batch"]
                found.append((places.get(key, len(places)), Difference(line["step"], batch, line["what"], kind, name)))
                break
    missing = [key for key in straight if key not in seen]
    found += [(places[key], Difference(key[1], key[2], key[0], "missing", "")) for key in missing]
    return min(found, key=lambda item: item[0])[1] if found else None


def final_difference(work: Path) -> Difference | None:
    """The first file of the finished models that differs."""
    ends = {name: _finals(work / name / "final") for name in ("straight", "killed")}
    for file in sorted({*ends["straight"], *ends["killed"]}):
        if ends["straight"].get(file) != ends["killed"].get(file):
            return Difference("", 0, "final", "file", file)
    return None


def _finals(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() for path in files}


def report(
    checked: RecipePlan, straight: Lines, deaths: Sequence[Death], difference: Difference | None, as_json: bool
) -> int:
    """Print the result; returns the exit code."""
    counts = _counts(straight)
    if as_json:
        told = None if difference is None else {"told": explain(checked, difference), **_plain(difference)}
        emit_json(
            {
                "same": difference is None,
                "interruptions": [d.description for d in deaths],
                "compared": counts,
                "first": told,
            }
        )
    elif difference is None:
        rows = "\n".join(f"    {number:>7,}  {what}" for what, number in counts.items() if number)
        emit(f"identical bit by bit, after {counted(len(deaths), 'interruption')}:\n{rows}")
    else:
        emit("\n".join(explain(checked, difference)))
    return 0 if difference is None else 1


def _counts(straight: Lines) -> dict[str, int]:
    names = {"field": "fields", "value": "values", "loss": "losses", "metric": "metrics of evaluations"}
    told = [item for line in straight.values() for item in line]
    counts = {"batches": sum(what == "batch" for what, _, _ in straight)}
    counts["samples"] = sum(len(json.loads(digest)) for kind, _, digest in told if kind == "samples")
    counts.update({label: sum(kind == each for kind, _, _ in told) for each, label in names.items()})
    counts["tensors and counters of weights, optimizers, averages"] = sum(kind == "state" for kind, _, _ in told)
    return counts


def _plain(difference: Difference) -> dict[str, Any]:
    kind, name = difference.kind, difference.name
    return {"step": difference.step, "batch": difference.batch, "kind": kind, "name": name}


def explain(checked: RecipePlan, difference: Difference) -> list[str]:
    """What differs first, which component it belongs to, and the likely cause."""
    from fluxflow_registry.cli.prove_resume.blame import blame

    if difference.kind == "file":
        return [f"a resumed run ends differently: `final/{difference.name}` differs"]
    where = f"at batch {difference.batch} of step `{difference.step}`"
    if difference.kind == "missing":
        return [f"a resumed run differs: {difference.what} {where} is missing"]
    return [f"a resumed run differs {where}", *blame(checked, difference)]
