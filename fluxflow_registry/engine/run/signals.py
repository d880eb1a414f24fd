"""The signals that stop a run with a checkpoint: requests to stop, and warnings that the process will end."""

from __future__ import annotations

import signal

#: Requests to stop: Ctrl-C, and what a service manager sends before it kills.
REQUESTS = (signal.SIGINT, signal.SIGTERM)

#: Warnings that the process will end: a closed terminal, and what a batch scheduler sends before a time limit.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name))
