"""A run has one process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..small import VAE_GAN


@pytest.mark.parametrize("size", ["2", "8"])
def test_processes_that_torchrun_has_started_are_refused_before_anything_is_written(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(VAE_GAN)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", size)

    refused = call(recipe, "--output", tmp_path / "runs")

    assert refused.code == 2
    assert refused.err.strip() == (
        f"WORLD_SIZE  a run is trained by one process, but torchrun has started {size}\n"
        "    hint  start `fluxflow-run` without torchrun"
    )
    assert not (tmp_path / "runs").exists()
