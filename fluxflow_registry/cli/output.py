"""What all commands share: loading plugins, reporting problems, output as text or JSON."""

from __future__ import annotations

import json
import os
import re
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from attrs import evolve

from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.engine.run.plugins_at_start import VARIABLE, PluginsAtStart
from fluxflow_registry.errors import DataError, FluxflowError, Problem
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

#: Problems of data that are shown where there are more; JSON has all of them.
FEW = 10

#: Notes that many problems of data have in common: who asks, what can be read, and what to do instead.
SHARED = frozenset({"requested by", "readable", "or else"})


def load_plugins(files: Sequence[str]) -> Registry:
    """The registry of this environment: all plugins, or those that FLUXFLOW_PLUGINS names, and the files."""
    stated = os.environ.get(VARIABLE)
    names = None if stated is None else [name.strip() for name in stated.split(",")]
    with redirect_stdout(sys.stderr):  # what a plugin prints while it is imported is no result
        return load(names, [Path(file) for file in files])


def parse(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """The arguments, and the `command` that they are; `--help | true` leaves as quietly as any other result."""
    given = sys.argv[1:] if argv is None else argv
    try:
        return parser.read(given, Namespace(command=command_of(parser.prog, argv)))
    except FluxflowError as error:
        sys.exit(report(error, "--json" in given))
    finally:
        with suppress(FluxflowError):
            _settle()


def command_of(prog: str, argv: Sequence[str] | None) -> str:
    """The command that goes on with what this one begins, as a shell takes it: all of it but `--fresh`."""
    module = Path(sys.argv[0]).parts[-2:] == ("fluxflow_registry", "__main__.py")
    begun = ["python", "-m", "fluxflow_registry"] if module else [prog]
    given = sys.argv[1:] if argv is None else argv
    # The files of `--plugin` are among the words already.
    return PluginsAtStart(variable=os.environ.get(VARIABLE)).command(
        *begun, *(each for each in given if each != "--fresh")
    )


def emit(text: str) -> None:
    """Print a result on stdout; a reader that has gone away (`| head`) is no error, a full disk is one."""
    if sys.stdout is None:  # closed by whoever started us
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")
    except OSError as error:
        _give_up(error)
    _settle()


def _settle() -> None:
    """Write out what stdout still holds, here, where it can fail cleanly."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up(error)


def _give_up(error: OSError) -> None:
    """Let the rest of the output go nowhere, so that the interpreter does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        raise FluxflowError(f"the result cannot be written: {error.strerror}") from None


def emit_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    emit(json.dumps(value, indent=2, default=str))


def say(text: str) -> None:
    """Print a message on stderr."""
    print(text, file=sys.stderr, flush=True)


def report(error: FluxflowError, as_json: bool) -> int:
    """Print every problem; gives the exit code."""
    problems = error.problems
    if as_json:
        emit_json({"problems": [problem.as_json() for problem in problems]})
        return error.exit_code
    shown = few(problems) if isinstance(error, DataError) else problems
    told = unrepeated(shown) if isinstance(error, DataError) else shown
    say("\n\n".join(map(str, told)))
    if len(problems) > len(shown):
        kinds = Counter(map(kind_of, problems)) - Counter(map(kind_of, shown))
        width = len(f"{max(kinds.values()):,}")
        rows = [f"    {count:>{width},}  {kind}" for kind, count in kinds.most_common(FEW)]
        rows += [f"    and of {len(kinds) - FEW:,} more kinds"] if len(kinds) > FEW else []
        others = len(problems) - len(shown)
        say("\n".join([f"\n{len(problems):,} problems; --json prints the {others:,} that are not shown:", *rows]))
    elif len(problems) > 1:
        say(f"\n{len(problems)} problems")
    return error.exit_code


def few(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems in their order, the first of each kind before others: a folder may have a thousand of one."""
    first: dict[str, int] = {}
    for number, problem in enumerate(problems):
        first.setdefault(kind_of(problem), number)
    firsts = [*first.values()][:FEW]
    rest = (number for number in range(len(problems)) if number not in firsts)
    return [problems[number] for number in sorted([*firsts, *islice(rest, FEW - len(firsts))])]


def unrepeated(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each without what the one before says too of more than itself: who asks, what can be read."""
    shared = [frozenset(note for note in problem.notes if note[0] in SHARED) for problem in problems]
    before = [frozenset[tuple[str, str]](), *shared]
    pairs = zip(problems, before, strict=False)
    return [evolve(each, notes=tuple(note for note in each.notes if note not in last)) for each, last in pairs]


def kind_of(problem: Problem) -> str:
    """What is wrong in general, without the names, numbers and details of the one case."""
    return _CASE.sub("...", problem.message.partition(": ")[0])


#: What differs between two problems of a kind: what is quoted, and numbers.
_CASE = re.compile(r"`[^`]*`|\b\d[\d,.]*\b")


def finish(command: Callable[[], int], as_json: bool) -> NoReturn:
    """Run a command and leave with its exit code; a user's mistake is a report, not a traceback."""
    try:
        code = command()
    except FluxflowError as error:
        code = report(error, as_json)
    except KeyboardInterrupt:
        say("stopped")
        code = 130
    sys.exit(code)
