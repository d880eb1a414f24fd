"""Copies of tensors that training may go on to change, in memory that is used again for each copy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Buffers:
    """Host memory for one snapshot: allocated once, page-locked where the tensors are on a GPU."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Tensor] = {}

    def take(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copy the tensors of each part; the copies hold until the next call."""
        kept: dict[tuple[str, str], Tensor] = {}
        copies: dict[str, dict[str, Tensor]] = {}
        device = None
        for part, tensors in parts.items():
            copies[part] = {}
            for name, tensor in tensors.items():
                buffer = self._fitting((part, name), tensor)
                buffer.copy_(tensor.detach(), non_blocking=True)
                kept[part, name] = copies[part][name] = buffer
                device = tensor.device if tensor.device.type != "cpu" else device
        if device is not None:
            torch.accelerator.synchronize(device)
        self._kept = kept
        return copies

    def _fitting(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._kept.get(key)
        if buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype:
            return buffer
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
