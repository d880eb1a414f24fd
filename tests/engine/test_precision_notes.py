"""A precision that a device only emulates is noted, with the step that asks for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fluxflow_registry.engine.preflight import precision
from fluxflow_registry.engine.preflight.precision import precision_notes
from fluxflow_registry.plan.steps import RecipePlan

from ..small import FLOW, VAE_GAN


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
@pytest.mark.parametrize("supported", [True, False])
def test_a_precision_that_the_device_emulates_is_noted(
    checked: Callable[..., RecipePlan], monkeypatch: pytest.MonkeyPatch, asked: str, supported: bool
) -> None:
    monkeypatch.setattr(precision, "computes", lambda device, name: supported)
    plan = checked(VAE_GAN + FLOW, f"steps.flow.precision={asked}")

    notes = list(precision_notes(plan, torch.device("cpu")))

    emulated = f"step `flow` has `precision: {asked}`, which device `cpu` only emulates: "
    assert notes == ([] if supported else [emulated + "it saves memory, but is likely slower than fp32"])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_the_processor_is_asked_for_its_instructions(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for answer in (True, False):
        monkeypatch.setattr(precision, "_on_cpu", lambda _, answer=answer: answer)

        assert precision.computes(torch.device("cpu"), name) is answer
    monkeypatch.undo()

    assert precision.computes(torch.device("cpu"), name) in (True, False)
