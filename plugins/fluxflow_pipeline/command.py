"""The command `fluxflow-train`: trains what a FluxFlow configuration describes."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from fluxflow_registry import RecipeError, __version__
from fluxflow_registry.commands import CommandParser, check_recipe, emit, emit_json, run_command, train_recipe

from .config.config import Config

EPILOG = """\
exit codes:
  0 done   1 training failed   2 the configuration or the command line is wrong
  75 stopped by a signal, checkpoint saved: rerun the same command to resume   130 stopped immediately
"""

#: The environment variable from which libraries read an access token.
TOKEN = "HF_TOKEN"


def parser() -> CommandParser:
    """The command line of `fluxflow-train`."""
    made = CommandParser(
        prog="fluxflow-train",
        description="Train what a FluxFlow configuration describes; the same command resumes an interrupted run.",
        epilog=EPILOG,
    )
    made.add_argument("--config", required=True, metavar="FILE", help="a FluxFlow configuration (YAML)")
    instead = made.add_argument_group("instead of training").add_mutually_exclusive_group()
    instead.add_argument(
        "--validate-pipeline",
        "--validate_pipeline",
        action="store_true",
        help="check the configuration and describe each step, without torch",
    )
    instead.add_argument("--show-recipe", "--show_recipe", action="store_true", help="print the equivalent recipe")
    made.add_argument(
        "--generate_diagrams",
        "--generate-diagrams",
        action="store_true",
        help="write charts at the end of the run; every run does so, also without this flag",
    )
    made.add_training_arguments(output=None)
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: Namespace) -> int:
    """Train the configuration, or do what the arguments request instead; returns the exit code."""
    from .config.reader import read_config
    from .other_files import reject_recipe
    from .summary import summary, summary_data
    from .translation.translate import translate

    try:
        config = read_config(arguments.config)
    except RecipeError:
        reject_recipe(arguments.config, arguments)
        raise
    translation = translate(config, arguments.generate_diagrams)
    if arguments.show_recipe or arguments.validate_pipeline:
        check_recipe(config.path, translation.recipe, arguments)
        if arguments.show_recipe:
            emit(translation.text)
        else:
            emit_json(summary_data(translation)) if arguments.json else emit(summary(translation))
        return 0
    pass_on_token(config)
    arguments.output = arguments.output or config.output.settings.output_path
    return train_recipe(config.path, translation.recipe, arguments, translation.notes)


def pass_on_token(config: Config) -> None:
    """Put the file's access token into the environment, unless one is set: no recipe and no message contains it."""
    tokens = [section.settings.webdataset_token for section in config.datasets.values()]
    found = [token for token in tokens if token and not token.startswith("$")]
    if found:
        os.environ.setdefault(TOKEN, found[0])


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-train`."""
    run_command(parser(), main, argv)
