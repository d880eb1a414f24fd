"""Optimizers: every option of torch, and Lion and Muon by their equations."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.state.store import pack, unpack
from fluxflow_torch import optimizers

from ..recipes import DEFAULT

TORCHS = [optimizers.AdamWBuilder, optimizers.AdamBuilder, optimizers.SGDBuilder, optimizers.RMSpropBuilder]
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
EVERY = [*TORCHS, optimizers.LionBuilder, pytest.param(optimizers.MuonBuilder, marks=needs_muon)]
Parameters = list[nn.Parameter]

#: For each option another value than its default.
OTHER: dict[str, Any] = {
    "lr": 0.5,
    "betas": (0.5, 0.6),
    "eps": 0.5,
    "weight_decay": 0.5,
    "amsgrad": True,
    "maximize": True,
    "momentum": 0.5,
    "dampening": 0.5,
    "nesterov": True,
    "alpha": 0.5,
    "centered": True,
    "ns_coefficients": (2.0, -1.5, 0.5),
    "ns_steps": 2,
    "adjust_lr_fn": "match_rms_adamw",
    "adamw_lr": 0.5,
    "adamw_betas": (0.5, 0.6),
    "adamw_eps": 0.5,
    "adamw_weight_decay": 0.5,
}
#: Other options without which an option has no effect, or is not allowed.
REQUIRED: dict[str, dict[str, Any]] = {"dampening": {"momentum": 0.5}, "nesterov": {"momentum": 0.5}}
#: Options that change how the same numbers are computed.
SPEED = ("fused", "foreach")


def torch_name(builder: Any) -> str:
    """The name of torch's class that a builder builds."""
    return str(builder.__name__).removesuffix("Builder")


def parameters() -> Parameters:
    """A matrix, a taller one, a vector and a convolution's weight."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (8, 2), (5,), (2, 3, 3, 3)]]


def descend(optimizer: torch.optim.Optimizer, own: Parameters, first: int, last: int) -> list[Tensor]:
    """The parameters after steps `first` to `last`, each with its own gradients."""
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        for parameter in own:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * (1 + number % 3)
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in own]


def trained(builder: Any, steps: int = 4) -> list[Tensor]:
    own = parameters()
    return descend(builder(own), own, 0, steps)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("builder", [*TORCHS, pytest.param(optimizers.MuonBuilder, marks=needs_muon)])
def test_every_option_of_torch_has_the_same_default_or_is_listed_as_left_out(builder: Any) -> None:
    theirs = dict(inspect.signature(getattr(torch.optim, torch_name(builder))).parameters)
    del theirs["params"]
    ours = {field.name: field.default for field in attrs.fields(builder) if not field.name.startswith("adamw_")}

    assert set(theirs) - set(optimizers.LEFT_OUT) == set(ours)
    for name, default in ours.items():
        assert default == (True if name == "fused" else theirs[name].default), name


@needs_muon
def test_the_adamw_inside_muon_has_the_defaults_of_adamw() -> None:
    adamw = {field.name: field.default for field in attrs.fields(optimizers.AdamWBuilder)}
    inside = {field.name.removeprefix("adamw_"): field.default for field in attrs.fields(optimizers.MuonBuilder)}

    assert {name: inside[name] for name in ("betas", "weight_decay")} == {
        name: adamw[name] for name in ("betas", "weight_decay")
    }


@pytest.mark.parametrize("builder", TORCHS)
def test_a_builder_builds_the_optimizer_of_torch_with_its_options(builder: Any) -> None:
    optimizer = builder(lr=0.125, weight_decay=0.25)(parameters())

    assert type(optimizer) is getattr(torch.optim, torch_name(builder))
    for name, value in attrs.asdict(builder(lr=0.125, weight_decay=0.25)).items():
        assert optimizer.param_groups[0][name] == value


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        pytest.param(builder, field.name, marks=needs_muon if builder is optimizers.MuonBuilder else ())
        for builder in [*TORCHS, optimizers.LionBuilder, optimizers.MuonBuilder]
        for field in attrs.fields(builder)
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_every_option_changes_the_weights_or_only_the_speed(builder: Any, name: str) -> None:
    required = REQUIRED.get(name, {})
    plain = trained(builder(**required))

    if name in SPEED:
        fused = {"fused": False} if hasattr(builder(), "fused") else {}
        each, together = (trained(builder(**fused, foreach=foreach)) for foreach in (False, True))
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(each, together, strict=True))
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(each, plain, strict=True))
    else:
        other = not builder().nesterov if name == "nesterov" else OTHER[name]
        assert not same(trained(builder(**required, **{name: other})), plain)


@pytest.mark.parametrize("builder", EVERY)
def test_resumed_training_is_bit_identical(builder: Any) -> None:
    uninterrupted = trained(builder(), 6)
    own = parameters()
    first = builder()(own)
    descend(first, own, 0, 3)
    packed, tensors = pack(first.state_dict(), "optimizer")
    state = unpack(json.loads(json.dumps(packed)), {name: tensor.clone() for name, tensor in tensors.items()})
    later = [nn.Parameter(parameter.detach().clone()) for parameter in own]

    second = builder()(later)
    second.load_state_dict(state)

    assert same(descend(second, later, 3, 6), uninterrupted)


@pytest.mark.parametrize("builder", EVERY)
def test_a_parameter_without_a_gradient_does_not_change(builder: Any) -> None:
    own = parameters()
    optimizer = builder()(own)
    before = [parameter.detach().clone() for parameter in own]
    own[0].grad = torch.ones_like(own[0])

    optimizer.step()

    assert [torch.equal(a, b) for a, b in zip(own, before, strict=True)] == [False, True, True, True]


@pytest.mark.parametrize("builder", EVERY)
@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"weight_decay": -1.0}])
def test_an_option_out_of_bounds_is_rejected(builder: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        builder(**wrong)


@pytest.mark.parametrize("builder", [optimizers.AdamWBuilder, optimizers.AdamBuilder, optimizers.LionBuilder])
def test_betas_out_of_bounds_are_rejected(builder: Any) -> None:
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\), got \[0.9, 1.0\]"):
        builder(betas=(0.9, 1.0))


@pytest.mark.parametrize(
    ("optimizer", "key", "message"),
    [
        ("{type: SGD, nesterov: true}", "nesterov", "nesterov needs momentum above 0 and no dampening"),
        (
            "{type: AdamW, foreach: true}",
            "foreach",
            "foreach cannot be combined with fused: set `fused: false` to use foreach",
        ),
        ("{type: Muon, ns_steps: 100}", "ns_steps", "`ns_steps` of optimizer `Muon` must be >= 1 and < 100, got 100"),
    ],
)
def test_options_that_exclude_each_other_are_reported_with_their_location(
    prove: Callable[..., RecipePlan], optimizer: str, key: str, message: str
) -> None:
    text = DEFAULT.read_text()
    line = next(row for row in text.splitlines() if "optimizer:" in row)
    changed = f"{line.split('{')[0]}{optimizer}"
    number = text.splitlines().index(line) + 1

    with pytest.raises(RecipeError) as caught:
        prove(text.replace(line, changed, 1))

    (problem,) = caught.value.problems
    assert message in problem.message
    assert str(problem.where).endswith(f":{number}:{changed.index(key) + 2 + len(key) + 1}")


def test_lion_steps_by_the_sign_of_the_interpolated_momentum() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    optimizer = optimizers.LionBuilder(lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)([weight])

    expected, momentum = [2.0, -3.0], [0.0, 0.0]
    for gradient in ([1.0, -2.0], [-3.0, 0.75], [0.25, 1.0]):
        weight.grad = torch.tensor(gradient)
        optimizer.step()
        for index, g in enumerate(gradient):
            direction = math.copysign(1.0, 0.5 * momentum[index] + 0.5 * g)
            expected[index] -= 0.1 * (direction + 0.5 * expected[index])
            momentum[index] = 0.75 * momentum[index] + 0.25 * g

    assert weight.tolist() == pytest.approx(expected)
    assert optimizer.state[weight]["exp_avg"].tolist() == pytest.approx(momentum)


@needs_muon
def test_muon_updates_matrices_and_adamw_all_other_parameters() -> None:
    own = parameters()
    matrices, others = [own[0], own[1]], [own[2], own[3]]
    builder = optimizers.MuonBuilder(lr=0.02, weight_decay=0.0, adamw_lr=1e-3)

    together = descend(builder(own), own, 0, 4)

    apart = parameters()
    muon: Any = torch.optim.Muon(apart[:2], lr=0.02, weight_decay=0.0)
    adamw = torch.optim.AdamW(apart[2:], lr=1e-3, fused=True)
    for number in range(4):
        generator = torch.Generator().manual_seed(number)
        for parameter in apart:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * (1 + number % 3)
        muon.step()
        adamw.step()
    assert same(together, [parameter.detach() for parameter in apart])
    assert len(matrices) == len(others)


@needs_muon
@pytest.mark.parametrize(("kept", "groups"), [([0, 1, 2, 3], 2), ([0, 1], 1), ([2, 3], 1)])
def test_muon_is_one_optimizer_with_one_group_per_kind_of_parameter(kept: list[int], groups: int) -> None:
    own = [parameters()[index] for index in kept]
    optimizer = optimizers.MuonBuilder(lr=0.02, adamw_lr=1e-3)(own)

    for group in optimizer.param_groups:
        group["lr"] = 0.0  # as a scheduler would
    before = [parameter.detach().clone() for parameter in own]

    assert len(optimizer.param_groups) == groups
    assert same(descend(optimizer, own, 0, 2), before)
    assert all(parameter.grad is None for parameter in own)


def test_a_torch_without_muon_is_reported_with_the_version_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)

    with pytest.raises(RuntimeError, match=r"torch .* has no Muon: install torch 2\.9 or newer"):
        optimizers.MuonBuilder()(parameters())


@pytest.mark.parametrize("builder", EVERY)
def test_an_optimizer_minimizes_a_quadratic(builder: Any) -> None:
    own = parameters()
    optimizer = builder(lr=0.01, weight_decay=0.0)(own)

    def loss() -> float:
        return sum(parameter.detach().square().sum().item() for parameter in own)

    start = loss()
    for _ in range(100):
        for parameter in own:
            parameter.grad = 2 * parameter.detach()
        optimizer.step()

    assert loss() < start / 2
