"""Rules for what each step trains, freezes and waits for, and for the sizes of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxflow_registry import Choices, Location, Problem

from .config import (
    WATCHED,
    Config,
    Section,
    Step,
    logged_metrics,
    trained_models,
    trains_autoencoder,
    trains_flow,
    unfrozen,
)
from .sections import OPTIMIZER_SYNONYMS

#: Side of the image over side of the latent; and of a token of the flow processor.
DOWNSCALE, PATCH = 16, 2


def violations(config: Config) -> Iterator[Problem]:
    """Every rule that the configuration breaks."""
    for step in config.steps:
        yield from _modes(step)
        yield from _freezing(step)
        yield from _transition(step)
    yield from _sizes(config)


def idle_settings(config: Config) -> Iterator[Problem]:
    """Notes on settings without effect, and on models that stay random: a file may set more than it needs."""
    for step in config.steps:
        trained = trained_models(step)
        for key in ("optimizers", "schedulers"):
            entries = step.own.find("optimization", key)
            for name, where in entries.keys.items() if entries is not None else ():
                if not trained.get(OPTIMIZER_SYNONYMS.get(name, name)):
                    message = f"`{name}` in `{key}` has no effect: step `{step.name}` trains none of its models"
                    yield Problem(message, where, code="unused", subject=name)
    if config.steps and trains_flow(config.steps[0]) and not trains_autoencoder(config.steps[0]):
        step = config.steps[0]
        message = f"no step before `{step.name}` trains the autoencoder: its latents are random"
        yield Problem(message, step.where, code="untrained", subject="compressor")
    flows = [step for step in config.steps if trains_flow(step)]
    untrained = flows and not any(trained_models(step)["text_encoder"] for step in flows)
    if untrained and config.model.settings.pretrained_bert_model is None:
        message = "`text_encoder` is frozen in every flow step and not pretrained: its embeddings are random"
        yield Problem(message, flows[0].keys.where("freeze"), code="untrained", subject="text_encoder")


def _modes(step: Step) -> Iterator[Problem]:
    settings, what = step.settings, f"step `{step.name}`"
    autoencoder, flow = trains_autoencoder(step), trains_flow(step)
    if not (autoencoder or flow):
        hint = [("hint", "set `train_vae`, `gan_training`, `train_diff` or `train_diff_full` to true")]
        message = f"{what} trains nothing: none of its modes is true"
        yield Problem(message, step.where, hint, code="nothing-to-train", subject=step.name)
        return
    flow_modes = "`train_diff` or `train_diff_full`"
    requirements = {
        "train_spade": (settings.train_spade, autoencoder, "`train_vae` or `gan_training`"),
        "use_lpips": (settings.use_lpips, settings.train_vae, "`train_vae`: without it nothing is reconstructed"),
        "cfg_dropout_prob": (settings.cfg_dropout_prob > 0, flow, flow_modes),
        "lambda_align": (settings.lambda_align > 0, flow, flow_modes),
    }
    for key, (requested, possible, needs) in requirements.items():
        if requested and not possible and step.own.get(key) is not None:
            yield Problem(f"`{key}` of {what} needs {needs}", step.keys.where(key), code="conflict", subject=key)


def _freezing(step: Step) -> Iterator[Problem]:
    settings, what, where = step.settings, f"step `{step.name}`", step.keys.where("freeze")
    conflicts = {
        "train_vae": (settings.train_vae, ("compressor", "expander")),
        "gan_training": (settings.gan_training, ("discriminator",)),
        "train_diff_full" if settings.train_diff_full else "train_diff": (trains_flow(step), ("flow_processor",)),
    }
    for mode, (requested, models) in conflicts.items():
        if requested and not unfrozen(step, *models):
            names = " and ".join(f"`{model}`" for model in models)
            hint = [("hint", f"set `{mode}: false`, or add `unfreeze: [{', '.join(models)}]`")]
            message = f"{what} freezes {names}, but `{mode}` trains nothing else"
            yield Problem(message, where, hint, code="conflict", subject=mode)
    if settings.train_vae and settings.gan_training and unfrozen(step, "compressor") and not unfrozen(step, "expander"):
        hint = [("hint", "set `gan_training: false`, or add `unfreeze: [expander]`")]
        message = f"{what} freezes `expander`, but with `train_vae` only the expander learns from the discriminator"
        yield Problem(message, where, hint, code="conflict", subject="expander")


def _transition(step: Step) -> Iterator[Problem]:
    keys, what = step.transition, f"`transition_on` of step `{step.name}`"
    settings = keys.settings
    if settings.mode == "epoch":
        for key in ("metric", "threshold", "max_epochs"):
            if keys.sets(key) and keys.node.value[key].value is not None:
                instead = [("instead", "`mode: loss_threshold`")]
                message = f"{what} sets `{key}`, which mode `epoch` ignores"
                yield Problem(message, keys.where(key), instead, code="conflict", subject=key)
        return
    logged = [name for name in logged_metrics(step) if name in WATCHED]
    if settings.metric is None:
        message = f"{what} needs `metric`: one of {', '.join(logged)}"
        yield Problem(message, keys.node.where, code="missing-key", subject="metric")
    elif settings.metric not in logged:
        unknown = settings.metric not in WATCHED
        why = "which a transition cannot watch" if unknown else "which the step does not log"
        choices = Choices.of(settings.metric, WATCHED) if unknown else Choices(None, tuple(sorted(logged)))
        message, where = f"{what} watches `{settings.metric}`, {why}", keys.where("metric")
        yield Problem(message, where, code="unknown-name", subject=settings.metric, choices=choices)
    if settings.threshold is None:
        message = f"{what} needs `threshold`: the value below which the step ends"
        yield Problem(message, keys.node.where, code="missing-key", subject="threshold")


def _sizes(config: Config) -> Iterator[Problem]:
    """Sides of images that the models cannot halve as often as they do."""
    for name in dict.fromkeys(step.dataset for step in config.steps):
        flow = any(trains_flow(step) for step in config.steps if step.dataset == name)
        unit = DOWNSCALE * (PATCH if flow else 1)
        levels: list[Section[Any]] = [config.datasets[name], config.data]
        sizes = next((level for level in levels if level.sets("img_size")), config.data)
        smaller = next((level for level in levels if level.sets("reduced_min_sizes")), config.data)
        sides: list[tuple[int, Location]] = [(config.side_of(name), sizes.where("img_size"))]
        sides += [
            (side, smaller.node.at("reduced_min_sizes", index))
            for index, side in enumerate(smaller.settings.reduced_min_sizes or ())
        ]
        for side, where in sides:
            if side < unit or side % unit:
                near = max(side // unit, 1) * unit
                message = f"dataset `{name}` has images of {side} pixels, but their sides must be multiples of {unit}"
                instead = [("instead", f"{near} or {near + unit}")]
                yield Problem(message, where, instead, code="wrong-shape", subject=name)
