"""Writing checkpoints in the background: the loop waits for a copy in memory only, a thread for the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import FluxflowError, RunError, one_line
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.snapshot import Buffers


@frozen
class Saved:
    """A checkpoint that was committed, or the error that prevented it."""

    position: Position
    folder: Path
    error: FluxflowError | None = None


class Saver:
    """Writes one checkpoint at a time under `root`; starting the next one waits for the one before.

    A crash during a write leaves the checkpoint before it intact.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.buffers = Buffers()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Saved] | None = None
        #: The newest checkpoint of this step: it has the frozen parts of the state already.
        self.previous: Path | None = None

    def start(
        self,
        name: str,
        position: Position,
        state: store.State,
        meta: Mapping[str, Any],
        frozen: Collection[tuple[str, str]],
        keep: int,
        exempt: Mapping[tuple[str, str], Collection[str]] | None = None,
    ) -> Saved | None:
        """Copy the state and start writing it; returns the outcome of the write before if it was still running."""
        outcome = self.wait()
        snapshot = store.snapshot(state, meta, self.buffers, frozen, exempt)
        self.pending = self.thread.submit(self._write, name, position, snapshot, keep)
        return outcome

    def poll(self) -> Saved | None:
        """The outcome of a write that has finished since the last call; None while it runs."""
        return self.wait() if self.pending is not None and self.pending.done() else None

    def wait(self) -> Saved | None:
        """Wait for the write that is running, and return its outcome."""
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        return pending.result()

    def close(self) -> None:
        """Wait for the write that is running, and start no other."""
        self.thread.shutdown()

    def _write(self, name: str, position: Position, snapshot: store.Snapshot, keep: int) -> Saved:
        try:
            folder = store.commit(self.root, name, snapshot, self.previous)
        except FluxflowError as error:
            return Saved(position, self.root / name, error)
        except Exception as error:  # lack of memory, for example: what is on the disk is intact
            message = f"cannot write the checkpoint: {one_line(error)}"
            failure = RunError(message, str(self.root / name), code="unwritable-file")
            return Saved(position, self.root / name, failure)
        self.previous = folder
        with suppress(OSError):  # what cannot be removed now is removed the next time
            checkpoints.retain(self.root, keep, latest=folder)
        return Saved(position, folder)
