"""The public door for plugins that add a command, or another form of recipe.

A command is a `CommandParser` and a function that takes its arguments and returns a `Result`; `run_command` connects
the two to the process. The result is printed on stdout, as text or with `--json` as JSON; messages go to stderr.

Another form of recipe is a file that a plugin translates. `read_tree` reads the file as a `Node`, in which every key
and every value knows its location. The plugin builds the `Node` of the recipe that means the same and gives each of its
values the location from which it comes. `check_recipe` checks it and `train_recipe` trains it: whatever is wrong with
the recipe is then reported at its location in the plugin's own file. With the hook `fluxflow_recognize_file` the plugin
also recognizes such a file where it is passed to `fluxflow-run`.

Importing this module does not import torch. tests/third_party/fluxflow_cards.py is a whole plugin of this sort.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn, TypeVar

from fluxflow_registry.cli.invocation import Signals, interrupt_at_signals
from fluxflow_registry.cli.output import Result, finish, load_plugins, parse, say, say_note, show
from fluxflow_registry.cli.parser import Parser as CommandParser
from fluxflow_registry.errors import Problem, RecipeError, unique
from fluxflow_registry.recipe.convert import read_fields, structure, unknown_keys
from fluxflow_registry.recipe.node import Node, as_node, describe_value, merge
from fluxflow_registry.recipe.reader import read as read_tree
from fluxflow_registry.recipe.schema import VERSION as RECIPE_VERSION
from fluxflow_registry.registry.signature import keys_of

__all__ = [
    "RECIPE_VERSION",
    "CommandParser",
    "Node",
    "Result",
    "as_node",
    "check_recipe",
    "describe_value",
    "keys_of",
    "merge",
    "raise_problems",
    "read_fields",
    "read_settings",
    "read_tree",
    "run_command",
    "say",
    "train_recipe",
    "unique",
    "unknown_keys",
]

T = TypeVar("T")


def run_command(
    parser: CommandParser,
    main: Callable[[Namespace], Result | int],
    argv: Sequence[str] | None = None,
    trains: Callable[[Namespace], bool] | None = None,
) -> NoReturn:
    """Parse the command line, call `main` with the arguments, print the result that it returns, and exit.

    What `train_recipe` returns is an exit code instead. Where `trains` is true of the arguments, a signal is handled as
    in `train_recipe` from here on. A FluxflowError, whether of the command line or of `main`, is reported on stderr
    (with `--json` on stdout, as JSON); the exit code is then the error's.
    """
    arguments = parse(parser, argv)
    arguments.signals = Signals() if trains is not None and trains(arguments) else None
    if arguments.signals is None:
        interrupt_at_signals()
    finish(lambda: main(arguments), bool(vars(arguments).get("json")))


def read_settings(cls: type[T], node: Node, what: str) -> tuple[T | None, list[Problem]]:
    """An instance of the attrs class `cls` from a mapping of its fields, strictly, and every problem of it.

    `what` names the mapping in messages, such as "`optimizer`". With problems the instance is None.
    """
    return structure(cls, node, what)


def raise_problems(problems: Iterable[Problem]) -> None:
    """Raise RecipeError with all problems, each once and in the order of the file; return if there are none."""
    found = unique(problems)
    if found:
        raise RecipeError(found)


def check_recipe(path: str, tree: Node, arguments: Namespace) -> None:
    """Check a recipe with the plugins and the settings of the command line; raises RecipeError with every problem.

    `path` is the file that the recipe comes from, `arguments` has what `CommandParser.add_training_arguments` declares.
    """
    from fluxflow_registry.check.checker import check

    check(path, load_plugins(arguments.plugin), arguments.set, tree)


def train_recipe(path: str, tree: Node, arguments: Namespace, notes: Sequence[Problem] = ()) -> int:
    """Check a recipe as `check_recipe` does and train it, or resume its unfinished run; returns the exit code.

    `notes` are printed on stderr once the recipe is valid. A signal stops the run with a checkpoint.
    """
    signals = vars(arguments).get("signals") or Signals()
    from fluxflow_registry.check.checker import check

    registry = load_plugins(arguments.plugin)
    plan = check(path, registry, arguments.set, tree)
    for note in notes:
        say_note(str(note))
    from fluxflow_registry.cli.train import train_run

    result = train_run(plan, registry, arguments, signals)
    return result if isinstance(result, int) else show(result, arguments.json)
