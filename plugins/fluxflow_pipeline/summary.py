"""`--validate-pipeline`: what a configuration will do, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxflow_registry.errors import counted
from fluxflow_registry.recipe.node import Node

from .config import Config, Step
from .metrics import logged
from .recipe import Translation
from .rules import size_of

_MODES = {
    "train_vae": "VAE",
    "gan_training": "GAN",
    "use_lpips": "LPIPS",
    "train_spade": "SPADE",
    "train_diff": "Flow",
    "train_diff_full": "Flow (whole schedule)",
}


def summary(made: Translation) -> str:
    """The configuration on a page: it is valid, and this is what each step trains, on what, until when."""
    config = made.config
    lines = [f"Pipeline validation passed: {config.path}", "", "Pipeline Summary:"]
    lines += [f"  Total steps: {len(config.steps)}"]
    lines += [f"  Total epochs: {sum(step.settings.n_epochs or 0 for step in config.steps)}"]
    models = [f"{name} ({model.plain()['type']})" for name, model in _models(made)]
    lines += [f"  Models: {', '.join(models)}"]
    lines += [f"  Output: {config.output.settings.output_path}"]
    for number, step in enumerate(config.steps, 1):
        lines += ["", *_step(made, step, number)]
    if made.notes:
        lines += ["", "Notes:", *(f"  {note}" for note in made.notes)]
    return "\n".join(lines)


def summary_data(made: Translation) -> dict[str, Any]:
    """The summary as JSON."""
    config = made.config
    return {
        "valid": True,
        "steps": [
            {
                "name": step.name,
                "epochs": step.settings.n_epochs,
                "training": modes(step),
                "trains": trained(made, step),
                "freeze": list(step.frozen_models),
                "dataset": step.dataset,
                "batch_size": step.batch_size.value,
                "metrics": list(logged(step)),
                "transition": transition(step),
            }
            for step in config.steps
        ],
        "notes": [{"message": note.message, "where": note.where} for note in made.notes],
    }


def _models(made: Translation) -> Iterator[tuple[str, Node]]:
    models = made.root.get("models")
    return iter(models.value.items() if models is not None else ())


def modes(step: Step) -> list[str]:
    """What the step does, in FluxFlow's words."""
    settings = step.settings
    told = {key: getattr(settings, key) for key in _MODES}
    told["use_lpips"] = settings.use_lpips and settings.train_vae
    told["train_spade"] = settings.train_spade and step.autoencoder
    told["train_diff"] = settings.train_diff and not settings.train_diff_full
    found = [word for key, word in _MODES.items() if told[key]]
    return [f"{word} only" if found == ["GAN"] else word for word in found]


def trained(made: Translation, step: Step) -> dict[str, list[str]]:
    """For each update of the step, the models that it trains."""
    return {name: update.plain()["trains"] for name, update in _updates(made, step).items()}


def _updates(made: Translation, step: Step) -> dict[str, Node]:
    node: Node | None = made.root
    for key in ("steps", step.name, "updates"):
        node = node.get(key) if node is not None else None
    return node.value if node is not None else {}


def transition(step: Step) -> str:
    """When the step ends."""
    settings = step.transition.settings
    if settings.mode == "epoch":
        return f"after {counted(step.settings.n_epochs or 1, 'epoch')}"
    most = settings.max_epochs or step.settings.n_epochs
    return f"loss_threshold ({settings.metric} < {settings.threshold:g}, max {most} epochs)"


def _step(made: Translation, step: Step, number: int) -> Iterator[str]:
    settings = step.settings
    yield f"Step {number}: {step.name} ({counted(settings.n_epochs or 1, 'epoch')})"
    if settings.description:
        yield f"  Description: {settings.description}"
    yield f"  Training: {', '.join(modes(step))}"
    for name, update in _updates(made, step).items():
        told = update.plain()
        yield f"    {name}: trains {', '.join(told['trains'])}; losses {', '.join(told['losses'])}; {_rates(told)}"
    if step.frozen_models:
        yield f"  Freeze: {', '.join(step.frozen_models)}"
    most = f", at most {counted(settings.max_steps, 'batch')} an epoch" if settings.max_steps else ""
    yield f"  Dataset: {_dataset(made.config, step)}, batches of {step.batch_size.value}{most}"
    yield f"  Transition: {transition(step)}"


def _rates(update: dict[str, Any]) -> str:
    optimizer, scheduler = update["optimizer"], update.get("scheduler")
    behind = f", {scheduler['type']}" if scheduler else ""
    return f"{optimizer['type']} lr {optimizer['lr']:g}{behind}"


def _dataset(config: Config, step: Step) -> str:
    settings = config.datasets[step.dataset].settings
    where = settings.webdataset_url if settings.type == "webdataset" else settings.image_folder or settings.data_path
    side = size_of(config, step.dataset)
    return f"{step.dataset} ({settings.type}, {where}, {side} x {side})"
