"""Rules for what each step trains, freezes and waits for, and for the sizes of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxflow_registry import Choices, Location, Problem, counted

from .config import (
    METRIC_SYNONYMS,
    WATCHED,
    Config,
    Section,
    Step,
    logged_metrics,
    trained_models,
    trains_autoencoder,
    trains_flow,
    unfrozen,
    watched_metric,
)
from .sections import OPTIMIZER_SYNONYMS

#: Side of the image over side of the latent; and of a token of the flow processor.
DOWNSCALE, PATCH = 16, 2


#: Keys on which the rules for modes and frozen models depend.
_MODES = {
    "train_vae",
    "gan_training",
    "train_spade",
    "use_lpips",
    "train_diff",
    "train_diff_full",
    "freeze",
    "unfreeze",
}


def violations(config: Config) -> Iterator[Problem]:
    """Every rule that the configuration breaks; a key that could not be read breaks none."""
    for step in config.steps:
        if not step.keys.unread & _MODES:
            yield from _modes(step)
            yield from _freezing(step)
            if not step.transition.unread:
                yield from _transition(step)
    yield from _sizes(config)


def idle_settings(config: Config) -> Iterator[Problem]:
    """Notes on settings without effect, and on models that stay random: a file may set more than it needs."""
    for step in config.steps:
        yield from _idle_keys(step)
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


def _idle_keys(step: Step) -> Iterator[Problem]:
    """Keys of a step that FluxFlow ignores too."""
    settings, transition = step.settings, step.transition
    if settings.use_lpips and not settings.train_vae and step.own.get("use_lpips") is not None:
        message = f"`use_lpips` of step `{step.name}` has no effect without `train_vae`: nothing is reconstructed"
        yield Problem(message, step.keys.where("use_lpips"), code="unused", subject="use_lpips")
    if transition.settings.value not in (None, settings.n_epochs):
        message = f"`value` in `transition_on` of step `{step.name}` has no effect: the step ends after `n_epochs`"
        yield Problem(message, transition.where("value"), code="unused", subject="value")
    limit = transition.settings.max_epochs
    if limit is not None and settings.n_epochs is not None and limit > settings.n_epochs:
        most = counted(settings.n_epochs, "epoch")
        message = f"step `{step.name}` ends after {most} at most: `max_epochs` is above `n_epochs`"
        yield Problem(message, transition.where("max_epochs"), code="unused", subject="max_epochs")


def _modes(step: Step) -> Iterator[Problem]:
    settings, what = step.settings, f"step `{step.name}`"
    autoencoder, flow = trains_autoencoder(step), trains_flow(step)
    if settings.train_spade and not (autoencoder or flow):
        message = f"`train_spade` of {what} needs `train_vae` or `gan_training`"
        cause = "alone it leaves only the KL divergence, which erases what the autoencoder has learned"
        yield Problem(
            message, step.keys.where("train_spade"), [("cause", cause)], code="conflict", subject="train_spade"
        )
        return
    if not (autoencoder or flow):
        hint = [("hint", "set `train_vae`, `gan_training`, `train_diff` or `train_diff_full` to true")]
        message = f"{what} trains nothing: none of its modes is true"
        yield Problem(message, step.where, hint, code="nothing-to-train", subject=step.name)
        return
    flow_modes = "`train_diff` or `train_diff_full`"
    requirements = {
        "train_spade": (settings.train_spade, autoencoder, "`train_vae` or `gan_training`"),
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
    settings, metric = keys.settings, watched_metric(step)
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
    elif metric not in logged:
        unknown = metric not in WATCHED
        why = "which a transition cannot watch" if unknown else "which the step does not log"
        choices = (
            Choices.of(settings.metric, {*WATCHED, *METRIC_SYNONYMS})
            if unknown
            else Choices(None, tuple(sorted(logged)))
        )
        message, where = f"{what} watches `{settings.metric}`, {why}", keys.where("metric")
        yield Problem(message, where, code="unknown-name", subject=settings.metric, choices=choices)
    if settings.threshold is None:
        message = f"{what} needs `threshold`: the value below which the step ends"
        yield Problem(message, keys.node.where, code="missing-key", subject="threshold")


def _sizes(config: Config) -> Iterator[Problem]:
    """Sides of images that the models cannot halve as often as they do."""
    for name in dict.fromkeys(step.dataset for step in config.steps if step.dataset in config.datasets):
        unit = size_unit(config, name)
        levels: list[Section[Any]] = [config.datasets[name], config.data]
        sizes = next((level for level in levels if level.sets("img_size")), config.data)
        smaller = next((level for level in levels if level.sets("reduced_min_sizes")), config.data)
        sides: list[tuple[int, Location]] = [(config.side_of(name), sizes.where("img_size"))]
        sides += [
            (side, smaller.node.at("reduced_min_sizes", index))
            for index, side in enumerate(smaller.settings.reduced_min_sizes or ())
            if side < config.side_of(name)  # a larger one is skipped
        ]
        for side, where in sides:
            if side < unit or side % unit:
                near = max(side // unit, 1) * unit
                message = f"dataset `{name}` has images of {side} pixels, but their sides must be multiples of {unit}"
                instead = [("instead", f"{near} or {near + unit}")]
                yield Problem(message, where, instead, code="wrong-shape", subject=name)


def size_unit(config: Config, dataset: str) -> int:
    """The sides of a dataset's images are multiples of this: the models halve them so often."""
    flow = any(trains_flow(step) for step in config.steps if step.dataset == dataset)
    return DOWNSCALE * (PATCH if flow else 1)
