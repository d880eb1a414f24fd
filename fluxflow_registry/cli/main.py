"""The command `fluxflow-run`: its flags, and the table of the commands that they start."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from attrs import frozen

from fluxflow_registry import __version__
from fluxflow_registry.cli.invocation import Invocation, Signals, interrupt_at_signals
from fluxflow_registry.cli.output import Result, finish, importing, load_plugins, parse
from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Flag, Problem, RecipeError
from fluxflow_registry.recipe.schema import RecipeSettings, StepSettings
from fluxflow_registry.registry.signature import keys_of

EPILOG = """\
exit codes:
  0 done   1 training failed   2 the recipe or the command line is wrong
  75 stopped by a signal, checkpoint saved: rerun the same command to resume   130 stopped immediately

environment:
  FLUXFLOW_PLUGINS=a,b  load exactly these plugins      NO_COLOR, FORCE_COLOR  turn colors off or on
"""

#: What training reads. Commands that check a recipe accept all of it, so that one command line serves both.
TRAINING = ("recipe", "set", "output", "fresh", "device")


@frozen
class Command:
    """Something that `fluxflow-run` does, and the flag that requests it."""

    #: Where in `fluxflow_registry.cli` its function is. It is imported only to be run: torch may be behind it.
    module: str
    flag: str = ""
    help: str = ""
    #: What the flag takes; None for a flag without a value.
    metavar: str | None = None
    value_is_optional: bool = False
    #: What it reads, besides what every command does. If that includes a recipe, it is checked first.
    reads: tuple[str, ...] = TRAINING

    @property
    def name(self) -> str:
        """Its name among the arguments; its function is called `<name>_command`."""
        return self.flag[2:].replace("-", "_") or self.module

    def requested(self, arguments: Namespace) -> bool:
        """Whether the command line has its flag."""
        return vars(arguments)[self.name] not in (None, False)

    def reject_unread(self, arguments: Namespace) -> None:
        """Raise RecipeError with each argument that has no effect on this command."""
        defaults, what = parser(), f"with `{self.flag}`" if self.flag else "on training"
        problems = []
        for name in (*TRAINING, "samples", "mermaid"):
            if name not in self.reads and vars(arguments)[name] != defaults.get_default(name):
                flag, where = ("RECIPE", None) if name == "recipe" else (f"--{name}", Flag(f"--{name}"))
                message = f"`{flag}` has no effect {what}: remove it"
                problems.append(Problem(message, where, code="conflict", subject=flag))
        if problems:
            raise RecipeError(problems)

    def run(self, invocation: Invocation) -> Result | int:
        """Check the recipe where one is needed, import the function and call it."""
        if "recipe" in self.reads:
            _ = invocation.plan
        with importing():
            module = import_module(f"fluxflow_registry.cli.{self.module}")
        result: Result | int = vars(module)[f"{self.name}_command"](invocation)
        return result


TRAIN = Command("train")

#: What `fluxflow-run` does instead of training.
COMMANDS = (
    Command("explain", "--validate", "check the recipe and its plan, without torch"),
    Command("explain", "--explain", "show the steps, and the plan of each update", reads=(*TRAINING, "mermaid")),
    Command("check", "--check", "validate, check that all shapes fit, and open the datasets"),
    Command(
        "prove_resume",
        "--prove-resume",
        "train a shortened recipe with and without interruptions, and compare the results bit by bit",
    ),
    Command(
        "inspect_data",
        "--inspect-data",
        "describe the samples of the datasets, and write contact sheets of them",
        reads=(*TRAINING, "samples"),
    ),
    Command("schema", "--schema", "print the JSON schema of recipes, for editors", reads=()),
    Command(
        "describe",
        "--list-plugins",
        f"list plugins and components, all or of one kind: {', '.join(KINDS)}",
        metavar="KIND",
        value_is_optional=True,
        reads=(),
    ),
    Command("describe", "--describe", "describe a component: NAME or KIND:NAME", "NAME", reads=()),
    Command("document", "--document", "write a page of Markdown for each kind of component", "FOLDER", reads=()),
    Command("status", "--status", "show the state of a run, or of every run in a folder", "RUN", reads=()),
    Command(
        "replay",
        "--replay",
        "recompute a batch whose loss or gradient was not finite: RUN/not_finite/...",
        "BUNDLE",
        reads=("device",),
    ),
)

#: A diagram is another form of an explanation, so that the flag may be combined with `--explain`.
MERMAID = Command("explain", "--mermaid", "show the plan as a Mermaid diagram", reads=(*TRAINING, "mermaid"))


#: What other programs call the continuation of a run.
RESUMING = ("continue", "resume", "resume_from", "resume_from_checkpoint", "restart", "restore", "ckpt", "checkpoint")


def instead_of(flag: str) -> str | None:
    """What replaces a flag that other programs have: nothing to resume a run, `--set` for what a recipe contains."""
    name = flag.lstrip("-").replace("-", "_")
    if name in RESUMING:
        return "rerun the same command: it resumes the unfinished run"
    if name in keys_of(RecipeSettings):
        return f"--set {name}=..."
    return f"--set steps.NAME.{name}=..." if name in keys_of(StepSettings) else None


def parser() -> Parser:
    """The command line of `fluxflow-run`."""
    built = Parser(
        prog="fluxflow-run",
        description="Train what a recipe describes; the same command resumes an interrupted run.",
        epilog=EPILOG,
        instead=instead_of,
    )
    built.add_argument("recipe", nargs="?", metavar="RECIPE", help="a recipe file (YAML)")
    group = built.add_argument_group("instead of training").add_mutually_exclusive_group()
    for command in COMMANDS:
        options: dict[str, Any] = {"action": "store_true"}
        if command.metavar is not None:
            options = {"metavar": command.metavar}
        if command.value_is_optional:
            options |= {"nargs": "?", "const": ""}
        group.add_argument(command.flag, help=command.help, **options)
    built.add_training_arguments()
    built.add_argument(
        "--samples", type=int, metavar="N", help="number of samples that --inspect-data reads (default: 10,000)"
    )
    built.add_argument(MERMAID.flag, action="store_true", help=MERMAID.help)
    built.add_argument("--version", action="version", version=f"fluxflow-registry {__version__}")
    return built


def main(arguments: Namespace) -> Result | int:
    """Do what the arguments request; returns the result, or the exit code of what has printed its own."""
    command = next((each for each in (*COMMANDS, MERMAID) if each.requested(arguments)), TRAIN)
    command.reject_unread(arguments)
    # Installed before anything that takes time: importing plugins and torch, opening datasets.
    signals = Signals() if command is TRAIN else None
    if signals is None:
        interrupt_at_signals()
    return command.run(Invocation(arguments, load_plugins(arguments.plugin), signals))


def run(argv: Sequence[str] | None = None) -> NoReturn:
    """Entry point of `fluxflow-run`."""
    arguments = parse(parser(), argv)
    finish(lambda: main(arguments), arguments.json)
