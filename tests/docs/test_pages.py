"""The pages show what the commands print: every command is run and its output compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import PAGES, Reading
from .story import REPOSITORY, Command, agrees, blocks, commands

DOCS = [
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]

#: All commands of a page run before its first test, and some of them train.
pytestmark = pytest.mark.timeout(1200)

#: Commands that show a mistake.
MISTAKEN = re.compile(r"typo|eps=0|warmup=soon")

#: Commands that show a proof that fails.
DISPROVED = re.compile(r"jitter\.py --prove-resume")


def shown() -> Iterator[tuple[str, Command]]:
    for page in PAGES:
        for block in blocks(REPOSITORY / "docs" / f"{page}.md"):
            if block.language == "console":
                yield from ((page, command) for command in commands(block))


@pytest.mark.parametrize(("page", "command"), [pytest.param(p, c, id=f"{p}:{c.line}") for p, c in shown()])
def test_a_command_prints_what_the_page_shows(readings: dict[str, Reading], page: str, command: Command) -> None:
    played = readings[page].played[command.line]

    if not agrees(command.output, played.output):
        pytest.fail(f"docs/{page}.md:{command.line}  {command.text}\nnow prints\n{played.output}", pytrace=False)


@pytest.mark.parametrize(("page", "command"), [pytest.param(p, c, id=f"{p}:{c.line}") for p, c in shown()])
def test_mistakes_exit_with_2_failures_with_1_and_everything_else_with_0(
    readings: dict[str, Reading], page: str, command: Command
) -> None:
    mistaken = command.text.startswith(("fluxflow-run", "fluxflow-train")) and MISTAKEN.search(command.text) is not None

    code = 2 if mistaken else 1 if DISPROVED.search(command.text) else 0
    assert readings[page].played[command.line].code == code


@pytest.mark.parametrize(
    ("shown_", "printed", "same"),
    [
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\n...", "a\nb", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a", "a\nb", False),
        ("", "", True),
        ("", "warning", False),
        ("eps = 0.001", "eps = 0.002", False),
        ("[03:56:14] vae_loss: 0.3982", "[11:00:00] vae_loss: 0.4017", True),
        ("[03:56:14] vae_loss: 0.3982", "[11:00:00] vae_l1: 0.3982", False),
    ],
)
def test_an_output_agrees_up_to_elisions_and_the_numbers_of_a_run(shown_: str, printed: str, same: bool) -> None:
    assert agrees(shown_, printed) is same


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_link_between_pages_has_a_target(page: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())

    for target in targets:
        file, _, heading = target.partition("#")
        other = page.parent / file if file else page
        assert target.startswith("http") or other.exists(), target
        assert not heading or heading in _anchors(other.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
