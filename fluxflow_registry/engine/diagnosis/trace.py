"""A trace of a run: digests of everything that each batch reads, computes and leaves, one line a batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_registry.contracts import Ending, Position
from fluxflow_registry.engine.diagnosis.fingerprint import inside
from fluxflow_registry.engine.diagnosis.shortened import listen
from fluxflow_registry.engine.graph.tensors import tensors
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.hookspecs import hookimpl
from fluxflow_registry.state.codec import pack


class Trace:
    """An observer that appends to a file, batch by batch: (kind, name, digest) in the order of happening.

    Kinds: `samples` (their numbers), `field`, `value`, `loss`, then `state`, tensor by tensor. After an
    epoch: what each transition `said`, and what it has `kept` within itself, attribute by attribute. What
    comes first among those that differ between two runs is what made the others differ.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[tuple[str, str, str]] = []
        self.closed = Position()

    @hookimpl
    def step_started(self, run: ObservedRun) -> None:
        """Listen to the values of the step, and to its transitions."""
        live = run.engine.live
        assert live is not None
        live.values.watch = self.computed
        listen(live.plan, lambda *asked: self.asked(live.plan.name, *asked))

    @hookimpl
    def epoch_ended(self, position: Position) -> None:
        """Know the epoch after which transitions are asked."""
        self.closed = position

    def asked(self, step: str, part: str, said: Ending | None, inner: Any) -> None:
        """Write what a transition said after the epoch, and what it keeps."""
        kept = [("kept", f"{part}.{name}", _hash(text.encode())) for name, text in inside(inner).items()]
        self.write(f"transition {part}", step, self.closed, [("said", part, repr(said)), *kept])

    def computed(self, kind: str, name: str, value: Any) -> None:
        """Take in a value or a loss that was just computed."""
        self.seen.append((kind, name, digest(value)))

    @hookimpl
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Write the batch's line."""
        live = run.engine.live
        assert live is not None
        samples = json.dumps(live.samples)
        fields = [("field", name, digest(live.values.kept[name].bare)) for name in sorted(live.plan.fields)]
        state = [("state", name, found) for name, found in self.state(run.engine)]
        self.write("batch", live.plan.name, position, [("samples", "", samples), *fields, *self.seen, *state])
        self.seen = []

    @hookimpl
    def evaluated(self, run: ObservedRun, position: Position, name: str, metrics: Mapping[str, float]) -> None:
        """Write the figures of an evaluation."""
        assert run.engine.live is not None
        figures = [("metric", f"{name}/{metric}", repr(value)) for metric, value in metrics.items()]
        self.write(f"evaluation {name}", run.engine.live.plan.name, position, figures)

    def write(self, what: str, step: str, position: Position, told: list[tuple[str, str, str]]) -> None:
        """Append a line."""
        line = {"what": what, "step": step, "at": position.run_batch, "batch": position.step_batch, "told": told}
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
                plain, found = pack(value, f"{section} `{part}`")
                for key, tensor in found.items():
                    yield f"{section}.{part}.{key}", digest(tensor)
                yield f"{section}.{part}", _hash(json.dumps(plain).encode())


def digest(value: Any) -> str:
    """A digest of the bits of a value: a tensor, texts, or anything made of them."""
    found = list(tensors(value))
    if not found:
        return _hash(repr(value).encode())
    return _hash(*(_bytes(tensor) for tensor in found))


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{list(plain.shape)}".encode()
    return head + (plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")


def _hash(*parts: bytes) -> str:
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.hexdigest()
