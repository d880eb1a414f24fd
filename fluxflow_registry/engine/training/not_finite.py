"""What was not finite: the numbers of a skipped batch, recorded before they are overwritten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import frozen
from torch import Tensor

from fluxflow_registry.engine.graph.calls import tensors
from fluxflow_registry.engine.graph.values import Values


@frozen
class Evidence:
    """The losses of each batch of a window, and statistics of each value, field and gradient that is not finite.

    Of a window of several batches the values are those of the last.
    """

    losses: tuple[Mapping[str, float], ...]
    values: Mapping[str, Mapping[str, Any]]
    gradients: Mapping[str, Mapping[str, Any]]

    @property
    def losses_not_finite(self) -> list[str]:
        """The losses that are not finite in some batch of the window."""
        bad = [label for losses in self.losses for label, loss in losses.items() if not math.isfinite(loss)]
        return list(dict.fromkeys(bad))

    def samples(self, drawn: Sequence[int]) -> Sequence[int]:
        """Of the samples of a window, those of the batches in which a loss is not finite; all, where none is."""
        size = len(drawn) // len(self.losses)
        bad = [n for n, losses in enumerate(self.losses) if not all(map(math.isfinite, losses.values()))]
        return [index for n in bad for index in drawn[n * size : (n + 1) * size]] or drawn


def evidence_of(values: Values, losses: Sequence[Mapping[str, Tensor]], parameters: Mapping[str, Tensor]) -> Evidence:
    """Look through a batch: its fields and values in the order of computing, its losses, its gradients."""
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    return Evidence(
        losses=tuple({label: float(loss.detach()) for label, loss in each.items()} for each in losses),
        values={name: found for name in values.kept if (found := not_finite(values.kept[name].bare))},
        gradients={name: found for name, gradient in gradients.items() if (found := not_finite(gradient))},
    )


@torch.no_grad()
def not_finite(value: Any) -> dict[str, Any]:
    """Statistics of a value that holds NaN or infinity; empty for one that does not."""
    parts = [tensor.detach() for tensor in tensors(value) if tensor.is_floating_point()]
    if all(bool(torch.isfinite(part).all()) for part in parts):
        return {}
    # On the host: the device may have no memory left for a copy, and not every device knows double precision.
    numbers = torch.cat([part.cpu().double().reshape(-1) for part in parts])
    finite: dict[str, float] = {}
    if len(sound := numbers[torch.isfinite(numbers)]):
        (least, most), mean, deviation = sound.aminmax(), sound.mean(), sound.std(correction=0)
        finite = {"mean": float(mean), "std": float(deviation), "min": float(least), "max": float(most)}
    return {
        "shape": [list(part.shape) for part in parts] if len(parts) > 1 else list(parts[0].shape),
        "dtype": str(parts[0].dtype).removeprefix("torch."),
        "nan": int(torch.isnan(numbers).sum()),
        "inf": int(torch.isinf(numbers).sum()),
        "of": numbers.numel(),
        "finite": finite,
    }
