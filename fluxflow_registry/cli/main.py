"""The command `fluxflow-run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from fluxflow_registry import __version__
from fluxflow_registry.cli.output import emit, emit_json, finish, load_plugins, parse
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.cli.signals import Signals
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Choices, Flag, Problem, RecipeError
from fluxflow_registry.registry.registry import Registry

EPILOG = """\
exit codes:
  0 done   1 training failed   2 the recipe or the command line is wrong
  75 stopped by a signal, checkpoint saved: run the same command to resume   130 stopped at once

environment:
  FLUXFLOW_PLUGINS=a,b  load exactly these plugins      NO_COLOR, FORCE_COLOR  as usual
"""


#: What the command does instead of training.
INSTEAD = (
    "validate", "explain", "mermaid", "check", "prove_resume", "schema",
    "list_plugins", "describe", "document", "status", "replay", "inspect_data",
)  # fmt: skip


def parser() -> Parser:
    """The command line of `fluxflow-run`."""
    made = Parser(
        prog="fluxflow-run",
        description="Train what a recipe describes; the same command resumes an interrupted run.",
        epilog=EPILOG,
    )
    made.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe file (YAML)")
    what = made.add_argument_group("instead of training").add_mutually_exclusive_group()
    what.add_argument("--validate", action="store_true", help="check the recipe and its plan, without torch")
    what.add_argument("--explain", action="store_true", help="show the steps, and the plan of each update")
    what.add_argument("--check", action="store_true", help="validate, then prove shapes and open the datasets")
    what.add_argument(
        "--prove-resume", action="store_true", help="kill short runs of the recipe, and compare their ends bit by bit"
    )
    what.add_argument(
        "--inspect-data", action="store_true", help="describe the datasets, and write contact sheets of their images"
    )
    what.add_argument("--schema", action="store_true", help="print the JSON schema of recipes, for editors")
    what.add_argument(
        "--list-plugins",
        nargs="?",
        const="",
        metavar="KIND",
        help="list plugins and components, all or of one kind: " + ", ".join(KINDS),
    )
    what.add_argument("--describe", metavar="NAME", help="describe a component: NAME or KIND:NAME")
    what.add_argument("--document", metavar="FOLDER", help="write a page of Markdown for each kind of component")
    what.add_argument("--status", metavar="RUN", help="report the state of the run in a folder, or of all runs in it")
    what.add_argument("--replay", metavar="BUNDLE", help="repeat a batch that was not finite: RUN/not_finite/...")
    made.add_training_arguments()
    made.add_argument(
        "--samples", type=int, default=None, metavar="N", help="samples that --inspect-data reads (10,000)"
    )
    made.add_argument("--mermaid", action="store_true", help="explain as a Mermaid diagram")
    made.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return made


def main(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; returns the exit code."""
    # Installed before anything takes time: plugins are imported, torch is imported, data are opened.
    signals = Signals() if not any(getattr(arguments, name) not in (None, False) for name in INSTEAD) else None
    registry = load_plugins(arguments.plugin)
    if arguments.list_plugins is not None:
        from fluxflow_registry.cli.list_plugins.command import listing, listing_data

        kind = _kind(arguments.list_plugins)
        emit_json(listing_data(registry, kind)) if arguments.json else emit(listing(registry, kind))
        return 0
    if arguments.describe is not None:
        from fluxflow_registry.cli.describe.command import describe, description_data

        found = description_data(registry, arguments.describe) if arguments.json else None
        emit_json(found) if arguments.json else emit(describe(registry, arguments.describe))
        return 0
    if arguments.document is not None:
        from fluxflow_registry.cli.document.command import write_pages

        written = [str(path) for path in write_pages(registry, Path(arguments.document))]
        emit_json(written) if arguments.json else emit("\n".join(written))
        return 0
    if arguments.status is not None:
        from fluxflow_registry.cli.status.command import status, status_data, status_text

        standing = status(arguments.status, registry)
        emit_json(status_data(standing)) if arguments.json else emit(status_text(standing))
        return 0
    if arguments.schema:
        from fluxflow_registry.cli.schema.command import recipe_schema

        emit_json(recipe_schema(registry))
        return 0
    if arguments.replay is not None:
        from fluxflow_registry.cli.replay.command import replay_bundle

        return replay_bundle(arguments, registry)
    if arguments.recipe is None:
        message = "a recipe is required, as in `fluxflow-run recipes/vae_gan_flow.yaml`"
        raise RecipeError(Problem(message, None, (("command", "fluxflow-run --help"),), code="missing-argument"))
    return _with_recipe(arguments, registry, signals)


def _with_recipe(arguments: argparse.Namespace, registry: Registry, signals: Signals | None) -> int:
    from fluxflow_registry.check.checker import check
    from fluxflow_registry.cli.other_files import refuse_foreign

    try:
        checked = check(arguments.recipe, registry, arguments.set)
    except RecipeError:
        refuse_foreign(arguments, registry, trains=signals is not None)
        raise
    if arguments.validate:
        from fluxflow_registry.cli.explain.command import summary, summary_data

        emit_json(summary_data(checked)) if arguments.json else emit(summary(checked))
        return 0
    if arguments.explain or arguments.mermaid:
        from fluxflow_registry.cli.explain.command import explain, explain_data, mermaid

        if arguments.json:
            emit_json(explain_data(checked))
        else:
            emit(mermaid(checked) if arguments.mermaid else explain(checked))
        return 0
    if arguments.check:
        from fluxflow_registry.cli.train.command import check_run

        return check_run(checked, arguments.device, arguments.json)
    if arguments.inspect_data:
        from fluxflow_registry.cli.inspect_data.command import SAMPLES, inspect_data

        most = SAMPLES if arguments.samples is None else arguments.samples
        if most < 1:
            raise RecipeError("`--samples` must be at least 1", Flag("--samples", str(most)), code="out-of-range")
        return inspect_data(checked, Path(arguments.output), most, arguments.json)
    if arguments.prove_resume:
        from fluxflow_registry.cli.prove_resume.command import prove_resume

        return prove_resume(checked, arguments)
    from fluxflow_registry.cli.train.command import train_run

    assert signals is not None
    return train_run(checked, registry, arguments, signals)


def _kind(name: str) -> str | None:
    """The kind that `--list-plugins` names, singular or plural."""
    if not name:
        return None
    for kind in KINDS.values():
        if name in (kind.name, kind.plural):
            return kind.name
    message = f"`{name}` is not a kind of component"
    choices = Choices.of(name, KINDS)
    raise RecipeError(Problem(message, Flag("--list-plugins"), code="unknown-kind", subject=name, choices=choices))


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `fluxflow-run`."""
    arguments = parse(parser(), argv)
    finish(lambda: main(arguments), arguments.json)
