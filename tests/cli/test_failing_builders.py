"""A builder of a plugin that fails is reported with the line that failed, whatever it builds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..small import VAE_GAN

PLUGIN = """
from attrs import frozen
from fluxflow_registry import Field, hookimpl


def helper():
    return {}["missing"]


@frozen
class Building:
    def __call__(self):
        return helper()


@frozen
class Optimizing:
    def __call__(self, parameters):
        return helper()


@frozen
class Scheduling:
    def __call__(self, optimizer, total):
        return helper()


@frozen
class Balancing:
    def __call__(self, losses):
        return helper()


@frozen
class Opening:
    def fields(self):
        return {"image": Field((3, 16, 16)), "caption": Field(None, "text")}

    def __call__(self):
        return helper()


@frozen
class Describing(Opening):
    def fields(self):
        return helper()


@frozen
class Watching:
    def metrics(self):
        return helper()

    def __call__(self, epoch):
        return None


@frozen
class Drawing:
    def draws(self):
        return helper()


def losing(reconstruction):
    return helper()


@hookimpl
def fluxflow_register_losses(register):
    register("failing", losing)


@hookimpl
def fluxflow_register_models(register):
    register("failing", Building)


@hookimpl
def fluxflow_register_optimizers(register):
    register("failing", Optimizing)


@hookimpl
def fluxflow_register_schedulers(register):
    register("failing", Scheduling)


@hookimpl
def fluxflow_register_balancers(register):
    register("failing", Balancing)


@hookimpl
def fluxflow_register_datasets(register):
    register("failing", Opening)
    register("describing", Describing)


@hookimpl
def fluxflow_register_transitions(register):
    register("failing", Watching)


@hookimpl
def fluxflow_register_observers(register):
    register("failing", Drawing)
"""

UPDATE = "steps.vae_gan.updates.vae"


@pytest.mark.parametrize(
    "setting",
    [
        "models.compressor={type: failing}",
        f"{UPDATE}.optimizer={{type: failing}}",
        f"{UPDATE}.scheduler={{type: failing}}",
        f"{UPDATE}.balancer={{type: failing}}",
        f"{UPDATE}.losses.failing={{}}",
        "datasets.shapes={type: failing}",
        "datasets.shapes={type: describing}",
        "steps.vae_gan.until=failing",
        "observers.failing={}",
    ],
)
def test_a_builder_that_fails_is_reported_with_the_line_that_failed(
    call: Callable[..., Any], tmp_path: Path, setting: str
) -> None:
    (tmp_path / "small.yaml").write_text(VAE_GAN)
    (tmp_path / "failing.py").write_text(PLUGIN)

    answer = call("small.yaml", "--plugin", "failing.py", "--check", "--set", setting)

    assert answer.code == 2
    assert "failed" in answer.err or "cannot be built" in answer.err
    assert "KeyError: 'missing'" in answer.err
    assert re.search(r'raised at +failing.py:7  return \{\}\["missing"\]', answer.err)
