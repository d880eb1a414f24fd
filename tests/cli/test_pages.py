"""`--document` writes the docstrings of the components as Markdown that renders as they are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen, validators

from fluxflow_registry.cli.document import pages
from fluxflow_registry.contracts import CONTEXT, KINDS, Kind
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.registry import Component, Registry

from ..synthetic import plugin
from .conftest import Answer


@frozen
class Odd:
    """x_t <b> a*b*c, *so*, `x_y*z*`; mean of [B, C] (all); _under_."""

    share: float = field(default=0.5, validator=validators.le(1))
    """One | two
    lines."""

    def __call__(self, image: Any) -> Any:
        return image.mean()


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """The pages of a registry with one loss."""
    return pages(from_modules({"odd": plugin(losses={"odd": Odd})}))


def test_a_component_is_shown_with_its_docstring_options_needs_and_a_line_to_paste(texts: dict[str, str]) -> None:
    text = texts["losses.md"]

    assert "## odd\n\nx_t \\<b> a\\*b\\*c, *so*, `x_y*z*`; mean of [B, C] (all); \\_under\\_.\n" in text
    assert "| `share` | `0.5` | a number, <= 1 | One \\| two lines. |" in text
    assert "Weight 1 by default. Needs `image`. From `tests.cli.test_pages`, plugin `odd`" in text
    assert "```yaml\nodd: {share: 0.5}\n```" in text
    assert (
        "Every loss also takes these keys:\n\n| option | default | type | meaning |\n|---|---|---|---|\n| `weight` |"
        in text
    )


def test_the_page_of_a_kind_starts_with_the_documentation_of_its_hook_as_prose(texts: dict[str, str]) -> None:
    assert "\n\nModels: the fields of a model builder are the architecture" in texts["models.md"]
    assert "nn.Module.\n\nA builder whose architecture comes from elsewhere" in texts["models.md"]
    assert not [line for text in texts.values() for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_optional_member_of_a_kind_is_on_its_page_with_its_meaning(kind: Kind, texts: dict[str, str]) -> None:
    text = texts[f"{kind.plural}.md"]

    for extras in (kind.extras, *([kind.product.extras] if kind.product else [])):
        for name, member in extras.members().items():
            shown = f"{name}(" if callable(member) else f"{name} = "
            assert re.search(rf"^\| `{re.escape(shown)}.*` \| \w.+ \|$", text, re.MULTILINE)


def test_the_index_leads_to_every_kind_and_component(texts: dict[str, str]) -> None:
    assert set(texts) == {"README.md", *(f"{kind.plural}.md" for kind in KINDS.values())}
    assert all(f"({name})" in texts["README.md"] for name in set(texts) - {"README.md"})
    assert "[`odd`](losses.md#odd)" in texts["README.md"]


def test_every_component_option_and_need_is_on_the_page_of_its_kind(everything: Registry) -> None:
    texts = pages(everything)

    for kind, named in everything.components.items():
        text = texts[f"{KINDS[kind].plural}.md"]
        for component in named.values():
            section = _section(text, component)
            assert all(f"`{need}`" in section for need in component.signature.needs)
    assert all(f"| `{name}` |" in texts["values.md"] for name in CONTEXT)


def test_the_command_writes_the_pages_over_older_ones_and_names_them(call: Any, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "pages"

    first: Answer = call("--document", folder)
    (folder / "losses.md").write_text("old")
    again: Answer = call("--document", folder, "--json")

    assert first.code == again.code == 0
    assert sorted(first.out.split()) == sorted(json.loads(again.out)) == sorted(map(str, folder.iterdir()))
    assert "## kl\n" in (folder / "losses.md").read_text()


def test_a_folder_that_cannot_be_written_is_named(call: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")

    answer: Answer = call("--document", tmp_path / "taken")

    assert answer.code == 2
    assert f"cannot write the pages to `{tmp_path / 'taken'}`" in answer.err


def _section(text: str, component: Component) -> str:
    found = text.split(f"\n## {component.name}\n")
    if len(found) != 2:
        pytest.fail(f"{component.name} is {len(found) - 1} times on its page")
    return found[1].split("\n## ")[0]
