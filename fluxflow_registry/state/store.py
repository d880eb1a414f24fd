"""Checkpoints and models as files: a state packed as JSON and safetensors, with a manifest, committed by one rename."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import disk
from fluxflow_registry.state.checkpoints import DAMAGED, FORMAT, MANIFEST, STATE, own_digest, put, read_manifest, verify

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

#: The distributions whose versions the description of a model names.
WRITERS = ("fluxflow-registry", "torch")

#: Keys in JSON for what it does not have: tensors, tuples, and mappings whose keys are not all strings.
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"

#: For each section, each name in it: anything made of tensors and plain values.
State = Mapping[str, Mapping[str, Any]]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Write and sync a safetensors file, with a description in its header; returns its size and digest."""
    # Wide types first: then every tensor begins at a multiple of its own width.
    items = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
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


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """A model as `config.json` and `model.safetensors`, each replaced whole; raises RunError.

    The header of the weights contains the config too, and the versions that wrote them: the file alone says what it is.
    Other readers (transformers, diffusers) require `format`.
    """
    about = {"format": "pt", "model": folder.name, "config": json.dumps(config)}
    about |= {name: version(name) for name in WRITERS}
    working = folder / ".writing"
    try:
        disk.make_folder(folder)
        write_tensors(working, weights, about)
        working.replace(folder / "model.safetensors")
        disk.replace(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except OSError as error:
        working.unlink(missing_ok=True)
        raise RunError(f"cannot write the model: {error.strerror}", str(folder), code="unwritable-file") from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the weights of a model; raises RunError when either is missing or damaged."""
    try:
        config = json.loads(disk.read_file(folder / "config.json"))
        with disk.open_regular(folder / "model.safetensors"):
            return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        message = f"the folder does not contain a model: {one_line(error)}"
        raise RunError(message, str(folder), code="missing-weights") from error


def pack(state: Any, what: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """`state` as (JSON, tensors by key); raises RunError, naming `what`, for anything else in it."""
    tensors: dict[str, torch.Tensor] = {}
    return _pack(state, "", what, tensors), tensors


def _pack(value: Any, path: str, what: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = path or "value"
        while key in tensors:  # `{"a.b": x, "a": {"b": y}}` has one path for two tensors
            key += "'"
        if value.dtype not in _TYPES or value.layout != torch.strided:
            kind = value.dtype if value.layout == torch.strided else value.layout
            message = f"the state of {what} contains `{key}`, a tensor of {kind}, which cannot be saved"
            raise RunError(message, code="wrong-type")
        tensors[key] = value.detach()
        return {_TENSOR: key}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not (key is None or isinstance(key, (bool, int, float, str))):
                message = f"the state of {what} has a key of type {type(key).__name__} in `{path}`"
                hint = ("hint", "use strings or numbers as keys")
                raise RunError(Problem(message, None, (hint,), code="wrong-type", subject=path))
        parts = [(key, _pack(part, f"{path}.{key}".lstrip("."), what, tensors)) for key, part in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in parts):
            return dict(parts)
        return {_PAIRS: [[key, part] for key, part in parts]}
    if isinstance(value, (list, tuple)):
        items = [_pack(part, f"{path}.{index}".lstrip("."), what, tensors) for index, part in enumerate(value)]
        return {_TUPLE: items} if isinstance(value, tuple) else items
    message = f"the state of {what} contains `{path}` of type {type(value).__name__}"
    hint = ("hint", "use only tensors, numbers, strings, lists and mappings in it")
    raise RunError(Problem(message, None, (hint,), code="wrong-type", subject=path))


def unpack(plain: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(plain, list):
        return [unpack(part, tensors) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if _TENSOR in plain:
        return tensors[plain[_TENSOR]]
    if _TUPLE in plain:
        return tuple(unpack(part, tensors) for part in plain[_TUPLE])
    if _PAIRS in plain:
        return {key: unpack(part, tensors) for key, part in plain[_PAIRS]}
    return {key: unpack(part, tensors) for key, part in plain.items()}


class Buffers:
    """Host memory for one snapshot: allocated once, page-locked where the tensors are on a GPU."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Tensor]] = {}

    def take(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Copy the tensors of each part; the copies hold until the next call."""
        self._kept = {
            part: {name: self._copied(part, name, tensor) for name, tensor in tensors.items()}
            for part, tensors in parts.items()
        }
        devices = {tensor.device for tensors in parts.values() for tensor in tensors.values()}
        for device in devices - {torch.device("cpu")}:
            torch.accelerator.synchronize(device)
        return self._kept

    def _copied(self, part: str, name: str, tensor: Tensor) -> Tensor:
        buffer = self._kept.get(part, {}).get(name)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
        return buffer.copy_(tensor.detach(), non_blocking=True)


@frozen(eq=False)
class Snapshot:
    """A state as it was at one moment: its JSON, and its tensors by file.

    `copied` are copies; `frozen` are the tensors themselves, which nothing changes.
    """

    text: bytes
    copied: Mapping[str, Mapping[str, Tensor]]
    frozen: Mapping[str, Mapping[str, Tensor]]
    #: For each file, the tensors that may well be infinite, such as a mask among a model's buffers.
    exempt: Mapping[str, Collection[str]]


def snapshot(
    state: State,
    meta: Mapping[str, Any],
    buffers: Buffers,
    frozen: Collection[tuple[str, str]] = (),
    exempt: Mapping[tuple[str, str], Collection[str]] | None = None,
) -> Snapshot:
    """Copy a state into `buffers`, so that it can be written while training continues.

    Parts (section, name) that are `frozen` are not copied; tensors of a part that are `exempt` are not
    looked at for being finite. Raises RunError for what cannot be saved.
    """
    plain: dict[str, dict[str, Any]] = {}
    moving: dict[str, Mapping[str, Tensor]] = {}
    still: dict[str, Mapping[str, Tensor]] = {}
    for section, parts in state.items():
        plain[section] = {}
        for part, value in parts.items():
            plain[section][part], tensors = pack(value, f"{section} `{part}`")
            if tensors:
                (still if (section, part) in frozen else moving)[file_of(section, part)] = tensors
    text = json.dumps({"meta": meta, "state": plain}).encode()
    spared = {file_of(*part): keys for part, keys in (exempt or {}).items()}
    return Snapshot(text, buffers.take(moving), still, spared)


def file_of(section: str, part: str) -> str:
    """The file that holds the tensors of a part of the state."""
    return f"{section}.{part}.safetensors"


def commit(root: Path, name: str, taken: Snapshot, before: Path | None = None) -> Path:
    """Write a snapshot as a checkpoint under `root`; raises RunError, and leaves nothing incomplete.

    A frozen part that the checkpoint `before` already contains gets a second name, not a second copy.
    Everything is written and synced in a folder that begins with a dot, the manifest last; the
    rename makes it a checkpoint.
    """
    final, working = root / name, root / f".{name}.writing"
    try:
        disk.make_folder(root, parents=False)  # not those of a run that was deleted or moved
        disk.remove(working)
        working.mkdir()
        files, not_finite = _linked(taken, before, working)
        for file, tensors in {**taken.copied, **taken.frozen}.items():
            if file not in files:
                files[file] = write_tensors(working / file, tensors)
                judged = [each for name, each in tensors.items() if name not in taken.exempt.get(file, ())]
                if not all(bool(torch.isfinite(each).all()) for each in judged if each.is_floating_point()):
                    not_finite.append(file)
        files[STATE] = disk.write(working / STATE, [taken.text])
        manifest: dict[str, Any] = {"format": FORMAT, "not_finite": sorted(not_finite), "files": files}
        manifest["digest"] = own_digest(manifest)
        disk.write(working / MANIFEST, [json.dumps(manifest, indent=1).encode()])
        disk.sync_folder(working)
        put(working, final)
    except BaseException as error:
        disk.remove(working)
        if not isinstance(error, OSError):
            raise
        raise RunError(f"cannot write the checkpoint: {error.strerror}", str(final), code="unwritable-file") from error
    return final


def save(root: Path, name: str, state: State, meta: Mapping[str, Any]) -> Path:
    """Commit a checkpoint at once."""
    return commit(root, name, snapshot(state, meta, Buffers()))


def _linked(taken: Snapshot, before: Path | None, working: Path) -> tuple[dict[str, Any], list[str]]:
    """Link the frozen files of the checkpoint `before`; returns their entries, and which are not finite."""
    if before is None or not taken.frozen:
        return {}, []
    try:
        manifest = read_manifest(before)
    except RunError:
        return {}, []
    files = {file: manifest["files"][file] for file in taken.frozen if file in manifest["files"]}
    for file in files:
        disk.link(before / file, working / file)
    return files, [file for file in manifest["not_finite"] if file in files]


def load(folder: Path, manifest: Mapping[str, Any] | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The state and the meta data of a checkpoint; raises RunError unless every file verifies.

    With the `manifest` that `verify` has just returned for it, its files are not hashed a second time.
    """
    files = (manifest or verify(folder))["files"]
    try:
        content = json.loads(disk.read_file(folder / STATE))
        meta = dict(content["meta"].items())
        state = {
            section: {
                part: unpack(plain, load_file(folder / file) if (file := file_of(section, part)) in files else {})
                for part, plain in parts.items()
            }
            for section, parts in content["state"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        message = f"cannot read the checkpoint: {one_line(error)}"
        raise RunError(message, str(folder), code=DAMAGED) from error
    return state, meta
