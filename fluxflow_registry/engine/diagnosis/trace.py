"""A trace of a run: digests of everything that each batch reads, computes and changes, one line per batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fluxflow_registry.contracts import Ending, Position
from fluxflow_registry.engine.diagnosis.fingerprint import digest_bytes, digest_tensors, fingerprint
from fluxflow_registry.engine.diagnosis.shortened import listen
from fluxflow_registry.engine.graph.tensors import tensors
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.hookspecs import hookimpl
from fluxflow_registry.state.codec import pack


class Trace:
    """An observer that appends to a file, batch by batch: (kind, name, digest) in the order of execution.

    Kinds: `samples` (their numbers), `field`, `value`, `loss`, then `state`, tensor by tensor. After an
    epoch: what each transition `said`, that is returned, and what it `kept` in its attributes. The first entry
    that differs between two runs is the cause of all later differences.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.computed: list[tuple[str, str, str]] = []
        self.closed = Position()

    @hookimpl
    def step_started(self, run: ObservedRun) -> None:
        """Watch the values of the step, and its transitions."""
        live = run.engine.live
        assert live is not None
        live.values.watch = self.record_computed
        listen(live.plan, lambda *verdict: self.record_verdict(live.plan.name, *verdict))

    @hookimpl
    def epoch_ended(self, position: Position) -> None:
        """Remember the epoch after which transitions are called."""
        self.closed = position

    def record_verdict(self, step: str, part: str, said: Ending | None, transition: Any) -> None:
        """Write what a transition returned after the epoch, and what it keeps."""
        kept = [
            ("kept", f"{part}.{name}", digest_bytes(text.encode())) for name, text in fingerprint(transition).items()
        ]
        self.write(f"transition {part}", step, self.closed, [("said", part, repr(said)), *kept])

    def record_computed(self, kind: str, name: str, value: Any) -> None:
        """Record a value or a loss that was just computed."""
        self.computed.append((kind, name, digest(value)))

    @hookimpl
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Write the batch's line."""
        live = run.engine.live
        assert live is not None
        samples = json.dumps(live.samples)
        fields = [("field", name, digest(live.values.kept[name].bare)) for name in sorted(live.plan.fields)]
        state = [("state", name, found) for name, found in self.state(run.engine)]
        self.write("batch", live.plan.name, position, [("samples", "", samples), *fields, *self.computed, *state])
        self.computed = []

    @hookimpl
    def evaluated(self, run: ObservedRun, position: Position, name: str, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation."""
        assert run.engine.live is not None
        measured = [("metric", f"{name}/{metric}", repr(value)) for metric, value in metrics.items()]
        self.write(f"evaluation {name}", run.engine.live.plan.name, position, measured)

    def write(self, what: str, step: str, position: Position, entries: list[tuple[str, str, str]]) -> None:
        """Append a line."""
        line = {"what": what, "step": step, "at": position.run_batch, "batch": position.step_batch, "entries": entries}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def state(self, run: Run) -> Iterator[tuple[str, str]]:
        """The digest of each tensor of the run's state, and of the plain values of each part."""
        assert run.live is not None
        for name, model in run.models.items():
            for key, tensor in model.state_dict().items():
                yield f"model.{name}.{key}", digest(tensor)
        for section, parts in run.live.state().items():
            for part, value in parts.items():
                plain, packed = pack(value, f"{section} `{part}`")
                for key, tensor in packed.items():
                    yield f"{section}.{part}.{key}", digest(tensor)
                yield f"{section}.{part}", digest_bytes(json.dumps(plain).encode())


def digest(value: Any) -> str:
    """A digest of the bits of a value: a tensor, strings, or anything made of them."""
    parts = list(tensors(value))
    return digest_tensors(*parts) if parts else digest_bytes(repr(value).encode())
