"""A batch is compared with what its dataset declares, before training and on every batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen

from fluxflow_registry.contracts import Field
from fluxflow_registry.engine.preflight.everything import try_everything
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import DataError, Problem, RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.registry import Registry
from fluxflow_registry.testing import registry_with

from ..small import PLUGINS, VAE_GAN

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]


class Source:
    """Samples that a test can spoil."""

    spoil: ClassVar[Callable[[dict[str, Any]], Any]] = staticmethod(lambda batch: batch)

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Sequence[int], seed: int) -> dict[str, Any]:
        count = len(indices)
        good = {"image": torch.zeros(count, 3, 16, 16), "caption": ["a caption"] * count, "label": torch.zeros(count)}
        spoiled: dict[str, Any] = type(self).spoil(good)
        return spoiled


@frozen
class Data:
    """A dataset with an image, a caption and a number."""

    def fields(self) -> Mapping[str, Field]:
        return {"image": Field((3, 16, 16)), "caption": Field(None, "text"), "label": Field(())}

    def __call__(self) -> Source:
        return Source()


@pytest.fixture
def registry() -> Registry:
    return registry_with(PLUGINS, datasets={"data": Data})


@pytest.fixture
def recipe(checked: Checker, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RecipePlan]:
    """The small recipe on a dataset whose batches are spoiled."""

    def make(spoil: Callable[[dict[str, Any]], Any], *settings: str) -> RecipePlan:
        monkeypatch.setattr(Source, "spoil", staticmethod(spoil))
        return checked(VAE_GAN, "datasets.shapes={type: data}", *settings, using=registry)

    return make


def without(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda batch: {key: value for key, value in batch.items() if key != name}


def put(name: str, make: Callable[[Any], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda batch: {**batch, name: make(batch.get(name))}


WRONG: Mapping[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "size": (put("image", lambda x: x[:, :, :8]), "a tensor of shape [2, 3, 8, 16] as field `image`"),
    "fewer samples": (put("image", lambda x: x[:1]), "a tensor of 1 sample instead of 2 as field `image`"),
    "more samples": (put("label", lambda x: torch.cat([x, x])), "a tensor of 4 samples instead of 2 as field `label`"),
    "missing": (without("label"), "no field `label`, which `fields` declares"),
    "label shape": (put("label", lambda x: x[:, None]), "a tensor of shape [2, 1] as field `label`"),
    "no batch": (put("label", lambda x: x[0]), "a tensor of shape [] as field `label`"),
    "double": (put("image", lambda x: x.double()), "a tensor of float64 as field `image`"),
    "integer": (put("image", lambda x: x.long()), "a tensor of int64 as field `image`"),
    "numpy": (put("image", lambda x: x.numpy()), "a numpy array (`torch.from_numpy(x)` converts it)"),
    "list": (put("label", lambda x: x.tolist()), "a list as field `label`"),
    "one string": (put("caption", lambda _: "a caption"), "a str as field `caption`"),
    "bytes": (put("caption", lambda x: [each.encode() for each in x]), "a list with a bytes as field `caption`"),
    "none among strings": (put("caption", lambda x: [x[0], None]), "a list with a NoneType as field `caption`"),
    "fewer strings": (put("caption", lambda x: x[:1]), "1 string for 2 samples as field `caption`"),
    "strings in a tensor": (put("caption", lambda x: torch.zeros(len(x))), "a tensor of shape [2] as field `caption`"),
    "an undeclared number": (put("index", lambda _: 3), "a field `index`, which `fields` does not declare"),
    "an undeclared scalar": (
        put("index", lambda _: torch.tensor(3)),
        "a field `index`, which `fields` does not declare",
    ),
    "no mapping": (lambda batch: list(batch.values()), "a list, not a mapping of fields"),
    "nothing": (lambda _: None, "a NoneType, not a mapping of fields"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_batch_that_is_not_as_declared_is_rejected_before_training(wrong: str, recipe: Any) -> None:
    spoil, words = WRONG[wrong]

    with pytest.raises(DataError) as rejected:
        try_everything(recipe(spoil), torch.device("cpu"))

    (problem,) = rejected.value.problems
    assert problem.message.startswith(f"`batch` of dataset `shapes` returned {words}")
    assert problem.code == "wrong-return"
    notes = dict(problem.notes)
    assert "test_declared_fields.py" in notes["defined in"]
    assert notes["requested by"].startswith("dataset `shapes`")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("wrong", ["size", "fewer samples", "numpy", "an undeclared number"])
def test_a_batch_that_is_not_as_declared_ends_training(wrong: str, workers: int, recipe: Any, live: Maker) -> None:
    spoil, words = WRONG[wrong]
    step = live(recipe(spoil, f"steps.vae_gan.workers={workers}"))

    with pytest.raises(DataError) as raised:
        next(step.batches(0, 0))

    assert words.replace("2", "4").split(" as ")[0].split(" instead")[0][:20] in raised.value.problems[0].message


def test_a_field_that_is_not_declared_may_be_there(recipe: Any) -> None:
    tried = try_everything(recipe(put("name", lambda _: ["a", "b"])), torch.device("cpu"))

    assert len(tried.sources["shapes"]) == 8


DECLARED: Mapping[str, tuple[Any, str]] = {
    "a tuple": ({"image": (3, 16, 16)}, "declares `image` with a tuple, not a `Field`"),
    "None": (None, "returned a NoneType, not a mapping"),
    "a list": ([Field((3,))], "returned a list, not a mapping"),
    "a wrong shape": ({"image": Field((3, -1, 16))}, "declares `image` with the shape (3, -1, 16)"),
    "a number as shape": ({"image": Field(3)}, "declares `image` with the shape 3"),  # type: ignore[arg-type]
    "an unknown type": ({"image": Field((3, 16, 16), "float31")}, "declares `image` with the unknown dtype `float31`"),
    "text with a shape": ({"image": Field((3, 16, 16), "text")}, "declares `image` with the unknown dtype `text`"),
    "no shape": ({"image": Field(None)}, "declares `image` with dtype `float32` and no shape"),
    "a number as name": ({1: Field((3,))}, "declares `1` with a name that is not a string"),
    "other variants": (
        {"image": Field((3, 16, 16), also=((3, 8, 8),)), "label": Field((1,), also=((2,), (3,)))},
        "declares fields that vary together, but with different numbers of shapes",
    ),
}


@pytest.mark.parametrize("wrong", DECLARED)
def test_a_declaration_that_no_batch_can_have_is_rejected(
    wrong: str, checked: Checker, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields, words = DECLARED[wrong]
    monkeypatch.setattr(Data, "fields", lambda _: fields)

    with pytest.raises(RecipeError) as rejected:
        checked(VAE_GAN, "datasets.shapes={type: data}", using=registry)

    problems: list[Problem] = [each for each in rejected.value.problems if each.code == "wrong-return"]
    assert problems[0].message.startswith(f"`fields` of dataset `data` {words}")
    assert any(label == "defined in" for label, _ in problems[0].notes)


def test_every_wrong_field_of_a_batch_is_reported(recipe: Any) -> None:
    spoil = lambda batch: {"image": batch["image"].double(), "caption": "one"}  # noqa: E731

    with pytest.raises(DataError) as rejected:
        try_everything(recipe(spoil), torch.device("cpu"))

    assert [problem.subject for problem in rejected.value.problems] == ["image", "caption", "label"]


SOURCES: Mapping[str, tuple[str, Any, str]] = {
    "no length": ("__len__", lambda _: None, "has no valid length: TypeError"),
    "a negative length": ("__len__", lambda _: -1, "has no valid length: ValueError"),
    "too few buckets": ("buckets", [0, 1], "has buckets of shape [2] for 8 samples"),
    "buckets of fractions": ("buckets", [0.5] * 8, "has buckets that are not integers >= 0"),
    "negative buckets": ("buckets", [-1] * 8, "has buckets that are not integers >= 0"),
}


@pytest.mark.parametrize("wrong", SOURCES)
def test_a_source_that_cannot_be_divided_into_batches_is_rejected(
    wrong: str, recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, value, words = SOURCES[wrong]
    monkeypatch.setattr(Source, member, value, raising=False)

    with pytest.raises(DataError) as rejected:
        try_everything(recipe(lambda batch: batch), torch.device("cpu"))

    (problem,) = rejected.value.problems
    assert problem.message.startswith(f"the source of dataset `shapes` {words}")
    assert any(label == "defined in" for label, _ in problem.notes)
