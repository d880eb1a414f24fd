"""How long a checkpoint holds up training, against copying the memory alone and against writing it at once.

    python benchmarks/saving.py [--parameters 100e6] [--rounds 5]

The state is that of a model with AdamW and an average of the weights: four numbers a parameter. Beside the
stall itself, a loop of matrix products shows what the writing behind its back costs what goes on meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.run.checkpoints import Saver
from fluxflow_registry.state import store
from fluxflow_registry.state.store import Buffers


def state_of(parameters: int) -> dict[str, dict[str, Any]]:
    """Weights, both moments of AdamW, an average: in tensors of a million numbers, as large layers have them."""
    count = max(parameters // 1_000_000, 1)

    def tensors() -> dict[str, torch.Tensor]:
        return {f"layer{index}.weight": torch.randn(1000, 1000) for index in range(count)}

    moments = {
        index: {"exp_avg": torch.randn(1000, 1000), "exp_avg_sq": torch.rand(1000, 1000)} for index in range(count)
    }
    return {
        "model": {"net": tensors()},
        "ema": {"net": tensors()},
        "update": {"net": {"optimizer": {"state": moments, "param_groups": [{"lr": 1e-3}]}}},
    }


def seconds(action: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def work(limit: Callable[[], bool]) -> float:
    """Matrix products a second, as long as `limit` says."""
    a, b = torch.randn(512, 512), torch.randn(512, 512)
    begun, done = time.perf_counter(), 0
    while limit():
        torch.mm(a, b)
        done += 1
    return done / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=100e6)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    state, root = state_of(int(arguments.parameters)), Path(tempfile.mkdtemp())
    saver, buffers = Saver(root / "behind"), Buffers()
    found: dict[str, list[float]] = {"copy": [], "stall": [], "at once": [], "alone": [], "meanwhile": []}
    try:
        for number in range(arguments.rounds + 1):
            stall = seconds(lambda number=number: saver.start(f"{number:09d}-net", Position(), state, {}, (), 1))  # type: ignore[misc]
            meanwhile = work(lambda: saver.pending is not None and not saver.pending.done())
            saver.wait()
            until = time.perf_counter() + 2
            alone = work(lambda until=until: time.perf_counter() < until)  # type: ignore[misc]
            copy = seconds(lambda: store.snapshot(state, {}, buffers))
            at_once = seconds(lambda: store.save(root / "at_once", "000000001-net", state, {}))
            if number:  # the first one allocates
                for name, value in zip(found, (copy, stall, at_once, alone, meanwhile), strict=True):
                    found[name].append(value)
    finally:
        saver.close()
        shutil.rmtree(root)
    copy, stall, at_once, alone, meanwhile = (statistics.median(values) for values in found.values())
    size = sum(t.numel() * 4 for t in state["model"]["net"].values()) * 4 / 1e9
    print(f"{size:.1f} GB of state: the loop waits {stall:.2f} s; copying the memory takes {copy:.2f} s")
    print(f"stall / copy                    {stall / copy:.2f}")
    print(f"stall / writing at once         {stall / at_once:.3f}  ({at_once:.2f} s)")
    print(f"speed of other work meanwhile   {meanwhile / alone:.2f}")


if __name__ == "__main__":
    main()
