"""`--describe` shows one component in full, with a line of YAML that is valid in a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from attrs import Factory, field, frozen, validators

from fluxflow_registry.cli.describe import describe, options, paste, rows_of
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.reader import parse
from fluxflow_registry.registry.discovery import from_modules, load
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

from ..recipes import DEFAULT
from ..synthetic import plugin
from .conftest import Answer

Call = Callable[..., Answer]
COMPONENTS = [component for named in load().components.values() for component in named.values()]

#: The options that all datasets of images share.
OF_IMAGES = "image_size bucket_multiple bucket_aspect reduced_min_sizes caption_prefix flip"

#: A recipe with a place for a line of every kind, and for every model that some loss or metric asks for.
RECIPE = """\
recipe: 1
models:
  compressor: {type: compressor}
  expander: {type: expander}
  discriminator: {type: patch_discriminator}
  text_encoder: {type: text_transformer}
  flow_processor: {type: flow_transformer}
  projection: {type: projection}
  MODEL
datasets:
  shapes: {type: shapes}
  DATASET
SAMPLER
values:
  VALUE
observers:
  OBSERVER
steps:
  step:
    dataset: shapes
    UNTIL
    evaluate:
      seen:
        dataset: shapes
        metrics:
          METRIC
    updates:
      update:
        trains: [TRAINS]
        losses:
          LOSS
        OPTIMIZER
        SCHEDULER
        BALANCER
"""
PLACES = {
    "model": "MODEL",
    "dataset": "DATASET",
    "sampler": "SAMPLER",
    "value": "VALUE",
    "observer": "OBSERVER",
    "transition": "UNTIL",
    "metric": "METRIC",
    "loss": "LOSS",
    "optimizer": "OPTIMIZER",
    "scheduler": "SCHEDULER",
    "balancer": "BALANCER",
}
LEFT_ALONE = {
    "SAMPLER": "sampler: {type: heun}",
    "METRIC": "sharpness: {}",
    "LOSS": "l1: {}",
    "OPTIMIZER": "optimizer: {type: SGD}",
}
#: What a loss can train; the others train the autoencoder.
TRAINS = {
    "hinge_discriminator": "discriminator",
    "nonsaturating_discriminator": "discriminator",
    "least_squares_discriminator": "discriminator",
    "r1": "discriminator",
    "projected_r1": "discriminator",
    "velocity": "flow_processor",
    "epsilon": "flow_processor",
    "v_prediction": "flow_processor",
    "alignment": "flow_processor",
    "kl": "compressor",
    "mmd": "compressor",
}


def identify(component: Component) -> str:
    return f"{component.kind}:{component.name}"


def complete(component: Component) -> bool:
    """Whether every option has a default, so that the line is complete."""
    return all("default" in row or "computed" in row for row in options(component))


@pytest.mark.parametrize("component", [c for c in COMPONENTS if complete(c)], ids=identify)
def test_the_line_to_paste_is_valid_in_a_recipe(component: Component, prove: Callable[..., RecipePlan]) -> None:
    lines = {place: LEFT_ALONE.get(place, "") for place in PLACES.values()}
    lines[PLACES[component.kind]] = paste(component)
    lines["MODEL"] = lines["MODEL"] and f"my_{lines['MODEL']}"  # the recipe has models of these names already
    trains = TRAINS.get(component.name, "compressor, expander") if component.kind == "loss" else "compressor, expander"
    text = RECIPE.replace("TRAINS", trains)
    for place, line in lines.items():
        text = text.replace(place, line, 1)

    checked = prove(text)

    assert checked.steps[0].name == "step"


@pytest.mark.parametrize("component", [c for c in COMPONENTS if not complete(c)], ids=identify)
def test_a_line_to_complete_shows_where(component: Component) -> None:
    line = paste(component)

    assert parse(line, "line").plain()
    for row in options(component):
        if "default" not in row:
            assert f"{row['name']}: ..." in line


@pytest.mark.parametrize("component", COMPONENTS, ids=identify)
def test_a_description_shows_doc_options_needs_and_origin(component: Component, everything: Registry) -> None:
    shown = f"{describe(everything, identify(component))}\n"

    assert shown.startswith(f"{component.kind} `{component.name}`\n\n  {component.summary}\n")
    assert f"\nreturns     {KINDS[component.kind].returns}\n" in shown
    assert f"\nfrom        {component.plugin.name}, fluxflow-registry " in shown
    assert f"\nneeds       {', '.join(component.signature.needs) or 'nothing'}\n" in shown
    if is_configurable(component.factory):
        for option in fields_of(component.factory):
            assert f"\n  {key_of(option)}" in shown


@pytest.mark.parametrize("component", COMPONENTS, ids=identify)
def test_every_option_of_a_first_party_component_has_a_description(component: Component) -> None:
    for row in options(component):
        assert row["meaning"], f"option `{row['name']}`"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dataset:folder", f"path captions uncaptioned {OF_IMAGES} holdout split verify damaged_at_most"),
        (
            "dataset:webdataset",
            f"shards image_key caption_key label_key {OF_IMAGES} holdout split token_env fetch fetch_limit "
            "uncaptioned damaged_at_most class_names",
        ),
        ("optimizer:AdamW", "lr betas eps weight_decay amsgrad maximize foreach fused"),
        ("scheduler:StepLR", "step_size gamma interval warmup"),
        ("transition:all", "conditions min_epochs max_epochs"),
        ("model:pretrained_compressor", "name subfolder revision scaling_factor shift dtype frozen"),
    ],
)
def test_the_own_options_of_a_component_come_before_those_that_it_shares(call: Call, name: str, options: str) -> None:
    (described,) = json.loads(call("--describe", name, "--json").out)

    assert [option["name"] for option in described["options"]] == options.split()


def test_a_changed_default_of_a_shared_option_does_not_move_it(call: Call) -> None:
    (described,) = json.loads(call("--describe", "scheduler:OneCycleLR", "--json").out)

    assert [option["name"] for option in described["options"]][-3:] == ["three_phase", "interval", "warmup"]


def test_bounds_and_defaults_are_shown(call: Call) -> None:
    shown = call("--describe", "AdamW").out

    assert "  lr = 0.001  (a number, > 0)\n      Learning rate.\n" in shown
    assert "  betas = [0.9, 0.999]  (a list of 2 values (a number, a number))\n" in shown
    assert "  amsgrad = false  (true or false)\n" in shown


def test_an_option_without_a_default_is_shown_as_required(call: Call) -> None:
    shown = call("--describe", "loss_threshold").out

    assert "  metric (required)  (a string)\n" in shown
    assert "  max_epochs = null  (an integer or null, >= 1)\n" in shown


def test_a_loss_is_shown_with_the_keys_that_every_loss_takes(call: Call) -> None:
    shown = call("--describe", "kl").out

    assert "every loss also takes  weight, warmup, start, every, detach, with  (weight 0.001 by default)\n" in shown


def test_a_name_of_several_kinds_is_shown_for_each(call: Call) -> None:
    both = call("--describe", "velocity")
    one = call("--describe", "value:velocity")

    assert "loss `velocity`" in both.out
    assert "value `velocity`" in both.out
    assert "loss `velocity`" not in one.out


def test_a_kind_may_be_named_in_the_plural(call: Call) -> None:
    assert call("--describe", "losses:kl").out == call("--describe", "loss:kl").out


@pytest.mark.parametrize("arguments", [("--describe", "los:kl"), ("--list-plugins", "los")])
def test_an_unknown_kind_has_the_same_code_in_every_command(call: Call, arguments: tuple[str, str]) -> None:
    (problem,) = json.loads(call(*arguments, "--json").out)["problems"]

    assert (problem["code"], problem["subject"], problem["nearest"]) == ("unknown-name", "los", "loss")
    assert problem["flag"] == arguments[0]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("adamw", "--describe  no component is called `adamw`\n    nearest    AdamW\n"),
        ("hinge_genrator", "--describe  no component is called `hinge_genrator`\n    nearest    hinge_generator\n"),
        ("value:velocty", "--describe  no component is called `velocty`\n    nearest    velocity\n"),
        ("los:kl", "--describe  `los` is not a kind of component\n    nearest    loss\n"),
        ("", "--describe  no component is called ``\n    available  Adam, AdamW,"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest(call: Call, name: str, shown: str) -> None:
    answer = call("--describe", name)

    assert answer.code == 2
    assert answer.out == ""
    assert answer.err.startswith(shown)


def test_a_description_as_json_holds_the_same(call: Call) -> None:
    data = json.loads(call("--describe", "velocity", "--json").out)
    (kl,) = json.loads(call("--describe", "loss:kl", "--json").out)

    assert [row["kind"] for row in data] == ["loss", "value"]
    assert kl["options"][0] == {
        "name": "free_bits",
        "type": "a number",
        "default": 0.0,
        "bounds": ">= 0",
        "meaning": "Nats that each element, channel or dimension may carry at no cost.",
    }
    assert kl["needs"] == ["posterior"]
    assert kl["where"].endswith(f":{kl['where'].rsplit(':')[-1]}")
    assert kl["yaml"] == "kl: {free_bits: 0.0, free_bits_per: element, reduction: mean}"


@frozen
class Nested:
    """Options of options."""

    size: int = 3


@frozen
class Awkward:
    """Defaults that YAML would read otherwise if they stood there as they are."""

    empty: str = ""
    word: str = "true"
    number: str = "1.0"
    colon: str = "a: b # c"
    lines: str = "a\nb"
    infinite: float = float("inf")
    nothing: str | None = None
    pairs: dict[str, float] = field(factory=lambda: {"a b": 1e-8})
    words: tuple[str, ...] = ("no", "x, y", "plain")
    inner: Nested = Nested()
    thing: Any = describe
    computed: int = Factory(lambda self: len(self.word), takes_self=True)

    def __call__(self, image: Any) -> Any:
        """Do nothing."""


def test_defaults_are_written_so_that_they_are_read_back() -> None:
    registry = from_modules({"memory": plugin(losses={"awkward": Awkward})})
    component = registry.components["loss"]["awkward"]

    line = paste(component)

    read = parse(line, "line").plain()["awkward"]
    assert read == {
        "empty": "",
        "word": "true",
        "number": "1.0",
        "colon": "a: b # c",
        "lines": "a\nb",
        "infinite": float("inf"),
        "nothing": None,
        "pairs": {"a b": 1e-8},
        "words": ["no", "x, y", "plain"],
        "inner": {"size": 3},
        "thing": "...",
    }
    assert "0x" not in describe(registry, "awkward")
    assert "computed (computed)  (an integer)" in describe(registry, "awkward")
    json.dumps(options(component))


@pytest.mark.parametrize(
    ("validator", "shown"),
    [
        (None, []),
        (validators.gt(0), ["> 0"]),
        ([validators.ge(0), validators.lt(1)], [">= 0", "< 1"]),
        (validators.and_(validators.ge(0), validators.le(1)), [">= 0", "<= 1"]),
        (validators.optional(validators.ge(1)), [">= 1"]),
        (validators.in_(["a", "b"]), ["one of a, b"]),
        (validators.not_(validators.in_([3])), []),
        (validators.or_(validators.lt(0), validators.gt(10)), []),
        ([validators.ge(0), validators.not_(validators.in_([3]))], [">= 0"]),
        (validators.deep_iterable(validators.ge(0)), []),
        (lambda instance, attribute, value: None, []),
    ],
)
def test_bounds_are_read_from_the_validators(validator: Any, shown: list[str]) -> None:
    @frozen
    class Bounded:
        n: Any = field(default=1, validator=validator)

    (option,) = rows_of(Bounded)

    assert option.get("bounds", "") == ", ".join(shown)


def test_a_component_of_the_default_recipe_can_be_looked_up_by_its_name(call: Call) -> None:
    for name in ("compressor", "shapes", "CosineAnnealingLR", "mse", "psnr", "euler"):
        assert f"type: {name}" in DEFAULT.read_text() or f"{name}: {{" in DEFAULT.read_text()
        assert call("--describe", name).code == 0


def test_what_an_option_means_is_indented_in_each_of_its_lines(
    everything: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")

    lines = describe(everything, "webdataset").split("options\n")[1].split("\n\n")[0].splitlines()

    assert lines[:5] == [
        "  shards (required)  (a string or a list of strings)",
        "      Tar files: a path or URL with ranges",
        "      (`data/{000..012}.tar`), a path or",
        "      `hf://datasets/OWNER/NAME/...` on the hub with",
        "      wildcards too (`data/*.tar`), or a list of these.",
    ]
    assert max(map(len, lines)) <= 60
    assert all(line.startswith("  ") for line in lines)
