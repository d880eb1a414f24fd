"""Two runs compared by their traces and by the files of their finished models."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from attrs import frozen

#: (what, step, batches of the run before it) of each line of a trace, with its entries (kind, name, digest).
Lines = dict[tuple[str, str, int], list[list[str]]]


@frozen
class Difference:
    """The first thing in which two runs differ."""

    step: str
    batch: int
    what: str
    kind: str
    name: str


def read_trace(folder: Path) -> Lines:
    """The lines of a trace; of a batch that was trained several times the first one."""
    lines: Lines = {}
    for line in trace_lines(folder):
        lines.setdefault((line["what"], line["step"], line["at"]), line["entries"])
    return lines


def trace_lines(folder: Path) -> list[dict[str, Any]]:
    """Every line of a trace, in the order of writing; one that a kill has truncated is skipped."""
    found = []
    for line in (folder / "trace.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def first_difference(reference: Path, interrupted: Path) -> Difference | None:
    """The first difference of any process of the interrupted run, or else of the finished models."""
    return _in_traces(read_trace(reference), trace_lines(interrupted)) or _in_models(reference, interrupted)


def _in_traces(reference: Lines, interrupted: list[dict[str, Any]]) -> Difference | None:
    order = {key: number for number, key in enumerate(reference)}
    found = []
    seen = set()
    for line in interrupted:
        key = (line["what"], line["step"], line["at"])
        seen.add(key)
        expected = {(kind, name): digest for kind, name, digest in reference.get(key, ())}
        actual = {(kind, name): digest for kind, name, digest in line["entries"]}
        for kind, name in dict.fromkeys([*expected, *actual]):
            if expected.get((kind, name)) != actual.get((kind, name)):
                difference = Difference(line["step"], line["batch"], line["what"], kind, name)
                found.append((order.get(key, len(order)), difference))
                break
    missing = [key for key in reference if key not in seen]
    found += [(order[key], Difference(key[1], key[2], key[0], "missing", "")) for key in missing]
    return min(found, key=lambda item: item[0])[1] if found else None


def _in_models(reference: Path, interrupted: Path) -> Difference | None:
    expected, actual = _digests(reference / "final"), _digests(interrupted / "final")
    for file in sorted({*expected, *actual}):
        if expected.get(file) != actual.get(file):
            return Difference("", 0, "final", "file", file)
    return None


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
