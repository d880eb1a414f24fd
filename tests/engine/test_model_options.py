"""The options of a model's entry change speed and memory, and nothing else."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.utils.parametrizations import spectral_norm

from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.models.checkpointing import blocks_of, checkpoint_blocks
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan

from ..small import FLOW, VAE_GAN
from .conftest import StopAfter, start, weights
from .test_resume import finals

Checker = Callable[..., RecipePlan]
Maker = Callable[..., LiveStep]

EAGER = "{backend: eager, dynamic: false}"


def take(step: LiveStep, count: int) -> dict[str, float]:
    """Train on the first batches; returns the logged metrics."""
    for index, batch in zip(range(count), step.batches(0, 0), strict=False):
        step.run(batch, Position(0, 0, index, index, index))
    return step.metrics.fetch()


@pytest.fixture
def compiler() -> Iterator[Counter[str]]:
    """The counters of torch's compiler since the test started."""
    torch.compiler.reset()
    counters.clear()
    yield counters["stats"]
    torch.compiler.reset()


def outputs(model: nn.Module) -> list[Tensor]:
    """The outputs of the model's layers, once it is called."""
    seen: list[Tensor] = []
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *given: seen.append(given[2]))
    return seen


def test_a_compiled_model_runs_compiled_and_computes_the_same(
    checked: Checker, live: Maker, compiler: Counter[str]
) -> None:
    plain = live(checked(VAE_GAN))
    compiled = live(checked(VAE_GAN, f"models.expander.compile={EAGER}"))

    expected = take(plain, 2)
    before = compiler["unique_graphs"]
    found = take(compiled, 2)

    assert before == 0
    assert compiler["unique_graphs"] > 0
    assert found == expected
    assert list(compiled.models["expander"].state_dict()) == list(plain.models["expander"].state_dict())


def test_the_average_of_a_compiled_model_computes_with_its_own_weights(
    checked: Checker, live: Maker, compiler: Counter[str]
) -> None:
    ema = "steps.vae_gan.ema={models: [expander]}"
    step = live(checked(VAE_GAN, f"models.expander.compile={EAGER}", "models.expander.checkpointing=true", ema))
    take(step, 3)
    average = step.averages["expander"].module
    plain = live(checked(VAE_GAN)).models["expander"].eval()
    plain.load_state_dict(average.state_dict())
    z = torch.randn(1, 2, 4, 4)

    with torch.no_grad():
        found, own, live_one = average(z), plain(z), step.models["expander"].eval()(z)

    assert torch.equal(found, own)
    assert not torch.equal(found, live_one)


@pytest.mark.slow
def test_the_default_compiler_computes_the_same_within_rounding(
    checked: Checker, live: Maker, compiler: Counter[str]
) -> None:
    expected = take(live(checked(VAE_GAN)), 2)

    found = take(live(checked(VAE_GAN, "models.expander.compile=true")), 2)

    assert compiler["unique_graphs"] > 0
    assert found == pytest.approx(expected, rel=1e-3)


def test_channels_are_last_in_memory_in_the_weights_and_in_the_values(checked: Checker, live: Maker) -> None:
    plain = live(checked(VAE_GAN))
    last = live(checked(VAE_GAN, "models.expander.channels_last=true", "models.compressor.channels_last=true"))
    seen = outputs(last.models["expander"])

    expected = take(plain, 2)
    found = take(last, 2)

    for name in ("compressor", "expander"):
        wide = [p for p in last.models[name].parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
        assert wide
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)
    assert seen
    assert all(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in seen)
    assert found == pytest.approx(expected, rel=1e-4)


class Block(nn.Module):
    """A residual block with dropout, and with a buffer that counts its calls."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Sequential(spectral_norm(nn.Linear(width, width)), nn.BatchNorm1d(width), nn.Dropout(0.5))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        added: Tensor = self.inside(x).tanh().exp().sin()
        return x + added


class Tower(nn.Module):
    """Blocks in a list, between two single layers."""

    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(width, width), nn.Tanh())
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def towers() -> tuple[Tower, Tower]:
    torch.manual_seed(0)
    plain = Tower()
    remembered = copy.deepcopy(plain)
    checkpoint_blocks(remembered)
    return plain, remembered


def walked(model: nn.Module, times: int = 1) -> tuple[Tensor, int]:
    """The output after a forward and `times` backward passes, and how many elements were kept for them."""
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    torch.manual_seed(1)
    x = torch.randn(64, 8)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out: Tensor = model(x)
    kept = sum(saved.values())
    for left in reversed(range(times)):
        torch.autograd.backward(out.square().sum(), retain_graph=left > 0)
    return out, kept


@pytest.mark.parametrize("times", [1, 2])
def test_checkpointed_blocks_are_computed_again_in_the_backward_pass_with_the_same_gradients(times: int) -> None:
    plain, remembered = towers()

    expected, kept = walked(plain, times)
    found, left = walked(remembered, times)

    assert [block.calls for block in plain.blocks] == [1, 1, 1]
    assert [block.calls for block in remembered.blocks] == [1 + times] * 3
    assert left < kept / 2
    assert torch.equal(found, expected)
    for (name, p), q in zip(plain.named_parameters(), remembered.parameters(), strict=True):
        assert p.grad is not None, name
        assert q.grad is not None, name
        assert torch.equal(p.grad, q.grad), name


def test_a_checkpointed_block_updates_its_buffers_once_per_call() -> None:
    plain, remembered = towers()

    walked(plain)
    walked(remembered)

    assert int(plain.state_dict()["blocks.0.inside.1.num_batches_tracked"]) == 1
    for (name, a), b in zip(plain.named_buffers(), remembered.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_without_gradients_nothing_is_computed_twice_and_parameter_names_do_not_change() -> None:
    plain, remembered = towers()

    with torch.no_grad():
        remembered(torch.randn(4, 8))

    assert [block.calls for block in remembered.blocks] == [1, 1, 1]
    assert list(remembered.state_dict()) == list(plain.state_dict())
    assert [type(block).__name__ for block in remembered.blocks] == ["Block"] * 3
    assert all(isinstance(block, Block) for block in remembered.blocks)


def test_a_copy_of_a_checkpointed_model_computes_with_its_own_weights() -> None:
    _, remembered = towers()
    copied = copy.deepcopy(remembered).eval().requires_grad_(False)
    with torch.no_grad():
        for p in remembered.parameters():
            p.zero_()

    assert copied(torch.ones(2, 8)).abs().sum() > 0


def test_blocks_are_the_outermost_children_of_containers_that_have_layers() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    rows: Any = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Block(2), inner), nn.Tanh(), nn.ModuleList([Block(2)]))

    assert blocks_of(rows) == [rows[1][0], inner, rows[3][0]]
    assert blocks_of(nn.Sequential(spectral_norm(nn.Linear(2, 2)), nn.ReLU())) == []
    assert blocks_of(nn.Linear(2, 2)) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_recipe_trains_the_same_with_checkpointed_blocks(
    checked: Checker, live: Maker, precision: str, norm: str
) -> None:
    text = (VAE_GAN + FLOW).replace("width: 8}", f"width: 8, norm: {norm}}}", 2)
    text = text.replace("vae_gan:\n    epochs: 2", f"vae_gan:\n    epochs: 2\n    precision: {precision}")
    switched = [f"models.{name}.checkpointing=true" for name in ("compressor", "expander", "flow_processor")]
    plain, remembered = live(checked(text)), live(checked(text, *switched))
    calls: Counter[nn.Module] = Counter()
    for block in blocks_of(remembered.models["expander"]):
        first = next(layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
        first.register_forward_pre_hook(lambda module, *_: calls.update([module]))

    expected = take(plain, 1)
    found = take(remembered, 1)

    assert set(calls.values()) == {3}  # the adversarial loss is cut at the latent: it walks back on its own
    assert found == expected
    assert all(map(torch.equal, weights(plain.models).values(), weights(remembered.models).values()))


EACH = {
    "compile": [f"models.{name}.compile={EAGER}" for name in ("compressor", "expander", "discriminator")],
    "channels_last": [
        *(f"models.{name}.channels_last=true" for name in ("compressor", "expander", "discriminator")),
        "steps.vae_gan.ema={models: [expander]}",
    ],
    "checkpointing": [
        *(f"models.{name}.checkpointing=true" for name in ("compressor", "expander")),
        "steps.vae_gan.ema={models: [expander]}",
    ],
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch hides it, where it is not an error
@pytest.mark.parametrize("setting", EACH)
@pytest.mark.parametrize("stop", [("batch_ended", 3), ("batch_ended", 9)])
def test_a_run_with_the_option_resumes_bit_by_bit(
    checked: Checker,
    tmp_path: Path,
    uninterrupted: Callable[..., Any],
    setting: str,
    stop: tuple[str, int],
    compiler: Counter[str],
) -> None:
    recipe = checked(VAE_GAN, *EACH[setting])
    whole = uninterrupted(VAE_GAN, *EACH[setting])

    first = start(recipe, tmp_path / "cut", [StopAfter(*stop)])
    second = start(recipe, tmp_path / "cut")

    assert first.stopped is not None
    assert finals(second.run) == finals(whole)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "models.text_encoder.channels_last=true",
            "`channels_last` has no effect on model `text_encoder`",
        ),
        (
            "models.discriminator.checkpointing=true",
            "`checkpointing` has no effect on model `discriminator`: it has no repeated blocks",
        ),
        (
            "models.expander.compile={backend: inductr}",
            "unknown backend `inductr` of torch.compile for model `expander`",
        ),
    ],
)
def test_an_option_without_effect_is_rejected_with_its_location(checked: Checker, setting: str, message: str) -> None:
    recipe = checked(VAE_GAN, setting)

    with pytest.raises(RecipeError) as rejected:
        prove_shapes(recipe)

    (problem,) = rejected.value.problems
    assert problem.message.startswith(message)
    assert problem.where is not None


def test_the_options_belong_to_the_entry_and_are_part_of_the_effective_recipe(checked: Checker) -> None:
    from fluxflow_registry.check.effective_recipe import effective_recipe
    from fluxflow_registry.engine.run.trained_models import config_of

    recipe = checked(VAE_GAN, "models.expander.compile={mode: max-autotune}", "models.expander.channels_last=true")

    options = {key: value for key, (value, _) in effective_recipe(recipe)["models"]["expander"].items()}
    assert options["compile"] == {"backend": "inductor", "mode": "max-autotune", "dynamic": None, "fullgraph": False}
    assert (options["channels_last"], options["checkpointing"]) == (True, False)
    assert config_of(recipe.models["expander"]) == options


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("models.expander.compile=3", "`compile` of model `expander` must be true or false or a mapping"),
        ("models.expander.compile={backnd: eager}", "unknown key `backnd` in `compile` of model `expander`"),
        ("models.expander.checkpointing=yes", "`checkpointing` of model `expander` must be true or false"),
    ],
)
def test_an_option_of_the_wrong_type_is_rejected(checked: Checker, setting: str, message: Any) -> None:
    with pytest.raises(RecipeError) as rejected:
        checked(VAE_GAN, setting)

    assert rejected.value.problems[0].message.startswith(message)
