"""What FluxFlow has left in an output folder: a run that only FluxFlow itself can finish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fluxflow_registry import Problem

#: FluxFlow's record of where a run is; no more of it than this is read.
STATE, BYTES = "training_state.json", 1 << 20


def unfinished_run(folder: str) -> Problem | None:
    """A note on the run of FluxFlow in a folder, which training leaves as it is; None if there is none."""
    path = Path(folder).expanduser() / STATE
    try:
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            state = json.loads(stream.read(BYTES))
    except (OSError, ValueError, RecursionError):
        state = None
    place = _place(state) if isinstance(state, dict) else ""
    message = f"`{folder}` contains a run of FluxFlow{place}, which cannot be resumed here: training starts over"
    notes = [
        ("cause", "its weights belong to networks that this framework does not have"),
        ("hint", "finish it with FluxFlow; its files stay as they are, and new runs have folders of their own"),
    ]
    return Problem(message, str(path), notes, code="foreign-run", subject=folder)


def _place(state: dict[str, Any]) -> str:
    """Where the run is, in words."""
    pipeline = state.get("pipeline")
    of_step = pipeline if isinstance(pipeline, dict) else {}
    name = of_step.get("current_step_name")
    epoch, batch = _count(of_step.get("current_step_epoch", state.get("epoch"))), _count(state.get("batch_idx"))
    parts = [f"step `{name}`"] if isinstance(name, str) and name.isprintable() and len(name) <= 64 else []
    parts += [f"epoch {epoch + 1}"] if epoch is not None else []
    parts += [f"batch {batch}"] if batch is not None else []
    return f" ({', '.join(parts)})" if parts else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12 else None
