"""Where the files of a published model are: in a folder, or in the cache of the Hugging Face hub.

Nothing is ever downloaded.
"""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from fluxflow_registry import FluxflowError, Problem


class PretrainedError(FluxflowError):
    """A published model cannot be used: its library or its files are missing, or they do not fit."""


def missing_library(component: str, library: str, extra: str) -> PretrainedError:
    """The error for a library that is not installed."""
    install = ("command", f"pip install 'fluxflow-registry[{extra}]'")
    message = f"model `{component}` needs the library {library}, which is not installed"
    return PretrainedError(Problem(message, None, (install,), code="missing-dependency", subject=library))


@frozen
class Published:
    """A published model by its folder or its name on the hub, and the patterns of the files that it consists of."""

    name: str
    revision: str | None
    patterns: tuple[str, ...]
    subfolder: str | None = None

    def folder(self) -> Path:
        """The folder of the files; raises PretrainedError, with the command that fetches them, if there is none."""
        from huggingface_hub import constants, try_to_load_from_cache

        path = Path(self.name).expanduser()
        if path.is_dir():
            return path / (self.subfolder or "")
        if path.is_absolute() or self.name.startswith((".", "~")) or self.name.count("/") > 1:
            raise PretrainedError(
                Problem(f"folder `{path}` does not exist", code="missing-file", subject=self.name),
            )
        inside = f"{self.subfolder}/" if self.subfolder else ""
        try:
            config = try_to_load_from_cache(self.name, f"{inside}config.json", revision=self.revision)
        except ValueError:
            message = f"`{self.name}` is neither a folder nor a valid name of the Hugging Face hub"
            raise PretrainedError(Problem(message, code="missing-weights", subject=self.name)) from None
        if not isinstance(config, str):
            what = f"`{self.name}`" + (f", subfolder `{self.subfolder}`," if self.subfolder else "")
            message = f"{what} is neither a folder nor in the cache of the Hugging Face hub"
            hint = "training downloads nothing: fetch the files where there is a network, or set HF_HOME"
            notes = (("status", f"the cache is {constants.HF_HUB_CACHE}"), ("hint", hint), ("command", self._fetch()))
            raise PretrainedError(Problem(message, None, notes, code="missing-weights", subject=self.name))
        return Path(config).parent

    def without_safetensors(self, folder: Path, wanted: str) -> PretrainedError:
        """The error for a folder that has no weights of the safe format."""
        why = ("cause", "weights in torch's own format can contain code, and are not read")
        fetch = [] if Path(self.name).expanduser().is_dir() else [("command", self._fetch())]
        message = f"folder `{folder}` contains no {wanted}"
        return PretrainedError(Problem(message, None, (why, *fetch), code="missing-weights", subject=self.name))

    def _fetch(self) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        return f"hf download {self.name}{revision} " + " ".join(f'--include "{each}"' for each in self.patterns)
