"""`--schema` is a JSON schema of the recipes of this environment, for editors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from attrs import field, frozen, validators

from fluxflow_registry.cli.schema import recipe_schema
from fluxflow_registry.recipe.reader import parse, read
from fluxflow_registry.registry.discovery import from_modules
from fluxflow_registry.registry.registry import Registry

from ..recipes import DEFAULT, SHIPPED, TINY
from ..synthetic import plugin
from .conftest import Answer


@pytest.fixture(scope="module")
def schema(everything: Registry) -> Any:
    return recipe_schema(everything)


def complaints(schema: Any, tree: Any) -> list[Any]:
    return list(jsonschema.Draft202012Validator(schema).iter_errors(tree))


def test_the_command_prints_a_valid_schema(call: Callable[..., Answer], schema: Any) -> None:
    printed = call("--schema")

    assert printed.code == 0
    assert json.loads(printed.out) == json.loads(json.dumps(schema))
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_accepts_every_shipped_recipe(schema: Any, path: Path) -> None:
    assert complaints(schema, read(path).plain()) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["stpes"], {}),
        (["recipe"], 2),
        (["seed"], -1),
        (["models", "compressor", "widht"], 8),
        (["models", "compressor", "width"], 8.5),
        (["models", "compressor", "width"], 0),
        (["models", "compressor", "type"], "compresser"),
        (["models", "compressor", "activation"], "sigmoid"),
        (["datasets", "shapes", "image_size"], "32"),
        (["sampler", "steps"], None),
        (["observers"], {"console": True}),
        (["observers"], {"console": None}),
        (["models", "compressor"], None),
        (["observers"], {"console": {"every_secondz": 1}}),
        (["steps", "vae_gan", "epohcs"], 2),
        (["steps", "vae_gan", "precision"], "fp8"),
        (["steps", "vae_gan", "updates", "vae", "losses", "hinge_generator", "wieght"], 1),
        (["steps", "vae_gan", "updates", "vae", "losses", "mse", "weight"], "heavy"),
        (["steps", "vae_gan", "updates", "vae", "losses", "kl", "free_bit"], 1),
        (["steps", "vae_gan", "updates", "vae", "optimizer", "lrr"], 1),
        (["steps", "vae_gan", "updates", "vae", "optimizer", "betas"], [0.9]),
        (["steps", "vae_gan", "updates", "vae", "clip_grad_norm"], 0),
        (["steps", "vae_gan", "updates", "vae", "trains"], "compressor"),
        (["steps", "vae_gan", "updates", "vae", "start"], -1),
        (["steps", "vae_gan", "updates", "vae", "start"], {"type": "epok"}),
        (["steps", "vae_gan", "updates", "vae", "losses", "mse", "start"], 1.5),
        (["steps", "vae_gan", "until"], {"type": "epoch", "more": 1}),
        (["steps", "flow", "ema", "decay"], 2),
    ],
    ids=str,
)
def test_it_rejects_what_the_command_rejects(schema: Any, path: list[str], value: Any) -> None:
    tree = copy.deepcopy(read(DEFAULT).plain())
    place = tree
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value

    assert complaints(schema, tree)


def test_it_accepts_the_short_forms_of_a_recipe(schema: Any) -> None:
    tree = parse(TINY, "r.yaml").plain()
    tree["models"] = {"compressor": {}, "expander": "expander"}
    tree["sampler"] = "heun"
    tree["observers"] = {"console": False, "report": {}}
    tree["steps"]["vae"]["updates"]["vae"]["losses"] = {"l1": {}, "mse": False, "mine": {"type": "kl", "free_bits": 1}}
    tree["steps"]["vae"]["until"] = None
    tree["steps"]["vae"]["updates"]["vae"]["start"] = 7
    tree["steps"]["vae"]["updates"]["vae"]["losses"]["l1"] = {"start": {"type": "plateau", "metric": "vae_loss"}}
    tree["steps"]["vae"]["updates"]["vae"]["losses"]["kl"] = {"start": "epoch"}
    tree["defaults"] = {"ema": {"decay": 0.9}, "updates": {"vae": {"clip_grad_norm": 1}}}

    assert complaints(schema, tree) == []


def test_it_describes_components_options_and_shared_keys(schema: Any) -> None:
    adamw = schema["$defs"]["optimizer.AdamW"]

    assert adamw["description"].startswith("torch.optim.AdamW")
    assert adamw["properties"]["lr"] == {"type": "number", "exclusiveMinimum": 0, "description": "Learning rate."}
    every = schema["$defs"]["loss.kl"]["properties"]["every"]
    assert every == {"type": "integer", "minimum": 1, "description": "Computed on each n-th batch of the step only."}


@frozen
class Bounded:
    """A loss whose options have bounds that need not all hold."""

    outside: int = field(default=11, validator=validators.or_(validators.lt(0), validators.gt(10)))
    negative: int = field(default=-1, validator=validators.not_(validators.ge(0)))
    both: int = field(default=1, validator=[validators.ge(0), validators.not_(validators.gt(3))])

    def __call__(self, image: Any) -> Any: ...


def test_it_has_only_bounds_that_must_all_hold() -> None:
    registry = from_modules({"memory": plugin(losses={"bounded": Bounded})})

    options = recipe_schema(registry)["$defs"]["loss.bounded"]["properties"]

    assert options["outside"] == options["negative"] == {"type": "integer"}
    assert options["both"] == {"type": "integer", "minimum": 0}


def test_it_knows_every_component(schema: Any, everything: Registry) -> None:
    assert {f"{kind}.{name}" for kind, named in everything.components.items() for name in named} <= set(schema["$defs"])
