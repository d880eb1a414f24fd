"""Tensors as safetensors files, written block by block, and finished models made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fluxflow_registry.errors import RunError, one_line
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
    """Write and sync a safetensors file; returns its size and digest."""
    # Wide types first: then every tensor begins at a multiple of its own width.
    items = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
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


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """A model as `config.json` and `model.safetensors`, each replaced whole; raises RunError."""
    working = folder / ".writing"
    try:
        disk.make_folder(folder)
        write_tensors(working, weights)
        working.replace(folder / "model.safetensors")
        disk.replace(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        working.unlink(missing_ok=True)
        raise RunError(f"cannot write the model: {error.strerror}", str(folder), code="unwritable-file") from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights of a model; raises RunError when either is missing or damaged."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        message = f"the folder does not contain a model: {one_line(error)}"
        raise RunError(message, str(folder), code="missing-weights") from error
