"""`--document`: a page of Markdown for each kind, made of what the components say of themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluxflow_registry import hookspecs
from fluxflow_registry.cli.describe.command import dataset_keys, loss_keys, model_keys, options, paste, weight_of, yaml
from fluxflow_registry.contracts import CONTEXT, KINDS, Kind
from fluxflow_registry.errors import FluxflowError
from fluxflow_registry.registry.registry import Component, Registry

#: Stands at the head of each page.
NOTE = "<!-- Written by `fluxflow-run --document`; what is changed here by hand is lost. -->"


def pages(registry: Registry) -> dict[str, str]:
    """The text of each page by its file name: `README.md`, and one page for each kind of component."""
    return {"README.md": _index(registry)} | {
        f"{kind.plural}.md": _page(kind, registry.components[name]) for name, kind in KINDS.items()
    }


def write_pages(registry: Registry, folder: Path) -> list[Path]:
    """Write the pages into `folder`, over those that are there; gives their paths. Raises FluxflowError."""
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pages(registry).items():
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise FluxflowError(f"the pages cannot be written to `{folder}`: {error.strerror}") from None
    return written


def _index(registry: Registry) -> str:
    rows = [
        f"| [{kind.plural}]({kind.plural}.md) | {_cell(_meaning(kind))} | {', '.join(_links(registry, name, kind))} |"
        for name, kind in KINDS.items()
    ]
    return "\n".join([NOTE, "", "# Components", "", "| kind | what it is | there are |", "|---|---|---|", *rows, ""])


def _links(registry: Registry, name: str, kind: Kind) -> list[str]:
    return [f"[`{each}`]({kind.plural}.md#{each.lower()})" for each in registry.names(name)]


def _page(kind: Kind, components: Mapping[str, Component]) -> str:
    lines = [NOTE, "", f"# {kind.plural.capitalize()}", "", _prose(_meaning(kind)), ""]
    if kind.name == "loss":
        lines += [f"Every loss also takes {', '.join(f'`{key}`' for key in loss_keys())}.", ""]
    if kind.name == "model":
        lines += [f"Every model also takes {', '.join(f'`{key}`' for key in model_keys())}.", ""]
    if kind.name == "dataset":
        keys = " and ".join(f"`{key}`" for key in dataset_keys())
        lines += [f"Every dataset also takes {keys}, for steps that state none of their own.", ""]
    if kind.name == "value":
        lines += ["The engine itself provides:", "", "| name | meaning |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(meaning)} |" for name, meaning in CONTEXT.items()] + [""]
    for _, component in sorted(components.items()):
        lines += [*_section(component), ""]
    return "\n".join(lines)


def _meaning(kind: Kind) -> str:
    """What the hook of a kind says of it."""
    return inspect.cleandoc(getattr(hookspecs, kind.hook).__doc__ or "")


def _section(component: Component) -> list[str]:
    lines = [f"## {component.name}", "", _prose(component.doc), ""]
    rows = options(component)
    if rows:
        lines += ["| option | default | type | meaning |", "|---|---|---|---|", *map(_row, rows), ""]
    weight = weight_of(component)
    told = [f"Weight {weight:g} by default."] if weight is not None else []
    if component.signature.needs:
        told.append("Needs " + ", ".join(f"`{need}`" for need in component.signature.needs) + ".")
    module = getattr(component.factory, "__module__", "")
    told.append(f"From `{module}`, plugin `{component.plugin.name}` of {component.plugin.distribution or 'a file'}.")
    return [*lines, " ".join(told), "", "```yaml", paste(component), "```"]


def _row(option: Mapping[str, Any]) -> str:
    default = (
        "computed" if "computed" in option else f"`{yaml(option['default'])}`" if "default" in option else "needed"
    )
    limits = f", {option['bounds']}" if "bounds" in option else ""
    return f"| `{option['name']}` | {default} | {_cell(option['type'] + limits)} | {_cell(option['meaning'])} |"


def _cell(text: str) -> str:
    return _prose(" ".join(text.split())).replace("|", "\\|")


#: What Markdown would take for marks where a formula is meant: `*` and `_` are emphasis at a word's edge only.
_MARKS = re.compile(r"((?<=\w)\*(?=\w)|<(?=[A-Za-z/!])|\\|\b_|_\b|\[(?=[^\]]*\]\())")


def _prose(text: str) -> str:
    """A docstring as Markdown: what is not between backquotes stands as it is written."""
    parts = text.split("`")
    return "`".join(part if place % 2 else _MARKS.sub(r"\\\1", part) for place, part in enumerate(parts))
