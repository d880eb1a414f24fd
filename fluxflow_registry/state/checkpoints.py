"""The folder of checkpoints: which there are, whether one is whole, which are kept."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from fluxflow_registry.errors import Problem, RunError, one_line
from fluxflow_registry.state import disk

#: Version of the checkpoint's form; readers keep reading older ones.
FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"

#: `due` as often as the recipe requires, `stop` where a run was stopped, `latest` at the end of an epoch or after some
#: time, `best` by a metric, `end` of a step.
Kind = Literal["due", "stop", "latest", "best", "end"]

_PART = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*\.safetensors\Z")
_NAME = re.compile(r"(\d{9,})-([A-Za-z0-9_]+)(?:-(stop|latest|best|end))?\Z")
_ORDER: Mapping[Kind, int] = {"stop": 0, "latest": 1, "due": 2, "best": 3, "end": 4}

#: The code of the problems of a damaged checkpoint.
DAMAGED = "damaged-checkpoint"

#: Errors of a file that is missing, or no longer as it was written.
_LOST = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ENXIO}


class DamagedError(RunError):
    """A checkpoint that is not what was written: it is quarantined, and the one before it is used."""


def unreadable(path: Path, error: OSError) -> RunError:
    """The error for a file that cannot be read: damage, or a reason to leave everything as it is."""
    kind, code = (DamagedError, DAMAGED) if error.errno in _LOST else (RunError, "unreadable-file")
    return kind(Problem(f"cannot read a file of the checkpoint: {error.strerror}", str(path), code=code))


@frozen
class Found:
    """A checkpoint by its folder's name: how many batches of the run it holds, of which step, and why it was made."""

    folder: Path
    run_batch: int
    step: str
    #: An `end` holds the models alone.
    kind: Kind


def name_of(run_batch: int, step: str, kind: Kind) -> str:
    """The folder name of a checkpoint, such as `000003500-vae_warmup-end`."""
    return f"{run_batch:09d}-{step}" + ("" if kind == "due" else f"-{kind}")


def listing(root: Path) -> list[Found]:
    """The committed checkpoints under `root`, newest first; by name alone, not verified."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        match = _NAME.match(folder.name)
        if match:
            kind: Any = match[3] or "due"
            found.append(Found(folder, int(match[1]), match[2], kind))
    return sorted(found, key=lambda f: (f.run_batch, _ORDER[f.kind]), reverse=True)


def retain(root: Path, keep: int, latest: Path) -> None:
    """Remove all but the `latest`, the newest `keep` that were due, each step's best and each step's end.

    Of those that were due, the newest whose numbers are finite stays too: a rollback may need it.
    """
    found = listing(root)
    due = [f for f in found if f.kind == "due"]
    finite = next((f for f in due if is_finite(f.folder)), None)
    best = {f.step: f for f in reversed(found) if f.kind == "best"}
    kept = [*due[:keep], finite, *best.values()]
    for each in found:
        if each.kind != "end" and each not in kept and each.folder != latest:
            remove(each.folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, verified by its own digest; raises DamagedError, or RunError for one of another format."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(disk.read_file(path))
        version, files = manifest["format"], dict(manifest["files"].items())
        damaged = manifest["digest"] != own_digest(manifest)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"cannot read the manifest of the checkpoint: {one_line(error)}"
        raise DamagedError(message, str(path), code=DAMAGED) from error
    if damaged:
        raise DamagedError("the manifest of the checkpoint does not match its own digest", str(path), code=DAMAGED)
    if version != FORMAT:
        message = f"the checkpoint has format {version}, but this version reads format {FORMAT}"
        raise RunError(message, str(folder), code="unsupported-version")
    for file in files:
        if file != STATE and not _PART.match(file):
            message = f"the manifest names `{file}`, which is not a file of a checkpoint"
            raise DamagedError(Problem(message, str(folder), code=DAMAGED, subject=file))
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Verify every file and return the manifest; raises DamagedError, or RunError, naming the file."""
    manifest = read_manifest(folder)
    for file, expected in manifest["files"].items():
        try:
            # The size first: it is found at once.
            same_size = (folder / file).stat().st_size == _size(expected)
            found = disk.digest(folder / file) if same_size else None
        except OSError as error:
            raise unreadable(folder / file, error) from error
        if found != expected:
            message = "the file is damaged: its size or digest differs from the manifest"
            raise DamagedError(Problem(message, str(folder / file), code=DAMAGED, subject=file))
    return manifest


def _size(entry: Any) -> Any:
    """The size in the entry of a file in a manifest, which may be anything."""
    return entry.get("size") if isinstance(entry, dict) else None


def is_finite(folder: Path) -> bool:
    """Whether all numbers of a checkpoint are finite, as its manifest records."""
    try:
        return read_manifest(folder).get("not_finite") == []
    except RunError:
        return False


def read_meta(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint (position, results ...), without its tensors; raises RunError."""
    try:
        meta: dict[str, Any] = json.loads(disk.read_file(folder / STATE))["meta"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"cannot read the metadata of the checkpoint: {one_line(error)}"
        raise RunError(message, str(folder / STATE), code=DAMAGED) from error
    return meta


def own_digest(manifest: Mapping[str, Any]) -> str:
    """The digest of everything in a manifest but itself."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def remove(folder: Path) -> None:
    """Remove a checkpoint; it stops being one before its first file is removed."""
    doomed = folder.with_name(f".{folder.name}.removing")
    disk.remove(doomed)
    folder.rename(doomed)
    disk.remove(doomed)


def put(working: Path, final: Path) -> None:
    """Rename a complete folder into its place; where an older one exists, one of the two is always found."""
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():
        disk.remove(replaced)
        final.rename(replaced)
    working.rename(final)
    disk.sync_folder(final.parent)
    disk.remove(replaced)


def tidy(root: Path) -> None:
    """Clear away what an interrupted save or removal left."""
    for replaced in root.glob(".*.replaced"):
        final = replaced.with_name(replaced.name.removeprefix(".").removesuffix(".replaced"))
        if not final.exists():
            replaced.rename(final)
    for pattern in (".*.writing", ".*.removing", ".*.replaced"):
        for folder in root.glob(pattern):
            disk.remove(folder)
