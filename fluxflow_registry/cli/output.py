"""What all commands share: loading plugins, reporting problems, output as text or JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import time
import traceback
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from attrs import evolve, frozen

from fluxflow_registry.cli.parser import Parser
from fluxflow_registry.engine.data.processes import end_without_waiting
from fluxflow_registry.engine.run.folder import VARIABLE, PluginsAtStart
from fluxflow_registry.errors import (
    DataError,
    FluxflowError,
    Note,
    Notice,
    Place,
    PluginError,
    Problem,
    one_line,
    to_json,
)
from fluxflow_registry.redaction import redact
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.registry.signature import raised_at, shorten

E = TypeVar("E", bound=FluxflowError)

#: Problems of data that are printed where there are more; JSON has all of them.
FEW = 10

#: Labels of notes that many problems of data share: who requested the data, and what to do.
SHARED = frozenset({"requested by", "hint", "instead"})


#: Seconds for which threads and processes that a plugin has left are waited for at the end of a command.
PATIENCE = 10.0


@frozen
class Result:
    """What a command has found; as text or as JSON, whichever the command line requests.

    Each form is built only if it is printed. Without a `text` the result is JSON in either case; an empty text
    prints nothing.
    """

    data: Callable[[], Any]
    text: Callable[[], str] | None = None
    exit_code: int = 0


def load_plugins(files: Sequence[str]) -> Registry:
    """The registry of this environment: all plugins, or those that FLUXFLOW_PLUGINS names, and the files."""
    listed = os.environ.get(VARIABLE)
    names = None if listed is None else [name.strip() for name in listed.split(",")]
    with redirect_stdout(sys.stderr):  # what a plugin prints while it is imported is not a result
        return load(names, [Path(file) for file in files])


def parse(parser: Parser, argv: Sequence[str] | None) -> Namespace:
    """The arguments, with the `command` that resumes; `--help | true` exits as quietly as any other result."""
    occupy_closed_streams()
    words = sys.argv[1:] if argv is None else argv
    try:
        return parser.read(words, Namespace(command=resume_command(parser.prog, words)))
    except FluxflowError as error:
        end(report(error, "--json" in words))
    finally:
        with suppress(FluxflowError):
            _flush()


def occupy_closed_streams() -> None:
    """Open the null device in the place of each standard stream that the caller has closed.

    Otherwise the next file that is opened gets its number, and what libraries print on stderr is written into a
    checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it is open as long as the process runs


def resume_command(prog: str, words: Sequence[str]) -> str:
    """The command, quoted for a shell, that resumes what this one starts: the same without `--fresh` and secrets."""
    module = Path(sys.argv[0]).parts[-2:] == ("fluxflow_registry", "__main__.py")
    program = ["python", "-m", "fluxflow_registry"] if module else [prog]
    # The files of `--plugin` are among the words already.
    plugins = PluginsAtStart(variable=os.environ.get(VARIABLE))
    return plugins.command(*program, *(redact(word) for word in words if word != "--fresh"))


@contextmanager
def importing() -> Iterator[None]:
    """Raise FluxflowError for a library that cannot be imported: a damaged installation, or not enough memory."""
    try:
        yield
    except (ImportError, OSError, MemoryError) as error:
        message = f"a library that this command needs cannot be imported: {one_line(error)}"
        hint = (
            "hint",
            "install its dependencies again (`pip install --force-reinstall`), or raise the memory limit",
        )
        raise FluxflowError(message, None, [*raised_at(error), hint], code="broken-library") from error


def emit(text: str) -> None:
    """Print a result on stdout; a closed pipe (`| head`) is not an error, a full disk is."""
    if sys.stdout is None:  # the caller has closed it
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.rstrip("\n").encode(encoding, "backslashreplace").decode(encoding) + "\n")
    except OSError as error:
        _give_up(error)
    _flush()


def _flush() -> None:
    """Write out what is buffered for stdout, here, where it can fail cleanly."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _give_up(error)


def _give_up(error: OSError) -> None:
    """Discard the rest of the output, so that the interpreter does not fail on it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if not isinstance(error, BrokenPipeError):
        message = f"the result cannot be written: {error.strerror}"
        raise FluxflowError(message, code="unwritable-file") from None


def emit_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    emit(json.dumps(to_json(value), indent=2, default=str))


def say(text: str) -> None:
    """Print a message on stderr, unless it is closed or nobody reads it any more."""
    if sys.stderr is None:  # print would use stdout
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except RuntimeError:  # a signal has interrupted this thread while it was printing
        with suppress(OSError):
            os.write(2, f"{text}\n".encode(errors="backslashreplace"))
    except (OSError, ValueError):
        pass


def show(result: Result, as_json: bool) -> int:
    """Print a result; returns its exit code."""
    if as_json or result.text is None:
        emit_json(result.data())
    elif text := result.text():
        emit("\n".join(map(redact, text.split("\n"))))
    return result.exit_code


def report(error: FluxflowError, as_json: bool) -> int:
    """Print every problem; returns the exit code."""
    problems = error.problems
    if as_json:
        emit_json({"problems": [problem.as_json() for problem in problems]})
        return error.exit_code
    shown = first_problems(problems) if isinstance(error, DataError) else problems
    say("\n\n".join(map(str, without_repeated_notes(shown) if isinstance(error, DataError) else shown)))
    if len(problems) > len(shown):
        hidden = Counter(each.code for each in problems) - Counter(each.code for each in shown)
        width = len(f"{max(hidden.values()):,}")
        rows = [f"    {count:>{width},}  {code}" for code, count in hidden.most_common(FEW)]
        rows += [f"    and {len(hidden) - FEW:,} more kinds"] if len(hidden) > FEW else []
        count = len(problems) - len(shown)
        say("\n".join([f"\n{len(problems):,} problems; --json also prints the {count:,} that are not shown:", *rows]))
    elif len(problems) > 1:
        say(f"\n{len(problems)} problems")
    return error.exit_code


def first_problems(problems: Sequence[Problem]) -> list[Problem]:
    """A few problems in their order, the first of each code before others: a folder may have a thousand of one."""
    codes = [problem.code for problem in problems]
    firsts = [codes.index(code) for code in dict.fromkeys(codes)][:FEW]
    rest = (number for number in range(len(problems)) if number not in firsts)
    return [problems[number] for number in sorted([*firsts, *islice(rest, FEW - len(firsts))])]


def without_repeated_notes(problems: Sequence[Problem]) -> list[Problem]:
    """The problems, each without the shared notes that the one before it has too."""
    shared = [frozenset(note for note in problem.notes if note[0] in SHARED) for problem in problems]
    pairs = zip(problems, [frozenset[Note](), *shared], strict=False)
    return [evolve(each, notes=tuple(note for note in each.notes if note not in last)) for each, last in pairs]


def say_note(text: str) -> None:
    """Print what a user should know though nothing is wrong."""
    say(f"note: {text}")


def say_notes(notes: Iterable[str]) -> None:
    """Print each of these notes once."""
    for text in dict.fromkeys(notes):
        say_note(text)


def _print_notices() -> None:
    """Let a Notice be printed as a note; other warnings as Python prints them."""
    known: set[str] = set()
    original = warnings.showwarning

    def show_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
        if not issubclass(category, Notice):
            original(message, category, *where, **options)
        elif str(message) not in known:
            known.add(str(message))
            say_note(str(message))

    warnings.showwarning = show_warning
    warnings.filterwarnings("always", category=Notice)


def finish(command: Callable[[], Result | int], as_json: bool) -> NoReturn:
    """Run a command, print its result and exit with its code; a user's mistake is a report, not a traceback."""
    _print_notices()
    try:
        result = command()
        code = result if isinstance(result, int) else show(result, as_json)
    except FluxflowError as error:
        code = report(error, as_json)
    except SystemExit as error:
        code = report(exited(error, PluginError), as_json)
    except KeyboardInterrupt as error:
        say(f"{error}: stopped" if str(error) else "stopped")
        code = 130
    end(code)


def end(code: int) -> NoReturn:
    """Exit with this code, even if nobody reads stderr any more, and if a plugin has left something that runs."""
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):  # the interpreter would flush again and exit with 120
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    if left_running():
        threading.Thread(target=_end_anyway, args=(code,), daemon=True).start()
    sys.exit(code)


def left_running() -> list[str]:
    """The threads and processes for which the interpreter waits when it exits."""
    threads = [each for each in threading.enumerate() if not each.daemon and each is not threading.main_thread()]
    processes = multiprocessing.active_children()
    return [f"thread `{each.name}`" for each in threads] + [
        f"process `{each.name}`" for each in processes if not each.daemon
    ]


def _end_anyway(code: int) -> None:
    time.sleep(PATIENCE)
    if not threading.main_thread().is_alive() and (left := left_running()):
        running = " and ".join(left)
        leave(code, f"note: {running} of a plugin did not end within {PATIENCE:g} seconds: exiting anyway")


def leave(code: int, message: str) -> NoReturn:
    """End this process and its workers without waiting for anything."""
    terminal = False
    with suppress(AttributeError, OSError, ValueError):  # closed
        terminal = sys.stderr.isatty()
    say(("\x1b[?25h" if terminal else "") + message)  # a live display hides the cursor
    end_without_waiting(code)


def exited(error: SystemExit, kind: type[E]) -> E:
    """The error that a plugin has tried to end the process, with the line that did."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = Place(shorten(last.filename), last.lineno)
    hint = ("hint", "raise an exception instead: it is reported with the component, and the run records it")
    return kind(f"a plugin ended the process: sys.exit({error.code!r})", where, [hint], code="component-failed")
