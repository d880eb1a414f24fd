"""What observers see of a run: which values can be sampled, from which models; warnings to all observers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fluxflow_registry import Position, hookimpl
from fluxflow_registry.plan.steps import RecipePlan

from ..small import VAE_GAN
from .conftest import start

Checker = Callable[..., RecipePlan]


class Curious:
    """Requests the models upstream of values when a step starts, and warns."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.accumulate: list[int] = []
        self.warnings: list[str] = []

    @hookimpl
    def step_started(self, run: Any, step: Any, position: Position) -> None:
        self.accumulate.append(step.accumulate)
        for value, fields in (
            ("reconstruction", ["image"]),
            ("reconstruction", ["caption"]),
            ("generated_image", ["caption"]),
            ("image", ["image"]),
            ("nothing_of_that_name", ["image"]),
        ):
            self.found[f"{value} of {fields[0]}"] = run.upstream(value, fields)
        run.warn(position, "look")

    @hookimpl
    def warned(self, message: str) -> None:
        self.warnings.append(message)


def test_upstream_returns_the_models_on_which_a_sampled_value_depends(checked: Checker, tmp_path: Path) -> None:
    curious = Curious()

    start(checked(VAE_GAN, "defaults.accumulate=3"), tmp_path, [curious])

    assert curious.found == {
        "reconstruction of image": {"compressor", "expander"},
        "reconstruction of caption": None,
        "generated_image of caption": {"compressor", "expander", "flow_processor", "text_encoder"},
        "image of image": frozenset(),
        "nothing_of_that_name of image": None,
    }
    assert curious.accumulate == [3]
    assert "look" in curious.warnings
