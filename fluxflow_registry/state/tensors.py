"""Tensors as safetensors files, written block by block so that a digest needs no second reading."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fluxflow_registry.errors import RunError
from fluxflow_registry.state import disk

#: The format's names of torch's types (https://huggingface.co/docs/safetensors).
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def refuse_types(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise RunError for a tensor whose type the format has no name for."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES or tensor.layout != torch.strided:
            kind = tensor.dtype if tensor.layout == torch.strided else tensor.layout
            message = f"the state of {what} contains `{name}`, a tensor of {kind}, which cannot be saved"
            raise RunError(message, code="wrong-type")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write and sync a safetensors file; gives its size and digest."""
    # Wide types first: then every tensor begins at a multiple of its own width.
    items = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in items:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return disk.write(path, _parts(text, [tensor for _, tensor in items]))


def _parts(header: bytes, tensors: list[Tensor]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little") + header
    for tensor in tensors:
        if tensor.numel():
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            yield plain.numpy().data
