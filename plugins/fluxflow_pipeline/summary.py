"""`--validate-pipeline`: what a configuration will do, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxflow_registry import counted, redact

from .config.config import Config, Step, logged_metrics, trains_autoencoder
from .translation.translate import Translation

_MODES = {
    "train_vae": "VAE",
    "gan_training": "GAN",
    "use_lpips": "LPIPS",
    "train_spade": "SPADE",
    "train_diff": "Flow",
    "train_diff_full": "Flow (whole schedule)",
}


def summary(translation: Translation) -> str:
    """The configuration on a page: that it is valid, and what each step trains, on what, until when."""
    config, recipe = translation.config, translation.recipe.plain()
    lines = [f"Pipeline validation passed: {config.path}", "", "Pipeline Summary:"]
    lines += [f"  Total steps: {len(config.steps)}"]
    lines += [f"  Total epochs: {sum(step.settings.n_epochs or 0 for step in config.steps)}"]
    models = [f"{name} ({model['type']})" for name, model in recipe["models"].items()]
    lines += [f"  Models: {', '.join(models)}"]
    lines += [f"  Output: {config.output.settings.output_path}"]
    for number, step in enumerate(config.steps, 1):
        lines += ["", *_step(config, step, recipe["steps"][step.name]["updates"], number)]
    if translation.notes:
        lines += ["", "Notes:", *(f"  {note}" for note in translation.notes)]
    return "\n".join(lines)


def summary_data(translation: Translation) -> dict[str, Any]:
    """The summary as JSON."""
    steps = translation.recipe.plain()["steps"]
    return {
        "valid": True,
        "steps": [
            {
                "name": step.name,
                "epochs": step.settings.n_epochs,
                "training": modes(step),
                "trains": {name: update["trains"] for name, update in steps[step.name]["updates"].items()},
                "freeze": list(step.frozen_models),
                "dataset": step.dataset,
                "batch_size": step.batch_size.value,
                "metrics": list(logged_metrics(step)),
                "transition": transition(step),
            }
            for step in translation.config.steps
        ],
        "notes": [note.as_json() for note in translation.notes],
    }


def modes(step: Step) -> list[str]:
    """What the step does, in FluxFlow's words."""
    settings = step.settings
    active = {key: getattr(settings, key) for key in _MODES}
    active["use_lpips"] = settings.use_lpips and settings.train_vae
    active["train_spade"] = settings.train_spade and trains_autoencoder(step)
    active["train_diff"] = settings.train_diff and not settings.train_diff_full
    found = [word for key, word in _MODES.items() if active[key]]
    return [f"{word} only" if found == ["GAN"] else word for word in found]


def transition(step: Step) -> str:
    """When the step ends."""
    settings = step.transition.settings
    if settings.mode == "epoch":
        return f"after {counted(step.settings.n_epochs or 1, 'epoch')}"
    limit = settings.max_epochs or step.settings.n_epochs
    return f"loss_threshold ({settings.metric} < {settings.threshold:g}, max {limit} epochs)"


def _step(config: Config, step: Step, updates: dict[str, Any], number: int) -> Iterator[str]:
    settings = step.settings
    yield f"Step {number}: {step.name} ({counted(settings.n_epochs or 1, 'epoch')})"
    if settings.description:
        yield f"  Description: {settings.description}"
    yield f"  Training: {', '.join(modes(step))}"
    for name, update in updates.items():
        trains, losses = ", ".join(update["trains"]), ", ".join(update["losses"])
        yield f"    {name}: trains {trains}; losses {losses}; {_rates(update)}"
    if step.frozen_models:
        yield f"  Freeze: {', '.join(step.frozen_models)}"
    limit = f", at most {counted(settings.max_steps, 'batch')} an epoch" if settings.max_steps else ""
    yield f"  Dataset: {_dataset(config, step)}, batches of {step.batch_size.value}{limit}"
    yield f"  Transition: {transition(step)}"


def _rates(update: dict[str, Any]) -> str:
    optimizer, scheduler = update["optimizer"], update.get("scheduler")
    suffix = f", {scheduler['type']}" if scheduler else ""
    return f"{optimizer['type']} lr {optimizer['lr']:g}{suffix}"


def _dataset(config: Config, step: Step) -> str:
    settings, side = config.datasets[step.dataset].settings, config.side_of(step.dataset)
    source = settings.webdataset_url if settings.type == "webdataset" else settings.image_folder or settings.data_path
    about = "about " if settings.type == "local" else ""  # images of a folder keep their aspect
    return f"{step.dataset} ({settings.type}, {redact(source)}, {about}{side} x {side})"
