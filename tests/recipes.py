"""Recipes as text, for tests that need no weights."""

from __future__ import annotations

from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"
#: Recipes that come with the framework, small variants among them.
SHIPPED = sorted(RECIPES.rglob("*.yaml"))
DEFAULT = RECIPES / "vae_gan_flow.yaml"

#: The least that is a recipe: an autoencoder in one step.
TINY = """\
recipe: 1
name: tiny
models:
  compressor: {type: compressor}
  expander: {type: expander}
datasets:
  shapes: {type: shapes}
steps:
  vae:
    dataset: shapes
    updates:
      vae:
        trains: [compressor, expander]
        losses:
          l1: {}
        optimizer: {type: AdamW}
"""


def steps(*names: str, **after: str) -> str:
    """A recipe of several steps like TINY's; `after` gives some of them a parent (`null`: none)."""
    head, body = TINY.split("  vae:\n", 1)
    parts = []
    for name in names:
        parent = f"    after: {after[name]}\n" if name in after else ""
        parts.append(f"  {name}:\n{parent}{body}")
    return head + "".join(parts)


def line_of(text: str, part: str) -> int:
    """The line, from 1, on which `part` first stands."""
    return text[: text.index(part)].count("\n") + 1
