"""Losses, gradients and data that are not finite when a test says so, and what must not have changed then."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.batches import Batch
from fluxflow_registry.engine.training.component_state import served_by
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry
from fluxflow_registry.state.store import pack

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin


class Poison:
    """A loss that keeps a running mean, and that is not finite on batches of a step that a test names."""

    default_weight = 0.01
    bad: ClassVar[Callable[[int], bool]] = staticmethod(lambda batch: False)

    def __init__(self) -> None:
        self.mean = 0.0

    def __call__(self, reconstruction: Tensor, step_batch: int) -> Tensor:
        loss = reconstruction.mean() * (math.nan if Poison.bad(step_batch) else 1.0)
        self.mean = 0.9 * self.mean + 0.1 * float(loss.detach())
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean = float(state["mean"])


class Normed(nn.Module):
    """A decoder with batch normalization, and with a buffer that is replaced instead of changed."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        from fluxflow_vae.models import ExpanderBuilder

        self.inner = ExpanderBuilder(latent_channels=2, width=8)()
        self.downscale = self.inner.downscale
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, latent: Tensor) -> Tensor:
        if self.training:
            self.seen = self.seen + latent.detach().float().mean()
        normed: Tensor = self.norm(self.inner(latent))
        return normed


def normed() -> nn.Module:
    return Normed()


@frozen
class Named:
    """The dataset `shapes`, its samples called `picture 0`, `picture 1` ..."""

    def fields(self) -> Any:
        return self.shapes().fields()

    def __call__(self) -> Any:
        source = self.shapes()()
        source.name = lambda index: f"picture {index}"
        return source

    def shapes(self) -> Any:
        from fluxflow_shapes.dataset import Shapes

        return Shapes(image_size=16, length=24)


#: The small recipe with everything that keeps something between batches.
KEEPING = (VAE_GAN + FLOW).replace("l1: {}", "l1: {}\n          poison: {}")
KEEPING = KEEPING.replace("{type: expander, latent_channels: 2, width: 8}", "normed")
KEEPING = KEEPING.replace("{velocity: {}}", "{velocity: {}, poison: {with: {reconstruction: velocity}}}")
KEEPING = KEEPING.replace(
    "    epochs: 2\n    updates:\n      disc", "    epochs: 2\n    ema: {models: [expander]}\n    updates:\n      disc"
)
KEEPING = KEEPING.replace("clip_grad_norm: 1.0", "clip_grad_norm: 1.0\n        balancer: {type: inverse, window: 5}")

#: The autoencoder alone with the loss that a test can spoil: it trains fast.
POISONED = VAE_GAN.replace("l1: {}", "l1: {}\n          poison: {}")


def poisoned() -> Registry:
    """The first-party plugins, and one with the components above."""
    made = load(PLUGINS)
    components = plugin(losses={"poison": Poison}, models={"normed": normed}, datasets={"named": Named})
    add_plugin(made, Plugin("poison", "test", "1", "here"), components)
    return made


class _Bad(torch.autograd.Function):
    """Finite forward, NaN backward."""

    @staticmethod
    def forward(_: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_: Any, *gradients: Any) -> Any:
        return gradients[0] * math.nan


def bad_gradient(loss: Tensor) -> Tensor:
    with_poison: Tensor = _Bad.apply(loss)
    return with_poison


def bad_loss(loss: Tensor) -> Tensor:
    return loss * math.nan


def infinite_loss(loss: Tensor) -> Tensor:
    return loss + math.inf


def spoil(live: LiveStep, update: str, label: str, how: Callable[[Tensor], Tensor], batches: Sequence[int]) -> None:
    """Make a loss of a live step not finite on some batches."""
    turn = next(turn for turn in live.updates if turn.name == update)
    for number, loss in enumerate(turn.losses.all):
        if loss.label == label:
            call = loss.binding.call

            def with_poison(call: Any = call, **given: Any) -> Tensor:
                found: Tensor = call(**given)
                return how(found) if live.values.context["step_batch"] in batches else found

            turn.losses.all[number] = evolve(loss, binding=evolve(loss.binding, call=with_poison))


def take(live: LiveStep, batches: Sequence[Batch], first: int) -> None:
    """Train on batches `first` ... of the first epoch."""
    for number, batch in enumerate(batches, first):
        live.run(batch, Position(batch=number, step_batch=number, run_batch=number))


def first_batches(live: LiveStep, count: int) -> list[Batch]:
    return [batch for _, batch in zip(range(count), live.batches(0, 0), strict=False)]


#: Parts of a turn's state that a batch which is left out changes.
COUNTS = {"skipped_in_a_row", "skipping_since", "skips"}


def kept(live: LiveStep, updates: Sequence[str]) -> dict[str, Any]:
    """A copy of all that the updates move or keep: each number, by a name for it."""
    trained = {model for turn in live.updates if turn.name in updates for model in turn.plan.trains}
    buffers = {f"{n}.{k}": b for n, model in live.models.items() for k, b in model.named_buffers()}
    weights = {n: dict(live.models[n].named_parameters()) for n in trained}
    state = live.state()
    state["update"] = {name: part for name, part in state["update"].items() if name in updates}
    for part in state["update"].values():
        for count in COUNTS:
            part.pop(count)
    state["ema"] = {name: part for name, part in state["ema"].items() if name in trained}
    state["component"] = {name: part for name, part in state["component"].items() if served_by(name) in updates}
    del state["tally"]
    plain, tensors = pack({"buffers": buffers, "weights": weights, "state": state}, "the step")
    return {"plain": copy.deepcopy(plain), **{name: tensor.detach().clone() for name, tensor in tensors.items()}}


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The numbers that are not bit by bit the same."""
    assert before.keys() == after.keys()
    same = {
        name: torch.equal(before[name], after[name])
        if isinstance(before[name], Tensor)
        else before[name] == after[name]
        for name in before
    }
    return [name for name in before if not same[name]]
