"""A plugin outside the repository: the command `train-card`, and cards, which are another form of recipe.

A card is a page of JSON that describes the training of an autoencoder:

    {"card": "small", "latent_channels": 4, "optimizer": "AdamW", "rate": 1.0e-3, "batches": 2}
"""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen, validators

from fluxflow_registry import Problem, hookimpl
from fluxflow_registry.commands import (
    RECIPE_VERSION,
    CommandParser,
    Node,
    Result,
    as_node,
    check_recipe,
    raise_problems,
    read_settings,
    read_tree,
    run_command,
    train_recipe,
)


@frozen
class Card:
    """What a card may say."""

    card: str
    """The name of the run."""
    latent_channels: int = field(default=4, validator=validators.ge(1))
    """Channels of the latent."""
    optimizer: str = "AdamW"
    """The optimizer's type."""
    rate: float = field(default=1e-3, validator=validators.gt(0))
    """The learning rate."""
    batches: int = field(default=2, validator=validators.ge(1))
    """Batches to train on."""


@hookimpl
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """Recognize a card that was passed to `fluxflow-run`."""
    if "card" not in content:
        return None
    command = shlex.join(["train-card", path, *([] if trains else ["--check-only"])])
    return Problem(f"`{path}` is a card, not a recipe", path, [("command", command)], code="wrong-command")


def translate(path: str) -> Node:
    """The recipe of a card; raises RecipeError with every problem of the card."""
    page = read_tree(path)
    card, problems = read_settings(Card, page, "the card")
    raise_problems(problems)

    def value(key: str) -> Node:
        return as_node(getattr(card, key), page.at(key))

    channels = {"latent_channels": value("latent_channels"), "width": 8}
    update = {
        "trains": ["compressor", "expander"],
        "losses": {"l1": {}},
        "optimizer": {"type": value("optimizer"), "lr": value("rate")},
    }
    recipe = {
        "recipe": RECIPE_VERSION,
        "name": value("card"),
        "models": {"compressor": channels, "expander": channels},
        "datasets": {"shapes": {"image_size": 32}},
        "steps": {
            "only": {
                "dataset": "shapes",
                "batch_size": 4,
                "workers": 0,
                "max_steps": value("batches"),
                "log_every": 1,
                "updates": {"vae": update},
            }
        },
    }
    return as_node(recipe, page.where)


def parser() -> CommandParser:
    """The command line of `train-card`."""
    made = CommandParser("train-card", "Train what a card describes; the same command resumes an interrupted run.")
    made.add_argument("card", metavar="CARD", help="a card (JSON)")
    made.add_argument("--check-only", action="store_true", help="check the card, do not train")
    made.add_training_arguments()
    return made


def main(arguments: Namespace) -> Result | int:
    """Check the card, or train it."""
    recipe = translate(arguments.card)
    if arguments.check_only:
        check_recipe(arguments.card, recipe, arguments)
        return Result(lambda: {"valid": True}, lambda: "the card is valid")
    return train_recipe(arguments.card, recipe, arguments)


def run(argv: Sequence[str] | None = None) -> None:
    """Entry point of `train-card`."""
    run_command(parser(), main, argv, lambda arguments: not arguments.check_only)
