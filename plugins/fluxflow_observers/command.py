"""The command `fluxflow-graphs`: charts of a run from its logs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fluxflow_registry import Problem, __version__
from fluxflow_registry.cli.output import emit, emit_json, finish, parse
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.errors import RunError, choices


def parser() -> Parser:
    """The command line of `fluxflow-graphs`."""
    made = Parser(
        prog="fluxflow-graphs",
        description="Draw charts of a run from graph/training_metrics*.jsonl: of ours, or of FluxFlow's old outputs.",
    )
    made.add_argument("run", metavar="RUN", help="a run's folder, or FluxFlow's outputs folder")
    made.add_argument("--output", metavar="DIR", help="folder of the charts (RUN/graph)")
    made.add_argument("--json", action="store_true", help="print the list of files as JSON")
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: argparse.Namespace) -> int:
    """Draw; gives the exit code."""
    from .graphs.metrics_log import ENDING, PREFIX, read_run
    from .graphs.observer import write_graphs

    run = Path(arguments.run)
    logs = read_run(run)
    if not logs:
        beside = sorted(each.parent.name for each in run.glob("*/graph")) if run.is_dir() else []
        notes = choices("", beside, "runs in it") if beside else ()
        message = f"holds no metrics: there is no line in graph/{PREFIX}*{ENDING}" if run.is_dir() else "is no folder"
        raise RunError(Problem(message, str(run), notes))
    graph = run / "graph" if (run / "graph").is_dir() else run
    folder = Path(arguments.output) if arguments.output else graph
    try:
        written = [str(path) for path in write_graphs(logs, folder)]
    except OSError as error:
        raise RunError(Problem(f"cannot be written: {error.strerror}", str(folder))) from None
    emit_json(written) if arguments.json else emit("\n".join(written))
    return 0


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-graphs`."""
    arguments = parse(parser(), argv)
    finish(lambda: main(arguments), arguments.json)
