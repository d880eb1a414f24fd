"""Optimizers: every option of torch's, and Lion and Muon by their equations."""

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
from fluxflow_registry.state.codec import pack, unpack
from fluxflow_torch import optimizers

from ..recipes import DEFAULT

TORCHS = [optimizers.AdamW, optimizers.Adam, optimizers.SGD, optimizers.RMSprop]
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has no Muon")
EVERY = [*TORCHS, optimizers.Lion, pytest.param(optimizers.Muon, marks=needs_muon)]
Parameters = list[nn.Parameter]

#: For each option, another value of it, and what must stand beside that.
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
BESIDE: dict[str, dict[str, Any]] = {"dampening": {"momentum": 0.5}, "nesterov": {"momentum": 0.5}}
#: How the same numbers are computed.
SPEED = ("fused", "foreach")


def parameters() -> Parameters:
    """A matrix, a taller one, a vector and a convolution's weight."""
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for shape in [(4, 3), (8, 2), (5,), (2, 3, 3, 3)]]


def descend(made: torch.optim.Optimizer, own: Parameters, first: int, last: int) -> list[Tensor]:
    """The parameters after steps `first` to `last`, each with gradients of its own."""
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        for parameter in own:
            parameter.grad = torch.randn(parameter.shape, generator=generator) * (1 + number % 3)
        made.step()
        made.zero_grad()
    return [parameter.detach().clone() for parameter in own]


def trained(options: Any, steps: int = 4) -> list[Tensor]:
    own = parameters()
    return descend(options(own), own, 0, steps)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("options", [*TORCHS, pytest.param(optimizers.Muon, marks=needs_muon)])
def test_every_option_of_torchs_is_offered_with_its_default_or_left_out_on_purpose(options: Any) -> None:
    theirs = dict(inspect.signature(getattr(torch.optim, options.__name__)).parameters)
    del theirs["params"]
    ours = {field.name: field.default for field in attrs.fields(options) if not field.name.startswith("adamw_")}

    assert set(theirs) - set(optimizers.LEFT_OUT) == set(ours)
    for name, default in ours.items():
        assert default == (True if name == "fused" else theirs[name].default), name


@needs_muon
def test_the_adamw_of_muon_is_adamw() -> None:
    adamw = {field.name: field.default for field in attrs.fields(optimizers.AdamW)}
    inside = {field.name.removeprefix("adamw_"): field.default for field in attrs.fields(optimizers.Muon)}

    assert {name: inside[name] for name in ("betas", "weight_decay")} == {
        name: adamw[name] for name in ("betas", "weight_decay")
    }


@pytest.mark.parametrize("options", TORCHS)
def test_an_optimizer_is_torchs_own_with_torchs_options(options: Any) -> None:
    made = options(lr=0.125, weight_decay=0.25)(parameters())

    assert type(made) is getattr(torch.optim, options.__name__)
    for name, value in attrs.asdict(options(lr=0.125, weight_decay=0.25)).items():
        assert made.param_groups[0][name] == value


@pytest.mark.parametrize(
    ("options", "name"),
    [
        pytest.param(options, field.name, marks=needs_muon if options is optimizers.Muon else ())
        for options in [*TORCHS, optimizers.Lion, optimizers.Muon]
        for field in attrs.fields(options)
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_every_option_moves_the_weights_elsewhere_or_as_fast(options: Any, name: str) -> None:
    beside = BESIDE.get(name, {})
    plain = trained(options(**beside))

    if name in SPEED:
        fused = {"fused": False} if hasattr(options(), "fused") else {}
        each, together = (trained(options(**fused, foreach=foreach)) for foreach in (False, True))
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(each, together, strict=True))
        assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(each, plain, strict=True))
    else:
        other = not options().nesterov if name == "nesterov" else OTHER[name]
        assert not same(trained(options(**beside, **{name: other})), plain)


@pytest.mark.parametrize("options", EVERY)
def test_training_that_is_taken_up_again_is_the_same_bit_by_bit(options: Any) -> None:
    straight = trained(options(), 6)
    own = parameters()
    first = options()(own)
    descend(first, own, 0, 3)
    packed, tensors = pack(first.state_dict(), "optimizer")
    state = unpack(json.loads(json.dumps(packed)), {name: tensor.clone() for name, tensor in tensors.items()})
    later = [nn.Parameter(parameter.detach().clone()) for parameter in own]

    again = options()(later)
    again.load_state_dict(state)

    assert same(descend(again, later, 3, 6), straight)


@pytest.mark.parametrize("options", EVERY)
def test_a_parameter_without_a_gradient_stays(options: Any) -> None:
    own = parameters()
    made = options()(own)
    before = [parameter.detach().clone() for parameter in own]
    own[0].grad = torch.ones_like(own[0])

    made.step()

    assert [torch.equal(a, b) for a, b in zip(own, before, strict=True)] == [False, True, True, True]


@pytest.mark.parametrize("options", EVERY)
@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"lr": -1.0}, {"weight_decay": -1.0}])
def test_an_optimizer_refuses_what_is_out_of_bounds(options: Any, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        options(**wrong)


@pytest.mark.parametrize("options", [optimizers.AdamW, optimizers.Adam, optimizers.Lion])
def test_betas_out_of_bounds_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match=r"betas are in \[0, 1\), not \[0.9, 1.0\]"):
        options(betas=(0.9, 1.0))


@pytest.mark.parametrize(
    ("optimizer", "key", "told"),
    [
        ("{type: SGD, nesterov: true}", "nesterov", "nesterov needs momentum above 0 and no dampening"),
        (
            "{type: AdamW, foreach: true}",
            "foreach",
            "foreach and fused exclude each other: foreach needs `fused: false`",
        ),
        ("{type: Muon, ns_steps: 100}", "ns_steps", "`ns_steps` of optimizer `Muon`: must be < 100: 100"),
    ],
)
def test_options_that_exclude_each_other_are_told_at_their_place(
    prove: Callable[..., RecipePlan], optimizer: str, key: str, told: str
) -> None:
    text = DEFAULT.read_text()
    line = next(row for row in text.splitlines() if "optimizer:" in row)
    changed = f"{line.split('{')[0]}{optimizer}"
    number = text.splitlines().index(line) + 1

    with pytest.raises(RecipeError) as refused:
        prove(text.replace(line, changed, 1))

    (problem,) = refused.value.problems
    assert told in problem.message
    assert str(problem.where).endswith(f":{number}:{changed.index(key) + 2 + len(key) + 1}")


def test_lion_moves_by_the_sign_of_the_interpolated_momentum() -> None:
    weight = nn.Parameter(torch.tensor([2.0, -3.0]))
    made = optimizers.Lion(lr=0.1, betas=(0.5, 0.75), weight_decay=0.5)([weight])

    expected, momentum = [2.0, -3.0], [0.0, 0.0]
    for gradient in ([1.0, -2.0], [-3.0, 0.75], [0.25, 1.0]):
        weight.grad = torch.tensor(gradient)
        made.step()
        for index, g in enumerate(gradient):
            direction = math.copysign(1.0, 0.5 * momentum[index] + 0.5 * g)
            expected[index] -= 0.1 * (direction + 0.5 * expected[index])
            momentum[index] = 0.75 * momentum[index] + 0.25 * g

    assert weight.tolist() == pytest.approx(expected)
    assert made.state[weight]["exp_avg"].tolist() == pytest.approx(momentum)


@needs_muon
def test_muon_steps_matrices_and_adamw_the_rest() -> None:
    own = parameters()
    matrices, others = [own[0], own[1]], [own[2], own[3]]
    options = optimizers.Muon(lr=0.02, weight_decay=0.0, adamw_lr=1e-3)

    together = descend(options(own), own, 0, 4)

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
def test_muon_is_one_optimizer_with_a_group_for_each_kind(kept: list[int], groups: int) -> None:
    own = [parameters()[index] for index in kept]
    made = optimizers.Muon(lr=0.02, adamw_lr=1e-3)(own)

    for group in made.param_groups:
        group["lr"] = 0.0  # as a scheduler would
    before = [parameter.detach().clone() for parameter in own]

    assert len(made.param_groups) == groups
    assert same(descend(made, own, 0, 2), before)
    assert all(parameter.grad is None for parameter in own)


def test_where_torch_has_no_muon_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)

    with pytest.raises(RuntimeError, match=r"torch .* has no Muon; 2.9 is the first that does"):
        optimizers.Muon()(parameters())


@pytest.mark.parametrize("options", EVERY)
def test_an_optimizer_finds_the_bottom_of_a_bowl(options: Any) -> None:
    own = parameters()
    made = options(lr=0.01, weight_decay=0.0)(own)

    def height() -> float:
        return sum(parameter.detach().square().sum().item() for parameter in own)

    start = height()
    for _ in range(100):
        for parameter in own:
            parameter.grad = 2 * parameter.detach()
        made.step()

    assert height() < start / 2
