"""`docs/recipes.md` lists every key of the language with its type and default, and its YAML is valid."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from ruamel.yaml import YAML

from fluxflow_registry import contracts
from fluxflow_registry.check.checker import check
from fluxflow_registry.cli.schema import recipe_schema
from fluxflow_registry.recipe import schema
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.registry.signature import describe_type, fields_of, key_of

from .story import REPOSITORY, Block, blocks

PAGE = REPOSITORY / "docs" / "recipes.md"

TABLES: dict[str, type] = {
    "Keys of a recipe": schema.RecipeSettings,
    "Models": contracts.ModelSettings,
    "Compiling": contracts.Compile,
    "Several datasets": contracts.DatasetSettings,
    "A step": schema.StepSettings,
    "Averages": schema.Ema,
    "The best checkpoint": schema.Best,
    "An update": schema.UpdateSettings,
    "A loss": contracts.LossSettings,
    "Evaluations": schema.EvaluationSettings,
}

#: Parts of a step that have a table of their own, in words.
NAMED: dict[Any, str] = {
    schema.Ema | None: "averages or null",
    schema.Best | None: "a best checkpoint or null",
    bool | contracts.Compile: "true or false or the compiler's options",
}

#: Keys that take something beside what their class has, in words.
WIDER = {(heading, "start"): "an integer or a transition" for heading in ("An update", "A loss")}

#: Keys whose default depends on something else, in words.
WORDS = {("A step", "after"): "the step before it in the file", ("A loss", "weight"): "the loss's own, or 1"}

YAMLS = [block for block in blocks(PAGE) if block.language == "yaml"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Every installed plugin."""
    return load()


@pytest.fixture(scope="module")
def language(registry: Registry) -> dict[str, Any]:
    """The schema of recipes with every installed plugin."""
    return recipe_schema(registry)


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by key."""
    sections = re.split(r"^#+ (.+)\n", PAGE.read_text(), flags=re.MULTILINE)
    text = sections[sections.index(heading) + 1]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {key.strip("`"): [cell.strip(" |") for cell in cells] for key, *cells in rows}


def default_of(attribute: attrs.Attribute[Any]) -> str:
    default = attribute.default
    if default is attrs.NOTHING:
        return "(needed)"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()  # type: ignore[union-attr]
    if default is None or isinstance(default, bool):
        default = {None: "null", True: "true", False: "false"}[default]
    return f"`{default}`"


def read(block: Block) -> Any:
    return YAML(typ="safe").load(io.StringIO(block.text))


def merged(whole: Any, piece: Any) -> Any:
    """Return the recipe with the piece merged into it, in the order of the recipe."""
    if not (isinstance(whole, dict) and isinstance(piece, dict)):
        return piece
    added = {key: merged(whole[key], part) if key in whole else part for key, part in piece.items()}
    return {**whole, **added}


@pytest.mark.parametrize("heading", TABLES)
def test_every_setting_is_documented_with_its_type_and_default(heading: str) -> None:
    rows = table(heading)

    for attribute in fields_of(TABLES[heading]):
        key = key_of(attribute)
        kind = WIDER.get((heading, key)) or NAMED.get(attribute.type) or describe_type(attribute.type)
        default = WORDS.get((heading, key), default_of(attribute))
        if key == "recipe":  # it has a default in the class, but a file must state it
            default = "(needed)"
        assert rows[key][:2] == [kind, default], key
        assert rows[key][2], key


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("Keys of a recipe", lambda s: s["properties"]),
        ("A step", lambda s: s["$defs"]["step"]["properties"]),
        ("An update", lambda s: s["$defs"]["update"]["properties"]),
        ("Evaluations", lambda s: s["$defs"]["evaluation"]["properties"]),
        ("Averages", lambda s: [key_of(attribute) for attribute in fields_of(schema.Ema)]),
        ("The best checkpoint", lambda s: [key_of(attribute) for attribute in fields_of(schema.Best)]),
        ("Models", lambda s: [key_of(attribute) for attribute in fields_of(contracts.ModelSettings)]),
        ("Compiling", lambda s: [key_of(attribute) for attribute in fields_of(contracts.Compile)]),
        ("A loss", lambda s: [key_of(attribute) for attribute in fields_of(contracts.LossSettings)]),
    ],
)
def test_the_tables_list_exactly_the_keys_of_the_language(
    language: dict[str, Any], heading: str, keys: Callable[[dict[str, Any]], Any]
) -> None:
    assert set(table(heading)) == set(keys(language))


@pytest.mark.parametrize("block", YAMLS, ids=lambda block: f"line {block.line}")
def test_every_piece_of_yaml_is_valid_where_it_belongs(registry: Registry, tmp_path: Path, block: Block) -> None:
    file = tmp_path / "recipe.yaml"
    with file.open("w") as stream:
        YAML().dump(merged(read(YAMLS[0]), read(block)), stream)

    checked = check(file, registry)

    assert checked.steps


def test_the_table_of_the_runs_folder_lists_the_files_of_a_run() -> None:
    shown = (
        next(block.text for block in blocks(PAGE) if "ls runs/" in block.text).partition("ls runs/small-*\n")[2].split()
    )
    listed = re.findall(r"^\| `([\w.]+)", PAGE.read_text().partition("| in the run's folder")[2], flags=re.MULTILINE)

    assert sorted(listed) == shown
