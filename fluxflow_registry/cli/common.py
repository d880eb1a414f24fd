"""What all commands share: loading plugins, reporting problems, output as text or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from fluxflow_registry.errors import FluxflowError
from fluxflow_registry.registry import Registry, load


def load_plugins(files: Sequence[str]) -> Registry:
    """The registry of this environment: all plugins, or those that FLUXFLOW_PLUGINS names, and the files."""
    stated = os.environ.get("FLUXFLOW_PLUGINS")
    names = None if stated is None else [name.strip() for name in stated.split(",")]
    return load(names, [Path(file) for file in files])


def emit(text: str) -> None:
    """Print a result on stdout; a reader that has gone away (`| head`) is no error."""
    try:
        sys.stdout.write(text.rstrip("\n") + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        rows = [{"message": p.message, "where": p.where, "notes": dict(p.notes)} for p in problems]
        emit_json({"problems": rows})
    else:
        say("\n\n".join(str(problem) for problem in problems))
        if len(problems) > 1:
            say(f"\n{len(problems)} problems")
    return error.exit_code


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
