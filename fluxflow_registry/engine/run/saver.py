"""Checkpoints written behind the loop's back: the loop waits for a copy in memory, a thread for the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from fluxflow_registry.contracts import Position
from fluxflow_registry.errors import FluxflowError, Problem, RunError, one_line
from fluxflow_registry.state import checkpoints, store
from fluxflow_registry.state.snapshot import Buffers


@frozen
class Saved:
    """A checkpoint that was committed, or what kept it from being."""

    position: Position
    folder: Path
    error: FluxflowError | None = None


class Saver:
    """Writes one checkpoint at a time under `root`; asking for the next one waits for the one before.

    A crash during a write leaves the checkpoint before it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.buffers = Buffers()
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        self.pending: Future[Saved] | None = None
        #: The newest checkpoint of this step: what is frozen in the step is in it already.
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
        """Copy the state and start writing it; gives the outcome of the write before, where it was still going on."""
        outcome = self.wait()
        taken = store.snapshot(state, meta, self.buffers, frozen, exempt)
        self.pending = self.thread.submit(self._write, name, position, taken, keep)
        return outcome

    def poll(self) -> Saved | None:
        """The outcome of a write that has come to its end since this was asked last."""
        return self.wait() if self.pending is not None and self.pending.done() else None

    def wait(self) -> Saved | None:
        """The outcome of the write that is going on, at its end."""
        if self.pending is None:
            return None
        pending, self.pending = self.pending, None
        return pending.result()

    def close(self) -> None:
        """Let the write that is going on come to its end."""
        self.thread.shutdown()

    def _write(self, name: str, position: Position, taken: store.Snapshot, keep: int) -> Saved:
        try:
            folder = store.commit(self.root, name, taken, self.previous)
        except FluxflowError as error:
            return Saved(position, self.root / name, error)
        except Exception as error:  # lack of memory, for one: what is on the disk stands
            problem = Problem(f"the checkpoint cannot be written: {one_line(error)}", str(self.root / name))
            return Saved(position, self.root / name, RunError(problem))
        self.previous = folder
        with suppress(OSError):  # what could not be removed is removed the next time
            checkpoints.retain(self.root, keep, latest=folder)
        return Saved(position, folder)
