"""The command `fluxflow-graphs`: charts of a run from its logs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from fluxflow_registry import Choices, Problem, RunError, __version__
from fluxflow_registry.commands import CommandParser, Result, run_command

from .graphs.metrics import ENDING, PREFIX, read_run
from .graphs.observer import write_graphs


def parser() -> CommandParser:
    """The command line of `fluxflow-graphs`."""
    made = CommandParser(
        prog="fluxflow-graphs",
        description="Write charts of the metrics of a run: one of this framework, or one of FluxFlow.",
    )
    made.add_argument("run", metavar="RUN", help="the folder of a run, or FluxFlow's output folder")
    made.add_argument(
        "--output", metavar="DIR", help="folder for the charts (default: RUN/graph; RUN/charts for a run of FluxFlow)"
    )
    made.add_argument("--json", action="store_true", help="print the list of files as JSON")
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: Namespace) -> Result:
    """Write the charts; returns the list of their files."""
    run = Path(arguments.run)
    logs = read_run(run)
    if not logs:
        raise RunError(_without_metrics(run))
    folder = Path(arguments.output) if arguments.output else _folder(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [str(path) for path in write_graphs(logs, folder)]
    except OSError as error:
        message = f"the charts cannot be written to `{folder}`: {error.strerror}"
        raise RunError(message, str(folder), code="unwritable-file") from None
    return Result(lambda: written, lambda: "\n".join(written))


def _folder(run: Path) -> Path:
    """Beside the metrics; not beside those of FluxFlow, which writes charts of its own under the same names."""
    graph = run / "graph" if (run / "graph").is_dir() else run
    return run / "charts" if any(graph.glob("session*.json")) else graph


def _without_metrics(run: Path) -> Problem:
    if not run.is_dir():
        return Problem(f"`{run}` is not a folder", str(run), code="missing-file", subject=str(run))
    message = f"`{run}` has no metrics: there is no line in graph/{PREFIX}*{ENDING}"
    runs = [each.parent.name for each in run.glob("*/graph")]
    choices = Choices(None, tuple(sorted(runs))) if runs else None
    return Problem(message, str(run), code="missing-file", subject=str(run), choices=choices)


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-graphs`."""
    run_command(parser(), main, argv)
