"""Paths, predictions and networks in recipes: training, sampling, and that both use the same times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluxflow_registry import hookimpl
from fluxflow_registry.contracts import Position
from fluxflow_registry.engine.data.opening import open_sources
from fluxflow_registry.engine.graph.calls import Interrupted
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run.evaluation import Sampling
from fluxflow_registry.engine.run.observers import ObservedRun
from fluxflow_registry.engine.training.step import LiveStep
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..engine.conftest import changed, start, weights
from ..recipes import SHIPPED
from ..small import PLUGINS, sized
from .flow_path import NAMES, OPTIONS

CPU = torch.device("cpu")

RECIPE = """
recipe: 1
name: paths
models:
  compressor: {type: compressor, latent_channels: 2, width: 8, untrained: true}
  expander: {type: expander, latent_channels: 2, width: 8, untrained: true}
  text_encoder: {type: text_transformer, width: 16, depth: 1, heads: 2, table_size: 32}
  flow_processor: {type: flow_transformer, latent_channels: 2, width: 16, depth: 1, heads: 2, text_width: 16}
  projection: {type: projection, width_in: 2, width_out: 16}
datasets:
  shapes: {type: shapes, image_size: 16, length: 40}
sampler: {type: euler, steps: 4}
values:
  path: {}
  prompt: {dropout: 0.0}
steps:
  flow:
    dataset: shapes
    batch_size: 20
    epochs: 2
    updates:
      flow:
        trains: [flow_processor, text_encoder]
        losses: {velocity: {}}
        optimizer: {type: AdamW, lr: 1.0e-2}
"""

UNET = "{type: unet, latent_channels: 2, width: 16, channel_mults: [1, 2], depth: 1, heads: 2, text_width: 16}"

LOSS = {"velocity": "velocity", "epsilon": "epsilon", "v": "v_prediction"}

#: Weights change only by gradients, which reach the text encoder after some batches: the last layers start at zero.
LEARNS = ["steps.flow.updates.flow.optimizer.weight_decay=0.0", "steps.flow.batch_size=8"]

every_path = pytest.mark.parametrize("path", OPTIONS, ids=NAMES)

Prove = Callable[..., RecipePlan]


@pytest.fixture(scope="module")
def plugins() -> Registry:
    """What these recipes name, without observers."""
    return load(PLUGINS)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def along(path: dict[str, Any], text: str = RECIPE) -> str:
    """The recipe with another path and the loss of its kind of prediction."""
    options = ", ".join(f"{key}: {value}" for key, value in path.items())
    return text.replace("path: {}", f"path: {{{options}}}").replace(
        "losses: {velocity: {}}", f"losses: {{{LOSS[path['predicts']]}: {{}}}}"
    )


def live(checked: RecipePlan, models: dict[str, nn.Module]) -> LiveStep:
    source = open_sources(checked)["shapes"]
    return LiveStep(sized(checked.steps[0], source), source, models, 0, CPU, checked.solver)


def train(step: LiveStep, count: int) -> None:
    for number, batch in zip(range(count), step.batches(0, 0), strict=False):
        step.run(batch, Position(batch=number, step_batch=number, run_batch=number))


def generate(checked: RecipePlan, models: dict[str, nn.Module], captions: list[str]) -> Tensor:
    """Images of the captions, at the size of the training images."""
    sampling = Sampling(checked, checked.steps[0], models, CPU, checked.solver, seed=0)
    images: Tensor = sampling.compute(["generated_image"], {"caption": captions}, (16, 16))["generated_image"]
    return images


class Recorder(nn.Module):
    """A perfect network for one latent, whose elements are all `known`; it records its inputs."""

    latent_channels, patch = 2, 1

    def __init__(self, path: Any, known: float) -> None:
        super().__init__()
        self.path, self.known = path, known
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        self.seen.append((x.detach(), time.detach(), tokens.detach()))
        x_0 = torch.full_like(x, self.known)
        prediction: Tensor = self.path.target(x_0, noise_in(self.path, x, time, x_0), time)
        return prediction + 0 * self.weight


def noise_in(path: Any, x: Tensor, time: Tensor, x_0: Tensor) -> Tensor:
    """The noise in x, for an x on the path at this time."""
    alpha, sigma = path.alpha(time)[:, None, None, None], path.sigma(time)[:, None, None, None]
    noise: Tensor = (x - alpha * x_0) / sigma
    return noise


@every_path
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m"])
def test_a_time_means_the_same_in_training_and_in_sampling(
    path: dict[str, Any], sampler: str, prove: Prove, plugins: Registry
) -> None:
    text = along(path).replace("type: euler", f"type: {sampler}") + "    values: {generated_image: {guidance: 1.0}}\n"
    checked = prove(text, using=plugins)
    models = build_models(checked, CPU)
    known = checked.steps[0].providers["path"].instance()
    models["flow_processor"] = recorder = Recorder(known, 0.5)

    step = live(checked, models)
    step.values.draws.at(0, "flow", 0)
    train(step, 1)
    (x_t, time, tokens), kept = recorder.seen.pop(), step.values.kept
    caption = kept["caption"].bare[0]
    generate(checked, models, [caption])

    # In training, the noise in x_t at the time that the network receives is the noise that was sampled.
    found = noise_in(known, x_t, time, kept["clean_latent"].bare)
    torch.testing.assert_close(found, kept["noise"].bare, rtol=1e-2, atol=1e-2)
    # In sampling, it is the same noise from the first step to the last: the network is perfect.
    noises = [noise_in(known, x, t, torch.full_like(x, 0.5)) for x, t, _ in recorder.seen]
    times = [float(t[0]) for _, t, _ in recorder.seen]
    assert times[0] == pytest.approx(1.0, abs=1e-4)
    assert times == sorted(times, reverse=True)
    assert len(noises) == 4
    for noise in noises[1:]:
        torch.testing.assert_close(noise, noises[0], rtol=1e-2, atol=1e-2)
    # The network receives the same text tokens for the same caption.
    torch.testing.assert_close(recorder.seen[0][2], tokens[:1, : recorder.seen[0][2].shape[1]])


@every_path
@pytest.mark.parametrize("network", ["transformer", "unet"])
def test_every_path_trains_and_generates(path: dict[str, Any], network: str, prove: Prove, plugins: Registry) -> None:
    text = along(path)
    if network == "unet":
        head, rest = text.split("  flow_processor: ", 1)
        text = f"{head}  flow_processor: {UNET}\n{rest.split(chr(10), 1)[1]}"
    checked = prove(text, *LEARNS, using=plugins)
    models = build_models(checked, CPU)
    step = live(checked, models)
    before = weights(models)

    prove_shapes(checked)
    train(step, 5)

    assert changed(before, models) == {"flow_processor", "text_encoder"}
    images = generate(checked, models, ["a red circle", ""])
    assert images.shape == (2, 3, 16, 16)
    assert images.isfinite().all()


@every_path
@pytest.mark.parametrize("loss", LOSS.values())
def test_a_loss_of_another_kind_of_prediction_is_rejected_before_training(
    path: dict[str, Any], loss: str, prove: Prove, plugins: Registry
) -> None:
    right = LOSS[path["predicts"]]
    if loss == right:
        return
    checked = prove(along(path).replace(f"losses: {{{right}", f"losses: {{{loss}"), using=plugins)

    with pytest.raises(RecipeError) as caught:
        prove_shapes(checked)

    (problem,) = caught.value.problems
    assert problem.message.startswith(f"in step `flow`, loss `{loss}` of update `flow` failed: ")
    assert (problem.code, problem.subject) == ("component-failed", f"flow/{loss}")
    assert f"value `path` predicts {path['predicts']}: use loss `{right}`" in problem.message


def test_min_snr_changes_what_is_learned(prove: Prove, plugins: Registry) -> None:
    text = along({"kind": "ddpm", "predicts": "epsilon"})
    ends = []
    for gamma in ("{}", "{min_snr_gamma: 1.0}"):
        models = build_models(checked := prove(text.replace("epsilon: {}", f"epsilon: {gamma}"), using=plugins), CPU)
        train(live(checked, models), 2)
        ends.append(weights(models))

    assert any(not torch.equal(value, ends[1][name]) for name, value in ends[0].items())


def test_alignment_alone_trains_flow_model_text_encoder_and_projection(prove: Prove, plugins: Registry) -> None:
    text = RECIPE.replace("[flow_processor, text_encoder]", "[flow_processor, text_encoder, projection]")
    checked = prove(text.replace("velocity: {}", "alignment: {}"), *LEARNS, using=plugins)
    models = build_models(checked, CPU)
    step = live(checked, models)
    before = weights(models)

    prove_shapes(checked)
    train(step, 5)

    assert changed(before, models) == {"flow_processor", "text_encoder", "projection"}


def test_alignment_is_not_computed_unless_the_recipe_names_it(prove: Prove, plugins: Registry) -> None:
    checked = prove(RECIPE, using=plugins)

    assert "predicted_latent" not in checked.steps[0].values


class Listener:
    """Records the captions of each batch that the text encoder embeds in training."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    @hookimpl
    def step_started(self, run: Any) -> None:
        encoder = run.engine.models["text_encoder"]
        encoder.register_forward_pre_hook(lambda _, inputs: self.batches.append(list(inputs[0])))


@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.4])
def test_captions_are_dropped_at_their_rate_in_a_run(
    dropout: float, prove: Prove, plugins: Registry, tmp_path: Path
) -> None:
    text = RECIPE.replace("dropout: 0.0", f"dropout: {dropout}").replace("length: 40", "length: 1000")
    text = text.replace("batch_size: 20", "batch_size: 100")
    listener = Listener()

    start(prove(text, using=plugins), tmp_path, [listener])

    dropped = [[caption == "" for caption in batch] for batch in listener.batches]
    assert [len(batch) for batch in dropped] == [100] * 20
    assert sum(map(sum, dropped)) / 2000 == pytest.approx(dropout, abs=0.035)
    if dropout:  # sample by sample, not whole batches, and differently in each epoch
        assert all(0 < sum(batch) < 100 for batch in dropped)
        assert dropped[:10] != dropped[10:]


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpmpp_2m"])
def test_a_stop_signal_interrupts_every_sampler(sampler: str, prove: Prove, plugins: Registry, tmp_path: Path) -> None:
    checked = prove(RECIPE.replace("type: euler", f"type: {sampler}").replace("epochs: 2", "epochs: 1"), using=plugins)
    run = start(checked, tmp_path).run
    calls: list[int] = []

    def stop(*_: Any) -> None:
        calls.append(1)
        run.stopping = "SIGTERM" if len(calls) == 2 else None

    run.models["flow_processor"].register_forward_hook(stop)

    with pytest.raises(Interrupted):
        ObservedRun(run).draw(["generated_image"], {"caption": ["a circle"], "image_size": (16, 16)})

    assert len(calls) == 2


@pytest.mark.parametrize("file", [file for file in SHIPPED if file.stem == "latent_unet"], ids=lambda p: p.parent.name)
def test_the_predictions_of_the_latent_unet_recipes_have_the_shape_of_the_latent(file: Path, prove: Prove) -> None:
    shapes = prove_shapes(prove(file.read_text()))

    assert shapes["unet"]["prediction"] == shapes["unet"]["clean_latent"]
