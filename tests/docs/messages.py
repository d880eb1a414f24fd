"""Collects everything that a user can read on one page, to be proofread: `python -m tests.docs.messages`.

Every string in the framework and its plugins that reads like words is shown with its file, line and function, with
`{...}` where a message is filled in. Docstrings of components are not: `docs/components` shows them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Two parts with a space between them, and a letter in one of them.
WORDS = re.compile(r"\S +\S*[A-Za-z]|[A-Za-z]\S* +\S")


def text_of(node: ast.expr) -> str | None:
    """A string as a reader sees it, its values in braces; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = (
            str(part.value)
            if isinstance(part, ast.Constant)
            else "{" + ast.unparse(part.value if isinstance(part, ast.FormattedValue) else part) + "}"
            for part in node.values
        )
        return "".join(parts)
    return None


def docstrings(tree: ast.Module) -> set[int]:
    """The expressions that document something: they are no messages."""
    return {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def messages(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, function and text of every string of a file that reads like words, in the file's order."""
    tree = ast.parse(path.read_text())
    skipped = docstrings(tree)

    def walk(node: ast.AST, inside: str) -> Iterator[tuple[int, str, str]]:
        for child in ast.iter_child_nodes(node):
            if id(child) in skipped:
                continue
            text = text_of(child) if isinstance(child, ast.expr) else None
            if text is None:
                name = child.name if isinstance(child, ast.FunctionDef | ast.ClassDef) else inside
                yield from walk(child, name)
            elif WORDS.search(text):
                yield child.lineno, inside, text  # type: ignore[attr-defined]

    yield from walk(tree, "")


def page() -> str:
    """Every message, file by file, as Markdown."""
    lines = ["# What a user can read", ""]
    for folder in ("fluxflow_registry", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found = list(messages(path))
            if found:
                lines += [f"## {path.relative_to(ROOT)}", ""]
                lines += [f"- {line} `{inside}`: {' '.join(text.split())}" for line, inside, text in found]
                lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(page())
