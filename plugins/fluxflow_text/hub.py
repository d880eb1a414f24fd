"""Where the files of a published model are: a folder, or the hub's cache; nothing is ever downloaded."""

from __future__ import annotations

from pathlib import Path

from fluxflow_registry import FluxflowError

#: What a text encoder is made of: its description, its tokenizer, its weights without code in them.
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


class PretrainedError(FluxflowError):
    """A published model cannot be had: its library or its files are missing, or they do not fit."""


def missing_library(library: str, who: str) -> PretrainedError:
    """The error for a library that is not installed."""
    return PretrainedError(f"{who} needs {library}: pip install 'fluxflow-registry[text]'")


def folder_of(name: str, revision: str | None) -> Path:
    """The folder of a model by its path or its name on the Hugging Face hub.

    Raises PretrainedError, with the command that fetches the files, where they are not on this machine.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    path = Path(name).expanduser()
    if path.is_dir():
        if not any(path.glob("*.safetensors")):
            raise PretrainedError(f"{path} holds no .safetensors, and weights in torch's own format can hold code")
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise PretrainedError(f"there is no folder {path}")
    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:
        raise PretrainedError(f"`{name}` is neither a folder nor a name on the hub") from None
    if not isinstance(found, str):
        raise PretrainedError(
            f"`{name}` is neither a folder nor in {constants.HF_HUB_CACHE} (HF_HOME sets the place), and training "
            f"downloads nothing; where there is a network, fetch it with: {command(name, revision)}"
        )
    folder = Path(found).parent
    if not any(folder.glob("*.safetensors")):
        raise PretrainedError(
            f"`{name}` has no .safetensors in {folder}, and weights in torch's own format can hold code; "
            f"if it is published with some, fetch them with: {command(name, revision)}"
        )
    return folder


def command(name: str, revision: str | None) -> str:
    """The command line that fetches a model."""
    at = f" --revision {revision}" if revision else ""
    return f"hf download {name}{at} " + " ".join(f'--include "{pattern}"' for pattern in PATTERNS)
