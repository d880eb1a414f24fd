"""The signals that stop a run with a checkpoint: requests to stop, and warnings that the process will end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

#: Requests to stop: Ctrl-C, and what a service manager sends before it kills.
REQUESTS = (signal.SIGINT, signal.SIGTERM)

#: Warnings that the process will end: a closed terminal, and what a batch scheduler sends before a time limit.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name))


@contextmanager
def blocked() -> Iterator[None]:
    """Deliver these signals to this thread after the block; processes that it starts inherit that they are blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows has neither the call nor groups that a signal reaches
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (*REQUESTS, *WARNINGS))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
