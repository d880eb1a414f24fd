"""The command `fluxflow-train`: trains what a FluxFlow configuration describes."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Sequence

from fluxflow_registry import RecipeError, __version__
from fluxflow_registry.commands import CommandParser, Result, check_recipe, run_command, train_recipe

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
    made.add_training_arguments(
        output=None,
        output_help="folder that contains the runs (default: the configuration's `output_path`)",
        set_help="change a value of the recipe that --show-recipe prints, such as steps.flow.epochs=2",
    )
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: Namespace) -> Result | int:
    """Train the configuration, or do what the arguments request instead."""
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
    if not trains(arguments):
        check_recipe(config.path, translation.recipe, arguments)
        if arguments.show_recipe:
            return Result(lambda: translation.recipe.plain(), lambda: translation.text)
        return Result(lambda: summary_data(translation), lambda: summary(translation))
    pass_on_token(config)
    arguments.output = arguments.output or config.output.settings.output_path
    return train_recipe(config.path, translation.recipe, arguments, translation.notes)


def trains(arguments: Namespace) -> bool:
    """Whether the arguments request training."""
    return not (arguments.validate_pipeline or arguments.show_recipe)


def pass_on_token(config: Config) -> None:
    """Put the token of a dataset that a step uses into the environment, unless one is set: no recipe contains it."""
    used = {step.dataset for step in config.steps}
    tokens = [section.settings.webdataset_token for name, section in config.datasets.items() if name in used]
    usable = [token for token in tokens if token and not token.startswith("$")]
    if usable:
        os.environ.setdefault(TOKEN, usable[0])


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-train`."""
    run_command(parser(), main, argv, trains)
