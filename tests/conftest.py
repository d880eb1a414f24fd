"""What tests of every part share: the first-party plugins, a recipe to check, the commands."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from fluxflow_registry.check.checker import check
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from .forked import WARM
from .synthetic import Site
from .warm_python import skip_sync

# Two processes of tests on two cores: threads that wait for each other by spinning would take each other's time.
# Before torch is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something about the machine, not about the code.
# Where a change is judged, the examples are the same every time; elsewhere every run looks for new ones.
settings.register_profile("fluxflow", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("fluxflow")


os.fsync = skip_sync  # commands that tests start do the same


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All processes of tests share the one that forks commands: its imports take as long as dozens of commands."""
    node.workerinput["warm_python"] = WARM.path()


def pytest_configure(config: pytest.Config) -> None:
    """Find the process that forks commands, if another process has started it."""
    WARM.shared = getattr(config, "workerinput", {}).get("warm_python")


def pytest_collection_finish() -> None:
    """What was imported and collected stays: the garbage collector need not walk over it again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """The process that forked commands ends with the tests."""
    WARM.end()


@pytest.fixture(autouse=True)
def _no_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts at the end of a run take seconds; tests that look at them are marked `charts`."""
    if request.node.get_closest_marker("charts") is None:
        monkeypatch.setattr("fluxflow_observers.graphs.observer.write_graphs", lambda logs, folder: [])


@pytest.fixture(scope="session")
def everything() -> Registry:
    """All first-party plugins."""
    return load()


@pytest.fixture
def prove(everything: Registry, tmp_path: Path) -> Callable[..., RecipePlan]:
    """Check a recipe's text, with settings and plugins."""

    def run(text: str | bytes, *settings: str, using: Registry | None = None) -> RecipePlan:
        path = tmp_path / "r.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return check(path, using or everything, settings)

    return run


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command `fluxflow-run`, in a process of its own and an empty folder."""

    def run(*arguments: Any, **environment: str) -> subprocess.CompletedProcess[str]:
        fresh = any(name.startswith("PYTHON") for name in environment)  # what only an interpreter that starts reads
        return subprocess.run(
            [sys.executable if fresh else WARM.executable, "-m", "fluxflow_registry", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A folder on the import path, in which distributions can be made up."""
    before = set(sys.modules)
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield Site(folder)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
            del sys.modules[name]
    importlib.invalidate_caches()
