"""What differs after a resumption is put down to the component that keeps it, not to one with a name like its."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fluxflow_registry.cli.prove_resume import Difference, blame
from fluxflow_registry.plan.steps import RecipePlan

from ..recipes import TINY

WAITS = "{type: loss_threshold, metric: vae/l1, threshold: 1.0}"
UNTIL = "    until: {type: loss_threshold, metric: vae_loss, threshold: 1.0}\n"


def differing(name: str, kind: str = "state") -> Difference:
    """A difference in a batch of the step `vae`."""
    return Difference("vae", 1, "batch", kind, name)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("component.loss.vae.l1.count", "loss `l1`"),
        ("component.loss.vae.l1_late.count", "loss `mse`"),
        ("component.start.vae.asked", "transition `plateau`"),
        ("component.start.vae.l1_late.asked", "transition `loss_threshold`"),
        ("component.value.latent.count", "value `latent`"),
        ("component.until.asked", "transition `loss_threshold`"),
        ("update.vae.starts.l1_late", "transition `loss_threshold`"),
        ("update.vae.starts.", "transition `plateau`"),
        ("update.vae.steps", "optimizer `AdamW`"),
        ("update.vae.lr", "scheduler `CosineAnnealingLR`"),
        ("update.vae.scheduler", "scheduler `CosineAnnealingLR`"),
        ("update.vae.optimizer", "optimizer `AdamW`"),
        ("model.compressor.body.0.weight", "optimizer `AdamW`"),
        ("buffer.compressor.latent_rms", "model `compressor`"),
    ],
)
def test_a_part_of_the_state_is_of_the_component_whose_name_it_has(
    prove: Callable[..., RecipePlan], name: str, component: str
) -> None:
    late = f"          l1: {{}}\n          l1_late: {{type: mse, start: {WAITS}}}\n"
    scheduled = "        scheduler: CosineAnnealingLR\n        start: {type: plateau, metric: seen/psnr}\n"
    text = TINY.replace("          l1: {}\n", late) + scheduled + UNTIL
    text += "    evaluate: {seen: {dataset: shapes, every: 1, metrics: {psnr: {}}}}\n"

    lines = blame(prove(text), differing(name))

    assert lines[1].split("component")[1].strip() == component


def test_a_rate_without_a_scheduler_is_of_the_optimizer(prove: Callable[..., RecipePlan]) -> None:
    lines = blame(prove(TINY), differing("update.vae.lr"))

    assert "first       the learning rate of update `vae`" in lines[0]
    assert lines[1].split("component")[1].strip() == "optimizer `AdamW`"


@pytest.mark.parametrize(
    ("kind", "name", "hidden", "component"),
    [
        ("value", "posterior", ("compressor.calls",), "model `compressor`"),
        ("value", "posterior", ("expander.calls", "compressor.blocks.0.calls"), "model `compressor`"),
        ("value", "posterior", ("expander.calls",), "value `posterior`"),
        ("value", "latent", ("compressor.calls",), "value `latent`"),
        ("loss", "vae/l1", ("compressor.calls",), "loss `l1`"),
    ],
)
def test_a_model_that_keeps_something_is_named_where_what_calls_it_differs(
    prove: Callable[..., RecipePlan], kind: str, name: str, hidden: tuple[str, ...], component: str
) -> None:
    lines = blame(prove(TINY), Difference("vae", 1, "batch", kind, name, hidden))

    assert lines[1].split("component")[1].strip() == component
    assert ("register_buffer" in "".join(lines)) == component.startswith("model")
    calls = component == "value `posterior`"
    assert (lines[-1].strip() == "or          model `compressor`, which it calls") == calls


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        (
            "loss",
            "vae/l1",
            "return the state kept between batches from `state_dict`, and restore it in `load_state_dict`",
        ),
        (
            "returned",
            "until",
            "return the state kept between batches from `state_dict`, and restore it in `load_state_dict`",
        ),
        ("metric", "seen/psnr", "keep no state from one call to the next: a metric must depend only on"),
        (
            "field",
            "image",
            "keep no state from one batch to the next: a sample must depend only on its index",
        ),
    ],
)
def test_the_hint_is_what_a_component_of_the_kind_can_do(
    prove: Callable[..., RecipePlan], kind: str, name: str, hint: str
) -> None:
    text = TINY + UNTIL + "    evaluate: {seen: {dataset: shapes, every: 1, metrics: {psnr: {}}}}\n"

    words = " ".join(" ".join(blame(prove(text), differing(name, kind))).split())

    assert "likely it keeps state outside checkpoints, or uses random numbers of its own:" in words
    assert hint in words
    assert ("state_dict" in words) == (kind in ("loss", "returned"))
