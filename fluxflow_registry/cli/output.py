"""What all commands share: loading plugins, reporting problems, output as text or JSON."""

from __future__ import annotations

import json
import os
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

#: Notes that many problems of data have in common: who requests the data, and what to do.
SHARED = frozenset({"requested by", "hint", "instead"})


def load_plugins(files: Sequence[str]) -> Registry:
    """The registry of this environment: all plugins, or those that FLUXFLOW_PLUGINS names, and the files."""
    listed = os.environ.get(VARIABLE)
    names = None if listed is None else [name.strip() for name in listed.split(",")]
    with redirect_stdout(sys.stderr):  # what a plugin prints while it is imported is not a result
        return load(names, [Path(file) for file in files])


def parse(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """The arguments, and the `command` that they form; `--help | true` exits as quietly as any other result."""
    given = sys.argv[1:] if argv is None else argv
    try:
        return parser.read(given, Namespace(command=command_of(parser.prog, argv)))
    except FluxflowError as error:
        sys.exit(report(error, "--json" in given))
    finally:
        with suppress(FluxflowError):
            _settle()


def command_of(prog: str, argv: Sequence[str] | None) -> str:
    """The shell command that resumes what this one starts: all of it but `--fresh`."""
    module = Path(sys.argv[0]).parts[-2:] == ("fluxflow_registry", "__main__.py")
    start = ["python", "-m", "fluxflow_registry"] if module else [prog]
    given = sys.argv[1:] if argv is None else argv
    # The files of `--plugin` are among the words already.
    return PluginsAtStart(variable=os.environ.get(VARIABLE)).command(
        *start, *(each for each in given if each != "--fresh")
    )


def emit(text: str) -> None:
    """Print a result on stdout; a closed pipe (`| head`) is not an error, a full disk is."""
    if sys.stdout is None:  # closed by the process that started this one
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
    """Let the rest of the output go nowhere, so that the interpreter does not fail on it at exit."""
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
    """Print every problem; returns the exit code."""
    problems = error.problems
    if as_json:
        emit_json({"problems": [problem.as_json() for problem in problems]})
        return error.exit_code
    shown = few(problems) if isinstance(error, DataError) else problems
    brief = unrepeated(shown) if isinstance(error, DataError) else shown
    say("\n\n".join(map(str, brief)))
    if len(problems) > len(shown):
        kinds = Counter(each.code for each in problems) - Counter(each.code for each in shown)
        width = len(f"{max(kinds.values()):,}")
        rows = [f"    {count:>{width},}  {kind}" for kind, count in kinds.most_common(FEW)]
        rows += [f"    and {len(kinds) - FEW:,} more kinds"] if len(kinds) > FEW else []
        others = len(problems) - len(shown)
        say("\n".join([f"\n{len(problems):,} problems; --json also prints the {others:,} that are not shown:", *rows]))
    elif len(problems) > 1:
        say(f"\n{len(problems)} problems")
    return error.exit_code


def few(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems in their order, the first of each kind before others: a folder may have a thousand of one."""
    first: dict[str, int] = {}
    for number, problem in enumerate(problems):
        first.setdefault(problem.code, number)
    firsts = [*first.values()][:FEW]
    rest = (number for number in range(len(problems)) if number not in firsts)
    return [problems[number] for number in sorted([*firsts, *islice(rest, FEW - len(firsts))])]


def unrepeated(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each without the notes that the one before it has too."""
    shared = [frozenset(note for note in problem.notes if note[0] in SHARED) for problem in problems]
    before = [frozenset[tuple[str, str]](), *shared]
    pairs = zip(problems, before, strict=False)
    return [evolve(each, notes=tuple(note for note in each.notes if note not in last)) for each, last in pairs]


def finish(command: Callable[[], int], as_json: bool) -> NoReturn:
    """Run a command and exit with its code; a mistake of the user is reported without a traceback."""
    try:
        code = command()
    except FluxflowError as error:
        code = report(error, as_json)
    except KeyboardInterrupt:
        say("stopped")
        code = 130
    sys.exit(code)
