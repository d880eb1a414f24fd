"""`docs/components/` has a page for each kind, generated from the components themselves."""

from __future__ import annotations

import pytest

from fluxflow_registry.cli.document import pages
from fluxflow_registry.registry.registry import Registry

from .story import REPOSITORY

FOLDER = REPOSITORY / "docs" / "components"


@pytest.fixture(scope="module")
def generated(everything: Registry) -> dict[str, str]:
    """The pages of the components as they are."""
    return pages(everything)


def test_there_is_a_page_for_each_kind_and_no_other(generated: dict[str, str]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(generated)


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.iterdir()))
def test_a_page_is_up_to_date_with_its_components(generated: dict[str, str], name: str) -> None:
    written = (FOLDER / name).read_text(encoding="utf-8")

    assert written == generated[name], "run `fluxflow-run --document docs/components`"
