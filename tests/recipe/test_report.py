"""Every problem of a recipe is expected once, in one report, in the order of the file, at its own place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from fluxflow_registry.check.effective_recipe import effective_recipe
from fluxflow_registry.errors import Choices, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.recipe.writer import plain
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..recipes import TINY, line_of, steps
from ..synthetic import plugin

Prove = Callable[..., RecipePlan]


def problems(prove: Prove, text: str, *settings: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        prove(text, *settings)
    return list(caught.value.problems)


def place(problem: Problem) -> str:
    """The place without the file."""
    return re.sub(r".*r\.yaml:", "", str(problem.where))


def test_several_problems_come_in_one_report_in_the_order_of_the_file(prove: Prove) -> None:
    text = TINY.replace("name: tiny", "nmae: tiny").replace("{type: expander}", "{type: expander, width: wide}")
    text = text.replace("l1: {}", "l1: {weight: heavy}\n          mes: {}").replace("AdamW}", "AdamW, lr: -1}")

    found = problems(prove, text)

    assert [(place(problem), problem.message) for problem in found] == [
        ("2:1", "unknown key `nmae` in the recipe"),
        ("5:37", "`width` of model `expander` must be an integer, got the string `wide`"),
        ("15:24", "`weight` of loss `l1` must be a number, got the string `heavy`"),
        ("16:11", "unknown loss `mes` in step `vae`, update `vae`"),
        ("17:38", "`lr` of optimizer `AdamW` must be > 0, got -1.0"),
    ]


@pytest.mark.parametrize(
    ("old", "new", "where", "expected"),
    [
        ("recipe: 1", "recipe: 2", "1:9", "`recipe` must be 1, the version of the recipe language, got the number `2`"),
        (
            "recipe: 1",
            "recipe: '1'",
            "1:9",
            "`recipe` must be 1, the version of the recipe language, got the string `1`",
        ),
        ("recipe: 1", "recipe: null", "1:9", "`recipe` must be 1, the version of the recipe language, got null"),
        ("recipe: 1", "recipe: true", "1:9", "`recipe` of the recipe must be an integer, got `true`"),
        ("recipe: 1\n", "", "1:1", "the recipe needs `recipe`, the version of the recipe language: add `recipe: 1`"),
        ("recipe: 1", "recepi: 1", "1:1", "unknown key `recepi` in the recipe, which must state its version"),
        (
            "name: tiny",
            "name: a-b",
            "2:7",
            "`a-b` is not a valid name for a recipe: use letters, digits and `_`, at most 64",
        ),
        ("name: tiny", "name: " + "a" * 65, "2:7", "is not a valid name for a recipe"),
        ("name: tiny", "name: tiny\nseed: -1", "3:7", "`seed` of the recipe must be >= 0, got -1"),
        ("name: tiny", "name: tiny\nseed: 1.0", "3:7", "`seed` of the recipe must be an integer, got the number"),
        (
            "name: tiny",
            "name: tiny\nsampler: 4",
            "3:10",
            "`sampler` must be a mapping or the name of a sampler, got the num",
        ),
        ("name: tiny", "name: tiny\nsampler: {}", "3:10", "`sampler` needs `type`: the name of a sampler"),
        ("name: tiny", "name: tiny\nsampler: {tpye: heun}", "3:11", "unknown key `tpye` in `sampler`"),
        ("name: tiny", "name: tiny\nsampler: huen", "3:10", "unknown sampler `huen`"),
        ("name: tiny", "name: tiny\nobservers: {consle: false}", "3:13", "unknown observer `consle`"),
        ("name: tiny", "name: tiny\nobservers: [console]", "3:12", "`observers` must be a mapping, got a list"),
        ("name: tiny", "name: tiny\ndefaults: 3", "3:11", "`defaults` must be a mapping, got the number `3`"),
        ("name: tiny", "name: tiny\nvalues: {latent: {typ: x}}", "3:19", "unknown key `typ` in value `latent`"),
        ("name: tiny", "name: tiny\nvalues: {image: {type: latent}}", "16:11", "`image` has two providers: a field"),
        (
            "name: tiny",
            "name: tiny\nvalues: {latent: {type: posterior}}",
            "3:25",
            "value `latent`: the name belongs to a registered value",
        ),
        (
            "{type: expander}",
            "5",
            "5:13",
            "model `expander` must be a mapping or the name of a model, got the number `5`",
        ),
        (
            "{type: expander}",
            "{type: 5}",
            "5:20",
            "`type` of model `expander` must be the name of a model, got the number `5`",
        ),
        ("{type: expander}", "expandr", "5:13", "unknown model `expandr`"),
        ("{type: expander}", "{tpye: expander}", "5:14", "unknown key `tpye` in model `expander`"),
        (
            "  expander:",
            "  a-b:",
            "5:3",
            "`a-b` is not a valid name for a model: use letters, digits and `_`, at most 64",
        ),
        ("  shapes: {type: shapes}", "  []", "7:3", "`datasets` must be a mapping, got a list"),
        ("dataset: shapes", "dataset: shaeps", "10:14", "`shaeps` is not a dataset of the recipe"),
        ("    dataset: shapes\n", "", "10:5", "step `vae` needs `dataset`: a string"),
        ("dataset: shapes", "dataset: shapes\n    epochs: 0", "11:13", "`epochs` of step `vae` must be >= 1, got 0"),
        (
            "dataset: shapes",
            "dataset: shapes\n    until: {}",
            "11:12",
            "`until` needs `type`: the name of a transition",
        ),
        ("dataset: shapes", "dataset: shapes\n    until: epochs", "11:12", "unknown transition `epochs` in step `vae`"),
        ("dataset: shapes", "dataset: shapes\n    evaluate: {e: {dataset: shapes}}", "11:19", "needs `metrics`"),
        (
            "dataset: shapes",
            "dataset: shapes\n    evaluate: {e: {dataset: shapes, metrics: a}}",
            "11:46",
            "`metrics` must be a mapping, got",
        ),
        (
            "dataset: shapes",
            "dataset: shapes\n    evaluate: {e: 1}",
            "11:19",
            "evaluation `e` of step `vae` must be a mapping, got",
        ),
        ("dataset: shapes", "dataset: shapes\n    ema: {models: [m]}", "11:20", "step `vae` averages `m`, but none"),
        (
            "dataset: shapes",
            "dataset: shapes\n    ema: {decay: 2}",
            "11:18",
            "`ema.decay` of step `vae` must be >= 0 and < 1, got",
        ),
        ("dataset: shapes", "dataset: shapes\n    precision: fp8", "11:16", "`precision` of step `vae` must be one"),
        ("    updates:", "    update:", "11:5", "unknown key `update` in step `vae`"),
        (
            "      vae:\n",
            "      x: 1\n      vae:\n",
            "12:10",
            "update `x` of step `vae` must be a mapping, got the number `1`",
        ),
        ("        trains: [compressor, expander]\n", "", "13:9", "update `vae` of step `vae` needs `trains`: a list"),
        ("[compressor, expander]", "[]", "13:17", "update `vae` of step `vae` trains no model: list at least one"),
        ("[compressor, expander]", "compressor", "13:17", "`trains` of update `vae` of step `vae` must be a list"),
        (
            "[compressor, expander]",
            "[compressor, 5]",
            "13:30",
            "`trains.1` of update `vae` of step `vae` must be a string",
        ),
        (
            "compressor, expander]",
            "compressor, expander, expander]",
            "13:40",
            "update `vae` of step `vae` lists model `expander` twice",
        ),
        (
            "compressor, expander]",
            "compressor, expandre]",
            "13:30",
            "update `vae` trains `expandre`, but the recipe has no such model",
        ),
        ("losses:\n          l1: {}", "losses: {}", "14:17", "update `vae` of step `vae` needs `losses`"),
        ("losses:\n          l1: {}", "losses:", "14:9", "update `vae` of step `vae` needs `losses`"),
        ("        losses:\n          l1: {}\n", "", "13:9", "update `vae` of step `vae` needs `losses`"),
        (
            "l1: {}",
            "lr: {type: l1}",
            "15:11",
            "loss `lr`: the name is reserved (update `vae` of step `vae` logs a metric `lr`); rename the loss",
        ),
        ("l1: {}", "l1: {every: 0}", "15:23", "`every` of loss `l1` must be >= 1, got 0"),
        ("l1: {}", "l1: {evry: 2}", "15:16", "unknown key `evry` in loss `l1`"),
        ("l1: {}", "l1: {detach: latent}", "15:24", "`detach` of loss `l1` must be a list of strings, got the"),
        ("l1: {}", "l1: {with: [a]}", "15:22", "`with` of loss `l1` must be a mapping of strings, got a list"),
        ("l1: {}", "l1: {with: {imag: noise}}", "15:23", "`with` replaces `imag`, but loss `l1` requests no such name"),
        ("l1: {}", "l1: {with: {image: iamge}}", "15:30", "loss `l1` of update `vae` in step `vae` requests `iamge`"),
        (
            "optimizer: {type: AdamW}",
            "optimizer: null",
            "16:20",
            "update `vae` of step `vae` needs `optimizer`: the name of an optimizer",
        ),
        (
            "optimizer: {type: AdamW}",
            "optimizer: {lr: 1}",
            "16:20",
            "`optimizer` needs `type`: the name of an optimizer",
        ),
        ("{type: AdamW}", "{type: AdamW, betas: [0.9]}", "16:41", "`betas` of optimizer `AdamW` must be a list of 2"),
        (
            "{type: AdamW}",
            "{type: AdamW, betas: [0.9, 2]}",
            "16:41",
            "optimizer `AdamW`: betas must be in [0, 1), got [0.9",
        ),
        ("{type: AdamW}", "adamw", "16:20", "unknown optimizer `adamw` in step `vae`, update `vae`"),
    ],
)
def test_a_mistake_is_one_problem_at_its_location(prove: Prove, old: str, new: str, where: str, expected: str) -> None:
    assert old in TINY

    (problem,) = problems(prove, TINY.replace(old, new, 1))

    assert expected in problem.message
    assert place(problem) == where


@pytest.mark.parametrize(
    ("old", "new", "nearest"),
    [
        ("steps:", "setps:", "steps"),
        ("{type: expander}", "{type: expandre}", "expander"),
        ("dataset: shapes", "dataset: shape", "shapes"),
        ("dataset: shapes", "dataste: shapes", "dataset"),
        ("[compressor, expander]", "[compressor, Expander]", "expander"),
        ("l1: {}", "L1: {}", "l1"),
        ("l1: {}", "l1: {wieght: 2.0}", "weight"),
        ("l1: {}", "l1: {tpye: l1}", "type"),
        ("l1: {}", "l1: {}\n          kl: {free_bit: 2.0}", "free_bits"),
        ("l1: {}", "l1: {}\n          kl: {wieght: 2.0}", "weight"),
        ("l1: {}", "l1: {detach: [latnet]}", "latent"),
        ("l1: {}", "l1: {with: {reconstruction: latnet}}", "latent"),
        ("AdamW}", "AdamW, lrr: 1}", "lr"),
        ("AdamW}", "AdamW, wieght_decay: 1}", "weight_decay"),
        ("AdamW}", "adamw}", "AdamW"),
        ("l1: {}", "l1: {}\n          kl: {reduction: men}", "mean"),
    ],
)
def test_a_misspelling_is_reported_with_the_nearest_valid_name(prove: Prove, old: str, new: str, nearest: str) -> None:
    (problem,) = problems(prove, TINY.replace(old, new, 1))

    assert problem.nearest == nearest


@pytest.mark.parametrize("key", ["models", "datasets", "steps"])
@pytest.mark.parametrize("value", ["5", "[a]", "text", "true", "{a-b: {}}"])
def test_nothing_that_follows_from_an_unreadable_part_is_reported(prove: Prove, key: str, value: str) -> None:
    head, rest = TINY.split(f"{key}:\n", 1)
    body = rest.split("\n")
    after = next((index for index, line in enumerate(body) if not line.startswith(" ")), len(body))
    text = f"{head}{key}: {value}\n" + "\n".join(body[after:])

    (problem,) = problems(prove, text)

    assert place(problem).startswith(f"{head.count(chr(10)) + 1}:")


def test_a_recipe_of_empty_keys_is_reported_and_does_not_crash(prove: Prove) -> None:
    keys = ["name", "seed", "models", "datasets", "sampler", "values", "observers", "defaults", "steps"]

    found = problems(prove, "recipe: 1\n" + "".join(f"{key}:\n" for key in keys))

    assert [problem.message for problem in found] == [
        "`name` of the recipe must be a string, got null",
        "`seed` of the recipe must be an integer, got null",
        "the recipe needs `steps`: at least one step, by name",
    ]


def test_an_unreadable_step_causes_no_problem_in_the_next_one(prove: Prove) -> None:
    text = TINY.replace("steps:\n", "steps:\n  first: 1\n")

    found = problems(prove, text)

    assert [problem.message for problem in found] == ["step `first` must be a mapping, got the number `1`"]


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ("{type: expander}", "", "5:3", "model `expander`"),
        ("{type: shapes}", "null", "7:11", "dataset `shapes`"),
        ("l1: {}", "l1:", "15:11", "loss `l1`"),
        ("l1: {}", "l1: ~", "15:15", "loss `l1`"),
        ("name: tiny", "name: tiny\nvalues: {latent: }", "3:10", "value `latent`"),
        ("name: tiny", "name: tiny\nobservers: {console: }", "3:13", "observer `console`"),
        ("steps:\n", "steps:\n  first:\n", "9:3", "step `first`"),
        ("      vae:\n", "      x:\n      vae:\n", "12:7", "update `x`"),
        ("dataset: shapes", "dataset: shapes\n    evaluate: {e: }", "11:16", "evaluation `e`"),
    ],
)
def test_an_empty_entry_is_reported_with_what_to_write(prove: Prove, old: str, new: str, where: str, what: str) -> None:
    found = problems(prove, TINY.replace(old, new, 1))

    assert found[0].message == f"{what} is empty: write `{{}}` to use its defaults or `false` to remove it"
    assert place(found[0]) == where


def test_a_wrong_value_behind_an_alias_is_reported_once(prove: Prove) -> None:
    text = TINY.replace("{type: AdamW}", "&optimizer {type: AdamW, lr: fast}")
    text += TINY[TINY.index("  vae:\n") :].replace("  vae:\n", "  more:\n", 1).replace("{type: AdamW}", "*optimizer")

    found = problems(prove, text)

    assert [problem.message for problem in found] == [
        "`lr` of optimizer `AdamW` must be a number, got the string `fast`"
    ]


def test_a_model_cannot_have_a_name_of_the_engine(prove: Prove) -> None:
    text = TINY.replace("  compressor: {type: compressor}", "  compressor: {type: compressor}\n  generator: expander")

    found = problems(prove, text)

    assert found[0].message == "model `generator`: the engine itself provides this name; rename the model"
    assert place(found[0]) == "5:3"


def test_a_transition_that_watches_a_metric_that_is_not_logged_is_rejected(prove: Prove) -> None:
    until = "until: {type: loss_threshold, threshold: 1, metric: vae/l11}"

    (problem,) = problems(prove, TINY.replace("dataset: shapes", f"dataset: shapes\n    {until}"))

    assert problem.message == "transition `loss_threshold` watches `vae/l11`, but step `vae` logs no such metric"
    assert place(problem) == "11:57"
    assert problem.choices == Choices("vae/l1", ("vae/grad_norm", "vae/l1", "vae/lr", "vae_loss"))


def test_a_transition_that_watches_what_is_measured_too_late_is_rejected(prove: Prove) -> None:
    until = "until: {type: loss_threshold, threshold: 1, metric: seen/psnr}"
    evaluate = "evaluate: {seen: {dataset: shapes, metrics: {psnr: {}}}}"
    text = TINY.replace("dataset: shapes", f"dataset: shapes\n    {until}\n    {evaluate}")

    (problem,) = problems(prove, text)

    assert problem.message.endswith("watches `seen/psnr`, but evaluation `seen` runs only at the end of the step")
    assert place(problem) == "11:57"
    assert dict(problem.notes) == {"hint": "set `every: 1` in evaluation `seen`"}
    prove(text, "steps.vae.evaluate.seen.every=1")


@pytest.mark.parametrize("asks", ["best: {metric: seen/psn}", "until: {type: plateau, metric: seen/psn}"])
def test_a_metric_that_a_known_evaluation_does_not_measure_is_rejected(prove: Prove, asks: str) -> None:
    evaluate = "evaluate: {seen: {dataset: shapes, every: 1, metrics: {psnr: {}, sharp: {type: sharpness}}}}"
    text = TINY.replace("dataset: shapes", f"dataset: shapes\n    {asks}\n    {evaluate}")

    (problem,) = problems(prove, text)

    assert problem.message.endswith(" watches `seen/psn`, but evaluation `seen` does not measure it")
    assert problem.choices == Choices("seen/psnr", ("seen/psnr", "seen/sharp"))
    prove(text.replace("seen/psn}", "seen/sharp}"))


def test_a_metric_that_names_its_own_results_may_measure_anything(prove: Prove) -> None:
    evaluate = "evaluate: {seen: {dataset: shapes, every: 1, metrics: {psnr: {}, judge: shapes_judge}}}"
    models = "  text_encoder: {type: text_transformer}\n  flow_processor: {type: flow_transformer}\n"
    text = TINY.replace("dataset: shapes", f"dataset: shapes\n    best: {{metric: seen/colour}}\n    {evaluate}")

    prove(text.replace("datasets:", f"{models}sampler: euler\ndatasets:"))


def test_an_observer_that_waits_for_a_metric_that_no_step_logs_is_rejected_there(prove: Prove) -> None:
    observer = "watchdog: {high: {vae/l11: 0.2}}"

    (problem,) = problems(prove, TINY + f"observers: {{{observer}}}\n")

    assert problem.message == "observer `watchdog` names the metric `vae/l11`, but no step logs it"
    assert place(problem) == f"{TINY.count(chr(10)) + 1}:{len('observers: {') + observer.index('vae') + 1}"
    assert problem.choices == Choices("vae/l1", ("vae/grad_norm", "vae/l1", "vae/lr", "vae_loss"))


@pytest.mark.parametrize("observer", ["console", "jsonl"])
def test_another_name_for_a_metric_that_is_no_longer_logged_is_ignored(prove: Prove, observer: str) -> None:
    text = TINY.replace("l1: {}", "l1: {}\n          kl: {}")
    text += f"observers: {{{observer}: {{names: {{vae/l1: mean, vae/kl: kl_loss}}}}}}\n"

    checked = prove(text, "steps.vae.updates.vae.losses.kl=false")

    assert checked.observers[observer].instance.names == {"vae/l1": "mean", "vae/kl": "kl_loss"}


@pytest.mark.parametrize("labels", ["[kl]", "[kl, l1]"])
def test_a_balancer_may_spare_a_loss_that_a_setting_removes_and_so_may_the_written_recipe(
    prove: Prove, labels: str
) -> None:
    text = TINY.replace("l1: {}", "l1: {}\n          kl: {}")
    text += f"        balancer: {{type: inverse, spare: {labels}}}\n"

    checked = prove(text, "steps.vae.updates.vae.losses.kl=false")
    again = prove(json.dumps(plain(effective_recipe(checked))))

    for recipe in (checked, again):
        update = recipe.steps[0].updates["vae"]
        assert list(update.losses) == ["l1"]
        assert update.balancer is not None
        assert update.balancer.instance(["l1"])({"l1": 2.0}) == {"l1": 1.0}


def test_a_balancer_whose_balanced_loss_is_removed_is_rejected(prove: Prove) -> None:
    text = TINY.replace("l1: {}", "l1: {}\n          kl: {}")
    text += "        balancer: {type: gradient_norm, layer: expander.out.0.weight, balanced: [kl]}\n"

    with pytest.raises(RecipeError, match="names the loss `kl`, but the update has no such loss"):
        prove(text, "steps.vae.updates.vae.losses.kl=false")


def test_the_names_of_an_observer_are_not_checked_against_unreadable_steps(prove: Prove) -> None:
    text = TINY + "observers: {watchdog: {high: {vae/kl: 0.2}}}\n"

    (problem,) = problems(prove, text.replace("losses:", "lossse:"))

    assert problem.message.startswith("unknown key `lossse`")


@pytest.mark.parametrize(
    "balancer",
    [
        "{type: inverse, spare: [l11]}",
        "{type: gradient_norm, layer: expander.out.0.weight, balanced: [l11]}",
        "{type: gradient_norm, layer: expander.out.0.weight, balanced: [l1], against: [l11]}",
    ],
)
def test_a_balancer_that_names_a_loss_that_its_update_does_not_have_is_rejected_there(
    prove: Prove, balancer: str
) -> None:
    line = f"        balancer: {balancer}"

    (problem,) = problems(prove, TINY + line + "\n")

    who = balancer.split(",")[0].removeprefix("{type: ")
    expected = f"balancer `{who}` of update `vae` names the loss `l11`, but the update has no such loss"
    assert problem.message == expected
    assert place(problem) == f"{TINY.count(chr(10)) + 1}:{line.index('l11') + 1}"
    assert problem.choices == Choices("l1", ("l1",))


@frozen
class Broken:
    """An observer whose methods all fail."""

    def metrics(self) -> Any:
        raise ValueError("no metrics")

    def draws(self) -> Any:
        raise ValueError("no draws")


@frozen
class Often:
    """A scheduler whose interval is an option of a type that allows too much."""

    interval: str = "step"

    def __call__(self, optimizer: Any, total: int) -> Any: ...


@frozen
class Limited:
    """A transition whose limit cannot be read."""

    @property
    def max_epochs(self) -> Any:
        return self.missing  # type: ignore[attr-defined]

    def __call__(self, epoch: int) -> Any: ...


@frozen
class Heavy:
    """A loss whose weight is an option, since it is not marked as a class attribute."""

    default_weight: Any = "high"

    def __call__(self, image: Any) -> Any: ...


@frozen
class Counted:
    """A transition whose limit is an option without a type."""

    max_epochs: Any = None

    def __call__(self, epoch: int) -> Any: ...


@pytest.fixture(scope="module")
def own() -> Registry:
    registry = load()
    transitions = {"limited": Limited, "counted": Counted}
    made_up = plugin(
        observers={"broken": Broken}, schedulers={"often": Often}, transitions=transitions, losses={"heavy": Heavy}
    )
    add_plugin(registry, Plugin("own", "test", "1", "here"), made_up)
    return registry


def test_each_method_of_one_component_that_fails_is_reported(prove: Prove, own: Registry) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(TINY + "observers: {broken: {}}\n", using=own)

    assert [problem.message for problem in caught.value.problems] == [
        "`draws` of observer `broken` failed: ValueError: no draws",
        "`metrics` of observer `broken` failed: ValueError: no metrics",
    ]


def test_each_dataset_that_overlaps_a_held_out_one_is_reported(prove: Prove) -> None:
    datasets = [f"  {name}: {{type: shapes, split: {split}}}\n" for name, split in SPLITS.items()]
    text = steps("first", "last").replace("  shapes: {type: shapes}\n", "".join(datasets))
    text = text.replace("dataset: shapes", "dataset: one", 1)
    evaluate = "evaluate: {seen: {dataset: held, metrics: {psnr: {}}}}"

    found = problems(prove, text.replace("dataset: shapes", f"dataset: two\n    {evaluate}"))

    assert [(problem.code, problem.subject) for problem in found] == [
        ("held-out-overlap", "one"),
        ("held-out-overlap", "two"),
    ]
    assert {place(problem) for problem in found} == {f"{line_of(text, '  held:')}:16"}


SPLITS = {"one": "all", "two": "all", "held": "held_out"}


@pytest.mark.parametrize(
    ("line", "column", "message", "code"),
    [
        (
            "        scheduler: {type: often, interval: step}",
            44,
            "`interval` of scheduler `often` must be one of batch, epoch, got 'step'",
            "wrong-type",
        ),
        (
            "        scheduler: often",
            20,
            "`interval` of scheduler `often` must be one of batch, epoch, got 'step'",
            "wrong-type",
        ),
        (
            "    until: {type: counted, max_epochs: '3'}",
            40,
            "`max_epochs` of transition `counted` must be an integer or null, got '3'",
            "wrong-type",
        ),
        (
            "    until: limited",
            12,
            "`max_epochs` of transition `limited` failed: AttributeError: 'Limited' object has no attribute 'missing'",
            "component-failed",
        ),
    ],
)
def test_a_wrong_or_failing_attribute_of_a_component_is_reported_where_the_recipe_sets_it(
    prove: Prove, own: Registry, line: str, column: int, message: str, code: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(f"{TINY}{line}\n", using=own)

    (problem,) = caught.value.problems
    assert (problem.message, problem.code) == (message, code)
    assert place(problem) == f"{TINY.count(chr(10)) + 1}:{column}"
    assert "test_report.py" in dict(problem.notes)["defined in"]


def test_a_default_weight_that_is_no_number_is_reported_where_the_loss_is_named(prove: Prove, own: Registry) -> None:
    with pytest.raises(RecipeError) as caught:
        prove(TINY.replace("l1: {}", "l1: {}\n          heavy: {}"), using=own)

    problem = caught.value.problems[0]
    assert problem.message.startswith("`default_weight` of loss `heavy` failed: ValueError: could not convert")
    assert place(problem) == "16:11"
