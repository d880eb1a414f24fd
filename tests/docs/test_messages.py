"""The page of messages: it leaves out none that a user can see."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.docs.messages import ROOT, messages, page, text_of

FILES = [path for folder in ("fluxflow_registry", "plugins") for path in sorted((ROOT / folder).rglob("*.py"))]

SOURCE = '''
"""A module."""

def check(name):
    """Check a name; this is not a message."""
    encoding = "utf-8"
    raise ValueError(f"no loss `{name}` is registered: "
                     "choose another name")
'''


def test_a_message_is_shown_whole_with_its_function_and_what_is_filled_in(tmp_path: Path) -> None:
    file = tmp_path / "made_up.py"
    file.write_text(SOURCE)

    assert list(messages(file)) == [(7, "check", "no loss `{name}` is registered: choose another name")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_raised_or_reported_is_on_the_page(path: Path) -> None:
    shown = {text for _, _, text in messages(path)}
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call) and node.args]
    reported = [
        text
        for call in calls
        if ast.unparse(call.func).endswith(("Error", "Problem", "warn"))
        if (text := text_of(call.args[0])) is not None and " " in text.strip()
    ]

    assert set(reported) <= shown


def test_each_file_that_can_report_something_has_its_part_of_the_page() -> None:
    found = page()

    assert all(f"## {path.relative_to(ROOT)}\n" in found for path in FILES if list(messages(path)))
