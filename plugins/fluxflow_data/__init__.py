"""Datasets on disk or on a server: images with captions, in a folder or in tar files."""

from __future__ import annotations

from fluxflow_registry import Dataset, Register, hookimpl

from .folder.dataset import Folder
from .shards.dataset import WebDataset


@hookimpl
def fluxflow_register_datasets(register: Register[Dataset]) -> None:
    """Register the datasets."""
    register("folder", Folder)
    register("webdataset", WebDataset)
