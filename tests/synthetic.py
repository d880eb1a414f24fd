"""Plugins and distributions made up for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

from attrs import frozen

from fluxflow_registry import Register, hookimpl
from fluxflow_registry.contracts import KINDS

#: A loss that every recipe with an autoencoder can ask for.
LOSS = """
    from fluxflow_registry import hookimpl


    def {name}(reconstruction, image):
        \"\"\"Made up.\"\"\"
        return (reconstruction - image).abs().mean()


    @hookimpl
    def fluxflow_register_losses(register):
        register("{name}", {name})
"""


@frozen
class Site:
    """A folder on the import path."""

    folder: Path

    def distribution(self, name: str, plugins: Mapping[str, str], version: str = "1.0", **modules: str) -> None:
        """Make up an installed distribution: `plugins` are its entry points, `modules` the sources it brings."""
        facts = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{plugin} = {module}" for plugin, module in plugins.items()]
        (facts / "entry_points.txt").write_text("\n".join(["[fluxflow]", *lines, ""]))
        for module, source in modules.items():
            (self.folder / f"{module}.py").write_text(dedent(source).lstrip("\n"))

    def loss(self, distribution: str, name: str, plugin: str | None = None) -> None:
        """Make up a distribution with one plugin, in a module called like it, that registers one loss."""
        module = plugin or distribution.replace("-", "_")
        self.distribution(distribution, {module: module}, **{module: LOSS.format(name=name)})


def plugin(**kinds: Mapping[str, Any]) -> SimpleNamespace:
    """A plugin in memory: for each kind (`losses`, `values` ...) its components by name."""
    hooks = {kind.plural: kind.hook for kind in KINDS.values()}
    return SimpleNamespace(**{hooks[plural]: _hook(hooks[plural], components) for plural, components in kinds.items()})


def _hook(name: str, components: Mapping[str, Any]) -> Any:
    def hook(register: Register) -> None:
        for label, component in components.items():
            register(label, component)

    hook.__name__ = name
    return hookimpl(hook)
