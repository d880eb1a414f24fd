"""What a proof of resumption runs, a shortened recipe, and what it compares: a trace with digests of everything."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from functools import partial
from hashlib import blake2b
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from attrs import define, evolve
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fluxflow_registry.contracts import Ending, Position, Stateful
from fluxflow_registry.engine.graph.calls import tensors
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.engine.run.run import Run
from fluxflow_registry.hookspecs import hookimpl
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import EvaluationPlan, RecipePlan, StepPlan
from fluxflow_registry.plan.updates import FROM_THE_BEGINNING, AtBatch, LossPlan, Start, UpdatePlan, WhenMet
from fluxflow_registry.state.store import pack

#: Epochs of a step, windows of batches in each, and samples of an evaluation. A step is stopped within its second
#: epoch and killed within its third, so that transitions are called before, between and after them.
EPOCHS, WINDOWS, SAMPLES = 3, 2, 8

#: Windows of batches from one checkpoint to the next: one of them is within an epoch.
BETWEEN = 3

#: How deep the attributes of a component's attributes are described.
DEPTH = 5


def shortened(plan: RecipePlan) -> RecipePlan:
    """The recipe with steps of 3 x 2 windows of batches, a checkpoint after every third window."""
    return evolve(plan, observers={}, steps=tuple(map(_step, plan.steps)))


def _step(step: StepPlan) -> StepPlan:
    settings = step.settings
    most = WINDOWS * settings.accumulate
    shorter = evolve(
        settings,
        epochs=EPOCHS,
        max_steps=min(most, settings.max_steps or most),
        checkpoint_every=BETWEEN * settings.accumulate,
        log_every=1,
    )
    return evolve(
        step,
        entry=evolve(step.entry, settings=shorter),
        updates={name: _update(update, shorter.max_steps or most) for name, update in step.updates.items()},
        until=_limited(step.until, EPOCHS) if step.until is not None else None,
        evaluations={name: _evaluation(each) for name, each in step.evaluations.items()},
    )


def _update(update: UpdatePlan, epoch: int) -> UpdatePlan:
    """What starts late starts with the second epoch, by a condition with the third; lazy losses come more often."""
    late = update.start != FROM_THE_BEGINNING
    losses = {label: _loss(loss, epoch, late) for label, loss in update.losses.items()}
    return evolve(update, start=_start(update.start, epoch), losses=losses)


def _loss(loss: LossPlan, epoch: int, late: bool) -> LossPlan:
    late = late or loss.start != FROM_THE_BEGINNING
    every = min(loss.every, epoch) if late else loss.every
    return evolve(loss, start=_start(loss.start, epoch), every=every)


def _start(start: Start, epoch: int) -> Start:
    if isinstance(start, AtBatch):
        return AtBatch(min(start.batch, epoch))
    return WhenMet(_limited(start.condition, EPOCHS - 1))


def _evaluation(plan: EvaluationPlan) -> EvaluationPlan:
    settings = plan.settings
    shorter = evolve(settings, samples=min(SAMPLES, settings.samples), batch_size=min(SAMPLES, settings.batch_size))
    return evolve(plan, entry=evolve(plan.entry, settings=shorter))


@define(eq=False)
class _Limited:
    """A transition that is called as usual, but that ends the step after a few epochs at the latest."""

    inner: Any
    needs: tuple[str, ...]
    max_epochs: int
    on_ending: Callable[[Ending | None, Any], None] | None = None

    def __call__(self, epoch: int, **others: Any) -> Ending | None:
        arguments = {"epoch": epoch, **others}
        ending: Ending | None = self.inner(**{name: arguments[name] for name in self.needs})
        if self.on_ending is not None:
            self.on_ending(ending, self.inner)
        if ending is None and epoch >= self.max_epochs:
            return Ending("the proof is long enough")
        return ending

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@define(eq=False)
class _LimitedStateful(_Limited):
    """The same for a transition that keeps something: since Python 3.12 a protocol does not see `__getattr__`."""

    def state_dict(self) -> Mapping[str, Any]:
        state: Mapping[str, Any] = self.inner.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)


def _limited(transition: ConfiguredComponent, epochs: int) -> ConfiguredComponent:
    signature = transition.component.signature
    wider: Mapping[str, None] = dict.fromkeys((*signature.needs, "epoch"))
    component = evolve(transition.component, signature=evolve(signature, needs=tuple(wider)))
    limited = _LimitedStateful if isinstance(transition.instance, Stateful) else _Limited
    return evolve(transition, component=component, instance=limited(transition.instance, signature.needs, epochs))


class Trace:
    """An observer that appends to a file, batch by batch: (kind, name, digest) in the order of execution.

    Kinds: `samples` (their numbers), `field`, `value`, `loss`, then `state`, tensor by tensor. After an
    epoch: what each transition `returned`, and what it `kept` in its attributes. The first entry
    that differs between two runs is the cause of all later differences. Two kinds only explain a difference: how models
    were `called`, by the value or loss that did, and what they keep `hidden`, in attributes that have changed since the
    step began, which may differ without any harm.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.computed: list[tuple[str, str, str]] = []
        self.closed = Position()
        self._hidden: dict[str, str] = {}
        #: Each call of a model since the last value or loss: the model, and digests of what it received and returned.
        self._calls: list[tuple[str, str]] = []
        self._hooks: list[RemovableHandle] = []

    @hookimpl
    def step_started(self, run: ObservedRun) -> None:
        """Watch the values of the step, and its transitions."""
        live = run.engine.live
        assert live is not None
        live.values.watch = self.record_computed
        self._hidden = hidden_state(live.models)
        # Not those that are compiled, together with their hooks.
        plain = {name: each for name, each in live.models.items() if each._compiled_call_impl is None}
        self._hooks = [
            each.register_forward_hook(partial(self._record_call, name), with_kwargs=True)
            for name, each in plain.items()
        ]
        for part, component in live.plan.components.items():
            if isinstance(component.instance, _Limited):
                component.instance.on_ending = partial(self.record_ending, live.plan.name, part)

    @hookimpl
    def step_ended(self) -> None:
        """Leave the models to the next step as they were."""
        for hook in self._hooks:
            hook.remove()

    @hookimpl
    def epoch_ended(self, position: Position) -> None:
        """Remember the epoch after which transitions are called."""
        self.closed = position

    def record_ending(self, step: str, part: str, ending: Ending | None, transition: Any) -> None:
        """Write what a transition returned after the epoch, and what it keeps."""
        kept = [
            ("kept", f"{part}.{name}", digest_bytes(text.encode())) for name, text in fingerprint(transition).items()
        ]
        self.write(f"transition {part}", step, self.closed, [("returned", part, repr(ending)), *kept])

    def record_computed(self, kind: str, name: str, value: Any) -> None:
        """Record a value or a loss that was just computed."""
        self.computed += [("called", f"{name}>{model}>{n}", call) for n, (model, call) in enumerate(self._calls)]
        self.computed.append((kind, name, digest(value)))
        self._calls = []

    def _record_call(self, name: str, _: nn.Module, received: Any, options: Any, returned: Any) -> None:
        self._calls.append((name, f"{digest((received, options))} {digest(returned)}"))

    @hookimpl
    def batch_ended(self, run: ObservedRun, position: Position) -> None:
        """Write the batch's line."""
        live = run.engine.live
        assert live is not None
        samples = json.dumps(live.samples)
        fields = [("field", name, digest(live.values.kept[name].bare)) for name in sorted(live.plan.fields)]
        state = [("state", name, found) for name, found in self.state(run.engine)]
        now = hidden_state(live.models).items()
        hidden = [("hidden", name, digest_bytes(text.encode())) for name, text in now if self._hidden.get(name) != text]
        entries = [("samples", "", samples), *fields, *self.computed, *state, *hidden]
        self.write("batch", live.plan.name, position, entries)
        self.computed = []

    @hookimpl
    def evaluated(self, run: ObservedRun, position: Position, name: str, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an evaluation."""
        self._calls = []  # the metrics' own
        assert run.engine.live is not None
        measured = [("metric", f"{name}/{metric}", repr(value)) for metric, value in metrics.items()]
        self.write(f"evaluation {name}", run.engine.live.plan.name, position, measured)

    def write(self, what: str, step: str, position: Position, entries: list[tuple[str, str, str]]) -> None:
        """Append a line."""
        line = {"what": what, "step": step, "at": position.run_batch, "batch": position.step_batch, "entries": entries}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def state(self, run: Run) -> Iterator[tuple[str, str]]:
        """The digest of each tensor of the run's state, and of the plain values of each part.

        Learning rates come first: weights follow from them.
        """
        assert run.live is not None
        for update in run.live.updates:
            rates = [[group.get(key) for key in SCHEDULED] for group in update.optimizer.optimizer.param_groups]
            yield f"update.{update.name}.lr", digest_bytes(repr(rates).encode())
        for name, model in run.models.items():
            parameters = dict(model.named_parameters(remove_duplicate=False))
            for key, tensor in model.state_dict().items():
                yield f"{'model' if key in parameters else 'buffer'}.{name}.{key}", digest(tensor)
        for section, parts in run.live.state().items():
            for part, value in parts.items():
                plain, packed = pack(value, f"{section} `{part}`")
                for key, tensor in packed.items():
                    yield f"{section}.{part}.{key}", digest(tensor)
                for key, inner in sorted(plain.items()) if section == "update" else [("", plain)]:
                    yield f"{section}.{part}.{key}".rstrip("."), digest_bytes(json.dumps(inner).encode())


#: What schedulers change in the groups of an optimizer.
SCHEDULED = ("lr", "momentum", "betas")

#: The attributes that every module has.
_OF_MODULES = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}


def hidden_state(models: Mapping[str, nn.Module]) -> dict[str, str]:
    """What modules keep in attributes and buffers that are not in their state dicts, each as a string."""
    found: dict[str, str] = {}
    for name, model in models.items():
        for path, module in model.named_modules(prefix=name):
            buffers = {key: module._buffers[key] for key in module._non_persistent_buffers_set}
            attributes = {key: value for key, value in vars(module).items() if key not in _OF_MODULES}
            found |= {f"{path}.{key}": describe(value, 2) for key, value in {**attributes, **buffers}.items()}
    return found


def digest(value: Any) -> str:
    """A digest of the bits of a value: a tensor, strings, or anything made of them."""
    parts = list(tensors(value))
    return digest_tensors(*parts) if parts else digest_bytes(repr(value).encode())


def fingerprint(instance: Any) -> dict[str, str]:
    """Each attribute of a component, as a string."""
    return {name: describe(value) for name, value in sorted(_attributes(instance))}


def describe(value: Any, depth: int = DEPTH) -> str:
    """The content of a value without addresses; a list is described as a tuple, because JSON has only one of them.

    A value without attributes is described by its type, and what is deeper than `depth` by `...`.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, PurePath)):
        return repr(value)
    if isinstance(value, (Enum, type)) or hasattr(value, "__qualname__"):
        return str(getattr(value, "__qualname__", value))
    if isinstance(value, Tensor):
        return digest_tensors(value)
    if isinstance(value, torch.Generator):
        return digest_tensors(value.get_state())
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, np.ndarray):
        return digest_bytes(f"{value.dtype}{value.shape}".encode(), value.tobytes())
    if depth == 0:
        return "..."
    if isinstance(value, Mapping):
        items = sorted(f"{describe(key, depth - 1)}: {describe(each, depth - 1)}" for key, each in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(describe(each, depth - 1) for each in value)) + "}"
    if isinstance(value, (list, tuple, deque)):
        return "(" + ", ".join(describe(each, depth - 1) for each in value) + ")"
    parts = (f"{attribute}={describe(each, depth - 1)}" for attribute, each in sorted(_attributes(value)))
    return f"{type(value).__qualname__}({', '.join(parts)})"


def _attributes(instance: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an instance has, in its dictionary and in the slots of its classes."""
    attributes: dict[str, Any] = {}
    for cls in type(instance).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__weakref__", "__dict__") and hasattr(instance, slot):
                attributes[slot] = getattr(instance, slot)
    yield from {**attributes, **getattr(instance, "__dict__", {})}.items()


def digest_tensors(*tensors: Tensor) -> str:
    """A digest of the types, shapes and bits of tensors."""
    return digest_bytes(*map(_bytes, tensors))


def digest_bytes(*parts: bytes) -> str:
    """A digest of bytes."""
    combined = blake2b(digest_size=16)
    for part in parts:
        combined.update(part)
    return combined.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu().contiguous()
    head = f"{plain.dtype}{list(plain.shape)}".encode()
    return head + (plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
