"""Checkpoints: safetensors, JSON and a manifest with digests, committed by one rename.

A checkpoint is whole or it is not there. Nothing is pickled and nothing is executed on reading.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state.codec import pack, unpack

#: Version of the checkpoint's form; readers keep reading older ones.
FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
_PART = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\.safetensors\Z")
_NAME = re.compile(r"(\d{9,})-([A-Za-z0-9_]+)(-end)?\Z")


@frozen
class Found:
    """A checkpoint folder by its name: how many batches of the run it holds, of which step, and whether its end."""

    folder: Path
    run_batch: int
    step: str
    end: bool


def name_of(run_batch: int, step: str, end: bool) -> str:
    """The folder name of a checkpoint, such as `000003500-vae_warmup-end`."""
    return f"{run_batch:09d}-{step}" + ("-end" if end else "")


def save(root: Path, name: str, state: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> Path:
    """Commit a checkpoint under `root`; `state` is {section: {name: anything with tensors}}.

    Each (section, name) becomes one safetensors file. Everything is written and synced in a folder
    that begins with a dot, the manifest last; the rename makes it a checkpoint.
    """
    root.mkdir(parents=True, exist_ok=True)
    final, working = root / name, root / f".{name}.writing"
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir()
    try:
        plain: dict[str, dict[str, Any]] = {}
        for section, parts in state.items():
            plain[section] = {}
            for part, value in parts.items():
                plain[section][part], tensors = pack(value, f"{section} `{part}`")
                if tensors:
                    _write_tensors(working / f"{section}.{part}.safetensors", tensors)
        _write(working / STATE, json.dumps({"meta": meta, "state": plain}).encode())
        files = sorted(path.name for path in working.iterdir())
        manifest: dict[str, Any] = {"format": FORMAT, "files": {file: _digest(working / file) for file in files}}
        manifest["digest"] = _own_digest(manifest)
        _write(working / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folder(working)
        if final.exists():
            remove(final)
        working.rename(final)
        _sync_folder(root)
    except OSError as error:
        shutil.rmtree(working, ignore_errors=True)
        raise RunError(Problem(f"the checkpoint cannot be written: {error.strerror}", str(final))) from error
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        raise
    return final


def load(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The state and the meta data of a checkpoint; raises RunError unless every file verifies."""
    verify(folder)
    try:
        content = json.loads((folder / STATE).read_bytes())
        state: dict[str, dict[str, Any]] = {}
        for section, parts in content["state"].items():
            state[section] = {}
            for part, plain in parts.items():
                path = folder / f"{section}.{part}.safetensors"
                state[section][part] = unpack(plain, load_file(path) if path.exists() else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RunError(Problem(f"the checkpoint cannot be read: {one_line(error)}", str(folder))) from error
    return state, content["meta"]


def verify(folder: Path) -> None:
    """Hold every file against the manifest, and the manifest against itself; raises RunError naming the file."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        files = dict(manifest["files"])
        own, version = manifest["digest"], manifest["format"]
        damaged = own != _own_digest(manifest)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(Problem(f"the manifest cannot be read: {one_line(error)}", str(folder / MANIFEST))) from error
    if damaged:
        raise RunError(Problem("the manifest does not have its own digest", str(folder / MANIFEST)))
    if version != FORMAT:
        message = f"is a checkpoint of format {version}; this version reads format {FORMAT}"
        raise RunError(Problem(message, str(folder)))
    for file, expected in files.items():
        if file != STATE and not _PART.match(file):
            raise RunError(Problem(f"the manifest names `{file}`, which is no file of a checkpoint", str(folder)))
        try:
            found = _digest(folder / file)
        except OSError as error:
            raise RunError(Problem(f"cannot be read: {error.strerror}", str(folder / file))) from error
        if found != expected:
            raise RunError(Problem("is damaged: its size or digest is not the manifest's", str(folder / file)))


def listing(root: Path) -> list[Found]:
    """The committed checkpoints under `root`, newest first; by name alone, not verified."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        match = _NAME.match(folder.name)
        if match:
            found.append(Found(folder, int(match[1]), match[2], match[3] is not None))
    return sorted(found, key=lambda f: (f.run_batch, f.end), reverse=True)


def retain(root: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` and the ends of steps."""
    passing = [found for found in listing(root) if not found.end]
    for found in passing[keep:]:
        remove(found.folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint; it stops being one before its first file goes."""
    doomed = folder.with_name(f".{folder.name}.removing")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def lay_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is none any more but can still be looked at."""
    aside = folder.with_name(f".{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def tidy(root: Path) -> None:
    """Clear away what an interrupted save or removal left."""
    for pattern in (".*.writing", ".*.removing"):
        for folder in root.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def write_model(folder: Path, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """A model as `config.json` and `model.safetensors`, each replaced whole."""
    working = folder / ".writing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(working, weights)
        working.replace(folder / "model.safetensors")
        _write(working, (json.dumps(config, indent=2) + "\n").encode())
        working.replace(folder / "config.json")
        _sync_folder(folder)
    except OSError as error:
        working.unlink(missing_ok=True)
        raise RunError(Problem(f"the model cannot be written: {error.strerror}", str(folder))) from error


def read_model(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The config and the weights of a model; raises RunError when either is missing or damaged."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return config, load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise RunError(Problem(f"holds no model: {one_line(error)}", str(folder))) from error


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    # Clones: tensors that share memory (tied weights) are no safetensors otherwise.
    copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:  # a full disk, told in its own words
        raise OSError(errno.EIO, str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> dict[str, Any]:
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def _own_digest(manifest: Mapping[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
