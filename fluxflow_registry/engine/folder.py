"""The run's folder: found again by the same recipe, held by one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from fluxflow_registry.errors import Problem, RunError

IDENTITY = "run.json"
LOCK = ".lock"


@frozen
class RunFolder:
    """A folder and the identity of the recipe that runs in it."""

    path: Path
    digest: str

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are committed."""
        return self.path / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run in it is complete."""
        return bool(read_identity(self.path).get("finished"))

    def lock(self) -> IO[str]:
        """Hold the folder until the process ends; raises RunError naming the process that holds it."""
        try:
            handle = (self.path / LOCK).open("a+")
        except OSError as error:
            raise RunError(Problem(f"cannot be written: {error.strerror}", str(self.path))) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            handle.close()
            raise RunError(Problem(f"is in use by {holder}", str(self.path))) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {os.uname().nodename}")
        handle.flush()
        return handle

    def write_identity(self, finished: bool) -> None:
        """Record which recipe runs here, and whether it is through."""
        content = json.dumps({"recipe": self.digest, "finished": finished}, indent=1) + "\n"
        working = self.path / f".{IDENTITY}.writing"
        working.write_text(content)
        working.replace(self.path / IDENTITY)


def digest_of(recipe: Any) -> str:
    """The identity of a resolved recipe: the same settings, the same digest."""
    return sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def read_identity(folder: Path) -> dict[str, Any]:
    """What is recorded of a run; empty where nothing is."""
    try:
        content = json.loads((folder / IDENTITY).read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def unfinished(root: Path, name: str, digest: str) -> tuple[RunFolder | None, list[Path]]:
    """The newest unfinished run of this very recipe, and unfinished runs of other forms of it."""
    others: list[Path] = []
    for path in sorted(root.glob(f"{name}-*"), reverse=True):
        identity = read_identity(path)
        if not identity or identity.get("finished"):
            continue
        if identity.get("recipe") == digest:
            return RunFolder(path, digest), others
        others.append(path)
    return None, others


def new(root: Path, name: str, digest: str) -> RunFolder:
    """A new folder `<name>-<YYYYMMDD-HHMMSS>`; raises RunError where it cannot be made."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1000):
            path = root / (f"{name}-{stamp}" + (f"-{attempt}" if attempt else ""))
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return RunFolder(path, digest)
    except OSError as error:
        raise RunError(Problem(f"the output folder cannot be written: {error.strerror}", str(root))) from None
    raise RunError(Problem("no free name for a run's folder", str(root)))
