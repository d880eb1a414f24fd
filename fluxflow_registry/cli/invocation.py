"""What a command works with: its arguments, the plan of its recipe, the signals that stop it, its device."""

from __future__ import annotations

import signal
import tempfile
import threading
from argparse import Namespace
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from attrs import frozen

from fluxflow_registry.cli.output import leave, say
from fluxflow_registry.engine.run.signals import REQUESTS, WARNINGS
from fluxflow_registry.errors import Flag, FluxflowError, PluginError, RecipeError, one_line
from fluxflow_registry.recipe.reader import read
from fluxflow_registry.registry.registry import Registry

if TYPE_CHECKING:
    import torch

    from fluxflow_registry.engine.run.run import Run
    from fluxflow_registry.plan.steps import RecipePlan


@frozen(eq=False)
class Invocation:
    """The arguments, the plugins of this environment and, for training, the signals that stop it."""

    arguments: Namespace
    registry: Registry
    signals: Signals | None = None

    @cached_property
    def plan(self) -> RecipePlan:
        """The plan of the recipe; raises RecipeError where there is no recipe, or with every problem of it."""
        from fluxflow_registry.check.checker import check

        if self.arguments.recipe is None:
            message = "a recipe is required, as in `fluxflow-run recipes/vae_gan_flow.yaml`"
            help_ = ("command", "fluxflow-run --help")
            raise RecipeError(message, None, [help_], code="missing-argument", subject="RECIPE")
        try:
            return check(self.arguments.recipe, self.registry, self.arguments.set)
        except RecipeError:
            recognize_other_file(self.arguments, self.registry, trains=self.signals is not None)
            raise


def recognize_other_file(arguments: Namespace, registry: Registry, trains: bool) -> None:
    """Raise RecipeError with the problem that the first plugin that recognizes the file reports; else return."""
    path = arguments.recipe
    try:
        content = read(path).plain()
    except FluxflowError:
        return
    for plugin, recognize in registry.recognizers if isinstance(content, dict) else ():
        try:
            problem = recognize(path=path, content=content, arguments=arguments, trains=trains)
        except Exception as error:
            message = f"plugin `{plugin.name}` failed to identify a file that is not a recipe: {one_line(error)}"
            raise PluginError(message, path, code="component-failed") from error
        if problem is not None:
            raise RecipeError(problem)


#: Exit code of a run that a signal has stopped, with everything saved (EX_TEMPFAIL of sysexits.h).
STOPPED = 75

#: Exit code of a command that a second signal has stopped immediately.
INTERRUPTED = 130


class Signals:
    """Handles signals that end a process, from the start of the command to its end: the first one stops the run.

    Only a second request to stop (SIGINT, SIGTERM) stops it immediately: a scheduler's warning is followed by its
    SIGTERM while the checkpoint is being written. A warning that was ignored when the command started, as `nohup`
    ignores SIGHUP, stays ignored.
    """

    def __init__(self) -> None:
        #: The run that is being trained; None while there is nothing to lose.
        self.run: Run | None = None
        self._requested = False
        if threading.current_thread() is not threading.main_thread():
            say("note: signals are handled only in the main thread: one that ends this process saves no checkpoint")
            return
        warnings = [number for number in WARNINGS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in (*REQUESTS, *warnings):
            signal.signal(number, self.handle)

    def handle(self, number: int, _: FrameType | None) -> None:
        """Ask the run to stop; exit where there is no run, or where a stop has been requested before."""
        name = signal.Signals(number).name
        if self.run is None:
            leave(STOPPED, f"{name}: stopped before training started; rerun the same command to start or resume")
        if number in REQUESTS:
            if self._requested:
                leave(INTERRUPTED, f"{name} again: stopped immediately; the last checkpoint is intact")
            self._requested = True
        self.run.request_stop(name)


def interrupt_at_signals() -> None:
    """Let every signal that ends a process end a command as Ctrl-C does: what it has started and written is removed.

    For commands that save nothing; a signal that is ignored or handled stays so.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (*REQUESTS, *WARNINGS):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # another one would interrupt the cleanup
    raise KeyboardInterrupt(signal.Signals(number).name)


def require_temporary_folder() -> None:
    """Raise FluxflowError if no temporary file can be written: torch writes some before it computes anything."""
    cause, hint = "the file size limit is 0 (`ulimit -f`)", "raise the limit"
    if not _no_file_may_grow():
        try:
            tempfile.gettempdir()
            return
        except OSError as error:
            cause, hint = error.strerror or one_line(error), "set TMPDIR to a writable folder with free space"
    message = "cannot write a temporary file, which torch needs"
    raise FluxflowError(message, None, [("cause", cause), ("hint", hint)], code="unwritable-file")


def _no_file_may_grow() -> bool:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return False
    return resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 0


def device_of(name: str | None) -> torch.device:
    """The device of that name, or the best available; raises RecipeError for one that is not available.

    Also raises FluxflowError where torch cannot compute on any.
    """
    require_temporary_folder()
    import torch

    mps = torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("the meta device computes no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        known = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
        message = f"there is no device `{name}`"
        raise RecipeError(message, Flag("--device"), code="unknown-name", subject=name, choices=known) from None
    return device
