"""Precisions that a device has no instructions for: it computes them by way of others, slower than fp32."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import torch

from fluxflow_registry.plan.steps import RecipePlan


def precision_notes(plan: RecipePlan, device: torch.device) -> Iterator[str]:
    """A sentence for each step whose precision the device only emulates."""
    for step in plan.steps:
        precision = step.settings.precision
        if precision != "fp32" and not computes(device, precision):
            what = f"step `{step.name}` has `precision: {precision}`, which device `{device}` only emulates"
            yield f"{what}: it saves memory, but is likely slower than fp32"


def computes(device: torch.device, precision: str) -> bool:
    """Whether a device has instructions for bf16 or fp16; True where torch does not know."""
    if device.type == "cuda" and precision == "bf16":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(_on_cpu(precision))
    return True


def _on_cpu(precision: str) -> bool:
    """As torch and the library of its kernels report it; x86 processors without AVX512-BF16 convert bf16 to fp32."""
    try:
        if precision == "bf16" and platform.machine() in ("x86_64", "AMD64"):
            return torch.cpu._is_avx512_bf16_supported()
        name = f"_is_mkldnn_{precision}_supported"
        return bool(getattr(torch.ops.mkldnn, name)())
    except (AttributeError, RuntimeError):  # a build of torch without them
        return True
