"""The command `fluxflow-train`: trains what a FluxFlow configuration describes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from fluxflow_registry import __version__
from fluxflow_registry.cli.output import emit, emit_json, finish, load_plugins, parse, say
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.cli.signals import Signals
from fluxflow_registry.errors import RecipeError

from .config import Config

EPILOG = """\
exit codes:
  0 done   1 training failed   2 the configuration or the command line is wrong
  75 stopped by a signal, checkpoint saved: run the same command to go on   130 stopped at once
"""

#: Where libraries look for the token of an address, and where it is handed on to them.
TOKEN = "HF_TOKEN"


def parser() -> Parser:
    """The command line of `fluxflow-train`."""
    made = Parser(
        prog="fluxflow-train",
        description="Train what a FluxFlow configuration describes; the same command goes on with an interrupted run.",
        epilog=EPILOG,
    )
    made.add_argument("--config", required=True, metavar="FILE", help="a FluxFlow configuration (YAML)")
    what = made.add_argument_group("instead of training").add_mutually_exclusive_group()
    what.add_argument(
        "--validate-pipeline",
        "--validate_pipeline",
        action="store_true",
        help="check the configuration and tell what each step does, without torch",
    )
    what.add_argument("--show-recipe", "--show_recipe", action="store_true", help="print the recipe that says the same")
    made.add_argument(
        "--generate_diagrams",
        "--generate-diagrams",
        action="store_true",
        help="draw graphs of the run's figures at its end, as every run does",
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="change a value of the recipe, as in fluxflow-run",
    )
    made.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plugin from a file")
    made.add_argument("--output", metavar="DIR", help="folder of the runs' folders (the configuration's output_path)")
    made.add_argument("--fresh", action="store_true", help="begin a new run even if an unfinished one is there")
    made.add_argument("--device", default=None, metavar="NAME", help="cpu, cuda, cuda:1, mps ... (the best there is)")
    made.add_argument("--json", action="store_true", help="print results as JSON on stdout")
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; gives the exit code."""
    from fluxflow_registry.check.checker import check

    from .languages import refuse_recipe
    from .reading import read_config
    from .recipe import translate
    from .summary import summary, summary_data

    trains = not (arguments.validate_pipeline or arguments.show_recipe)
    signals = Signals() if trains else None
    try:
        config = read_config(arguments.config)
    except RecipeError:
        refuse_recipe(arguments.config, arguments)
        raise
    made = translate(config, arguments.generate_diagrams)
    registry = load_plugins(arguments.plugin)
    checked = check(config.path, registry, arguments.set, made.root)
    if arguments.show_recipe:
        emit(made.text)
        return 0
    if arguments.validate_pipeline:
        emit_json(summary_data(made)) if arguments.json else emit(summary(made))
        return 0
    from fluxflow_registry.cli.train.command import train_run

    for note in made.notes:
        say(f"note: {note}")
    hand_on_tokens(config)
    arguments.output = arguments.output or config.output.settings.output_path
    assert signals is not None
    return train_run(checked, registry, arguments, signals)


def hand_on_tokens(config: Config) -> None:
    """Put the file's token into the environment, unless there is one: neither recipe nor message ever holds it."""
    tokens = [section.settings.webdataset_token for section in config.datasets.values()]
    found = [token for token in tokens if token and not token.startswith("$")]
    if found:
        os.environ.setdefault(TOKEN, found[0])


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-train`."""
    arguments = parse(parser(), argv)
    finish(lambda: main(arguments), arguments.json)
