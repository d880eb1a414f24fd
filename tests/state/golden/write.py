"""How the golden checkpoints were made; a new format adds a folder, and the old ones stay as they are.

python -m tests.state.golden.write
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry.state import checkpoints, store

HERE = Path(__file__).parent

META = {"position": {"step": 0, "epoch": 1, "batch": 2, "step_batch": 8, "run_batch": 8}, "results": {}, "damaged": {}}


def state() -> dict[str, dict[str, Any]]:
    """Every type of tensor and every plain value that a state may hold, by formulas."""
    steps = torch.arange(6, dtype=torch.float64).reshape(2, 3) / 8
    floats = {str(t).removeprefix("torch."): steps.to(t) for t in (torch.float64, torch.float32, torch.bfloat16)}
    wholes = {str(t).removeprefix("torch."): torch.arange(5, dtype=t) for t in (torch.int64, torch.int32, torch.uint8)}
    return {
        "model": {"net": {**floats, **wholes, "half": steps.half(), "flags": torch.tensor([True, False])}},
        "update": {
            "vae": {
                "optimizer": {
                    "state": {0: {"step": torch.tensor(8.0), "exp_avg": steps.float()}, 1: {}},
                    "groups": [{}],
                },
                "scheduler": {"best": math.inf, "last_epoch": 3, "betas": (0.9, 0.99), "name": None},
                "steps": 8,
            }
        },
        "component": {"loss.vae.running": {"mean": 0.1, "empty": torch.zeros(0, 3)}},
        "tally": {"metrics": {"last": {"vae_loss": [1e-300, 0.1, -0.0]}}, "rollbacks": 0},
    }


if __name__ == "__main__":
    root = HERE / f"format_{checkpoints.FORMAT}"
    print(store.save(root, checkpoints.name_of(8, "vae_gan", "due"), state(), META))
