"""A recipe's parts, and its text, laid out as a person would write it: sections in blocks, entries on one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from fluxflow_registry import Location, redact
from fluxflow_registry.commands import Node, as_node

#: The length of a line with its comment, where possible.
WIDTH = 116

#: A string that YAML reads as itself without quotes, unless it is one of the words.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./ -]*\Z")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def entry(where: Location, comment: str = "", /, **children: object) -> Node:
    """A mapping; children that are None are left out."""
    return as_node({key: child for key, child in children.items() if child is not None}, where, comment)


def component(type_: str, where: Location, comment: str = "", /, **options: object) -> Node:
    """A component of a type, with its options."""
    return entry(where, comment, type=type_, **options)


def text_of(root: Node, head: str) -> str:
    """The recipe as YAML, below a comment; it is read back as the same values."""
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for number, (key, child) in enumerate(root.value.items()):
        if number and isinstance(child.value, dict):
            lines.append("")
        lines += _entry(key, child, 0)
    return "\n".join(lines) + "\n"


def _entry(key: str, node: Node, depth: int) -> Iterator[str]:
    indent = "  " * depth
    name = f"{indent}{scalar(key)}:"
    flow = f"{name} {inline(node)}"
    # A mapping that contains mappings has a line for each of them.
    nested = isinstance(node.value, dict) and any(isinstance(child.value, dict) for child in node.value.values())
    if not nested and (len(flow) <= WIDTH or not isinstance(node.value, (dict, list)) or not node.value):
        yield from _commented(flow, node.comment, indent)
        return
    yield from _commented(name, node.comment, indent)
    if isinstance(node.value, dict):
        for number, (each, child) in enumerate(node.value.items()):
            if number and key == "steps" and depth == 0:
                yield ""
            yield from _entry(each, child, depth + 1)
    else:
        for child in node.value:
            yield f"{indent}  - {inline(child)}"


def _commented(line: str, comment: str, indent: str) -> Iterator[str]:
    """The line with its comment after it, or above it if it does not fit."""
    if comment and len(line) + len(comment) + 4 > WIDTH:
        yield f"{indent}# {comment}"
        yield line
    else:
        yield f"{line}  # {comment}" if comment else line


def inline(node: Node) -> str:
    """A value on one line."""
    if isinstance(node.value, dict):
        return "{" + ", ".join(f"{scalar(key)}: {inline(child)}" for key, child in node.value.items()) + "}"
    if isinstance(node.value, list):
        return "[" + ", ".join(inline(child) for child in node.value) + "]"
    return scalar(node.value)


def scalar(value: Any) -> str:
    """A scalar as YAML 1.2 reads it back; secrets of a URL are hidden."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        mantissa, sign, exponent = repr(value).partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{int(exponent)}" if sign else mantissa
    if isinstance(value, int):
        return str(value)
    text = redact(str(value))
    if _PLAIN.match(text) and text.casefold() not in _WORDS and text == text.strip():
        return text
    return json.dumps(text)
