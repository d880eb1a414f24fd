"""A plugin file with components that fail as the environment says, and recipes that use them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..small import FLOW, PLUGINS, VAE_GAN

#: `SPOIL` is `how:batch,batch ...`: what happens, on which batches of the step.
PLUGIN = '''
import math
import os

import torch

from fluxflow_registry import hookimpl
from fluxflow_shapes.dataset import Shapes


def spoilt(how, batch=None):
    """Whether it is to happen now."""
    stated, _, batches = os.environ.get("SPOIL", "").partition(":")
    return stated == how and (batch is None or str(batch) in batches.split(","))


class Bad(torch.autograd.Function):
    """Finite forward, NaN backward."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * math.nan


def exhausted():
    """What torch raises when the device has no memory left."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Exhausting(torch.autograd.Function):
    """Runs out of memory on the way back."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, gradient):
        exhausted()


def depth(reconstruction, step_batch: int):
    """A loss that is not finite when it is reported."""
    mean = reconstruction.mean()
    if spoilt("loss", step_batch):
        return root(mean - mean.detach() - 1.0)
    if spoilt("gradient", step_batch):
        return Bad.apply(mean)
    if spoilt("memory in a loss", step_batch):
        exhausted()
    if spoilt("memory in the walk back", step_batch):
        return Exhausting.apply(mean)
    return mean


def root(number):
    """Not defined for what is negative."""
    return torch.sqrt(number)


def brightness(reconstruction, step_batch: int):
    """A value that is not finite when it is reported."""
    if spoilt("memory in a value", step_batch):
        exhausted()
    return reconstruction * (math.inf if spoilt("value", step_batch) else 1.0)


class Spotted:
    """The shapes, sample 5 with a spot that is no number."""

    def fields(self):
        return Shapes(image_size=16, length=24).fields()

    def __call__(self):
        source = Shapes(image_size=16, length=24)()
        read = source.batch

        def batch(indices, seed):
            fields = read(indices, seed)
            for place, index in enumerate(indices):
                if index == 5 and spoilt("data"):
                    fields["image"][place, 0, 3, 3] = math.nan
            return fields

        source.batch = batch
        source.name = lambda index: f"picture {index}"
        return source


class Adam(torch.optim.Adam):
    """Runs out of memory when it steps."""

    taken = 0

    def step(self, closure=None):
        self.taken += 1
        if spoilt("memory in the optimizer", self.taken):
            exhausted()
        return super().step(closure)


def hungry(parameters):
    return Adam(parameters, lr=1e-3)


judgements = []


def judged(generated_image):
    judgements.append(len(generated_image))
    if spoilt("memory in an evaluation") and len(judgements) > 1:  # the first one is tried before training
        exhausted()
    return generated_image.mean()


@hookimpl
def fluxflow_register_losses(register):
    register("depth", depth)


@hookimpl
def fluxflow_register_values(register):
    register("brightness", brightness)


@hookimpl
def fluxflow_register_datasets(register):
    register("spotted", Spotted)


@hookimpl
def fluxflow_register_optimizers(register):
    register("hungry", hungry)


@hookimpl
def fluxflow_register_metrics(register):
    register("judged", judged)
'''.lstrip()

#: The autoencoder alone, with a loss and a value that the plugin spoils.
SPOILT = (
    VAE_GAN.replace(
        "l1: {}", "l1: {}\n          depth: {weight: 0.01}\n          mse: {with: {reconstruction: brightness}}"
    )
    .replace("{type: shapes, image_size: 16, length: 24}", "spotted")
    .replace("log_every: 2", "log_every: 1")
)

#: The same with everything in which memory can run out, and an evaluation.
HUNGRY = (
    SPOILT.replace("optimizer: {type: AdamW, lr: 1.0e-3}\n        scheduler", "optimizer: hungry\n        scheduler")
    + FLOW
)
HUNGRY = HUNGRY.replace("{shapes_judge: {}}", "{judged: {}}")


@pytest.fixture
def spoiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `small.yaml`, `hungry.yaml` and the plugin file `spoil.py`."""
    (tmp_path / "spoil.py").write_text(PLUGIN)
    (tmp_path / "small.yaml").write_text(SPOILT)
    (tmp_path / "hungry.yaml").write_text(HUNGRY)
    monkeypatch.setenv("FLUXFLOW_PLUGINS", ",".join(PLUGINS))
    monkeypatch.delenv("SPOIL", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)
