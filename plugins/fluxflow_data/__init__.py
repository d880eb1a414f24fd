"""Datasets on disk: a folder of pictures with captions."""

from __future__ import annotations

from fluxflow_registry import Register, hookimpl

from .folder import Folder


@hookimpl
def fluxflow_register_datasets(register: Register) -> None:
    """Offer the dataset."""
    register("folder", Folder)
