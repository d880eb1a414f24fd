"""`docs/from-fluxflow.md` lists every key of FluxFlow's files, with its default."""

from __future__ import annotations

import re
from typing import Any

import attrs
import pytest

from fluxflow_pipeline.config.keys import DataKeys, ModelKeys, OutputKeys, StepKeys
from fluxflow_registry.registry.signature import fields_of, key_of

from .story import REPOSITORY

PAGE = REPOSITORY / "docs" / "from-fluxflow.md"

TABLES = {
    "Model": ModelKeys,
    "Data": DataKeys,
    "Training, defaults and steps": StepKeys,
    "Output": OutputKeys,
}


def default_of(attribute: attrs.Attribute[Any]) -> str:
    default = attribute.default
    if default is not None and hasattr(default, "factory"):
        default = default.factory()
    words = {None: "null", True: "true", False: "false", "": '""'}
    return words[default] if isinstance(default, (bool, str, type(None))) and default in words else str(default)


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_is_documented_with_its_default(heading: str) -> None:
    section = re.split(r"^#+ ", PAGE.read_text().split(f"### {heading}\n")[1], flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]

    documented = {key.strip("`"): default.strip("`") for key, default, _ in rows}
    assert documented == {key_of(attribute): default_of(attribute) for attribute in fields_of(TABLES[heading])}
