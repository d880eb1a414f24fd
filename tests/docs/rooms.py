"""The list of rooms in CONTRIBUTING: every file of the framework with the first sentence of its docstring.

`python -m tests.docs.rooms` writes it into the page; a law of the tree compares it.
"""

from __future__ import annotations

import ast
from pathlib import Path

from tests.laws.test_tree import CORE, MAY_IMPORT, ROOT

PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: python -m tests.docs.rooms writes this list -->\n", "<!-- end of rooms -->"


def rooms() -> str:
    """The list in Markdown, in the order in which rooms may import each other."""
    entries = [CORE / name if (CORE / name).is_dir() else CORE / f"{name}.py" for name in MAY_IMPORT]
    return "".join(line for entry in entries for line in _lines(entry, ""))


def _lines(entry: Path, indent: str) -> list[str]:
    if entry.is_file():
        return [f"{indent}- `{entry.name}`: {_summary(entry)}\n"]
    inside = sorted(path for path in entry.iterdir() if path.name[0] != "_")
    inner = [line for path in inside for line in _lines(path, f"{indent}  ")]
    return [f"{indent}- **`{entry.name}/`**: {_summary(entry / '__init__.py')}\n", *inner]


def _summary(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n", 1)[0]


def listed() -> str:
    """The list as it stands in the page."""
    return PAGE.read_text().split(BEGIN, 1)[1].split(END, 1)[0]


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace(listed(), rooms()))
