"""The command `fluxflow-train`: trains what a FluxFlow configuration describes."""

from __future__ import annotations

import os
import re
import shlex
from argparse import Namespace
from collections.abc import Sequence
from urllib.parse import urlsplit

from attrs import evolve

from fluxflow_registry import Place, Problem, RecipeError, __version__
from fluxflow_registry.commands import CommandParser, Result, check_recipe, raise_problems, run_command, train_recipe

from .config.config import Config
from .config.flags import add_flags, given_flags

EPILOG = """\
exit codes:
  0 done   1 training failed   2 the configuration or the command line is wrong
  75 stopped by a signal, checkpoint saved: rerun the same command to resume   130 stopped immediately
"""

#: The environment variable from which libraries read the token of the hub, the one that allows variables for servers,
#: and how those are named that hold the tokens of a configuration.
TOKEN, ALLOWED, OWN_TOKEN = "HF_TOKEN", "FLUXFLOW_TOKENS", "FLUXFLOW_CONFIGURED_TOKEN"


def parser() -> CommandParser:
    """The command line of `fluxflow-train`."""
    made = CommandParser(
        prog="fluxflow-train",
        description="Train what a FluxFlow configuration describes; the same command resumes an interrupted run.",
        epilog=EPILOG,
    )
    made.add_argument("--config", metavar="FILE", help="a FluxFlow configuration (YAML); flags override it")
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
    add_flags(made)
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: Namespace) -> Result | int:
    """Train the configuration, or do what the arguments request instead."""
    from .summary import summary, summary_data
    from .their_runs import unfinished_run
    from .translation.translate import translate

    config = _read(arguments)
    arguments.command = _without_tokens(arguments.command)
    arguments.output = arguments.output or config.output.settings.output_path
    theirs = unfinished_run(arguments.output)
    translation = translate(config, arguments.generate_diagrams)
    translation = evolve(translation, notes=(*translation.notes, *([theirs] if theirs is not None else [])))
    if not trains(arguments):
        check_recipe(config.path, translation.recipe, arguments)
        if arguments.show_recipe:
            return Result(lambda: translation.recipe.plain(), lambda: translation.text)
        return Result(lambda: summary_data(translation), lambda: summary(translation))
    pass_on_token(config)
    return train_recipe(config.path, translation.recipe, arguments, translation.notes)


def _read(arguments: Namespace) -> Config:
    """The configuration of the command line; raises RecipeError with every problem, those of its recipe too."""
    from .config.reader import read_config, read_flags
    from .other_files import reject_recipe

    flags = vars(arguments)
    if arguments.config is None and not given_flags(flags):
        message = "`--config FILE` is missing: pass a FluxFlow configuration, or FluxFlow's flags"
        command = [("command", "fluxflow-train --help")]
        raise RecipeError(message, None, command, code="missing-argument", subject="--config FILE")
    try:
        config = read_config(arguments.config, flags) if arguments.config is not None else read_flags(flags)
        raise_problems([*config.problems, *_of_recipe(config, arguments)] if config.problems else [])
    except RecipeError:
        if arguments.config is not None:
            reject_recipe(arguments.config, arguments)
        raise
    return config


def _of_recipe(config: Config, arguments: Namespace) -> list[Problem]:
    """What is wrong with the recipe of a configuration that has problems, at lines that have none of those."""
    from .translation.translate import recipe_of

    if not config.steps or any(step.dataset not in config.datasets for step in config.steps):
        return []
    reported = {(each.where.file, each.where.line) for each in config.problems if isinstance(each.where, Place)}
    try:
        check_recipe(config.path, recipe_of(config), arguments)
    except RecipeError as error:
        further = [each for each in error.problems if isinstance(each.where, Place) and each.where.line is not None]
        return [
            each
            for each in further
            if isinstance(each.where, Place) and (each.where.file, each.where.line) not in reported
        ]
    return []


def trains(arguments: Namespace) -> bool:
    """Whether the arguments request training."""
    return not (arguments.validate_pipeline or arguments.show_recipe)


def pass_on_token(config: Config) -> None:
    """Put tokens of the datasets that a step uses into the environment: no recipe contains one.

    The first is the hub's, unless that is set. Each is also allowed for the servers that its own dataset names.
    """
    used = {step.dataset for step in config.steps}
    chosen = [section.settings for name, section in config.datasets.items() if name in used]
    tokens = [(settings, settings.webdataset_token or "") for settings in chosen]
    for number, (settings, token) in enumerate((each for each in tokens if each[1][:1] not in ("", "$")), 1):
        os.environ.setdefault(TOKEN, token)
        urls = settings.webdataset_url or ()
        hosts = {urlsplit(url).netloc for url in ([urls] if isinstance(urls, str) else urls) if url.startswith("http")}
        variable = f"{OWN_TOKEN}_{number}"
        os.environ[variable] = token
        allowed = [os.environ.get(ALLOWED, ""), *(f"{host}={variable}" for host in sorted(hosts) if _is_plain(host))]
        if allowed[1:]:
            os.environ[ALLOWED] = " ".join(filter(None, allowed))


def _is_plain(host: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]+)?", host) is not None


def _without_tokens(command: str) -> str:
    """The command that resumes a run, which its folder keeps, without access tokens."""
    if "token" not in command:
        return command
    words, kept = iter(shlex.split(command)), list[str]()
    for word in words:
        flag, sign, _ = word.partition("=")
        if flag.replace("-", "_") not in ("__webdataset_token", "__tt2m_token"):
            kept.append(word)
        elif not sign:
            next(words, None)
    return shlex.join(kept)


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-train`."""
    run_command(parser(), main, argv, trains)
