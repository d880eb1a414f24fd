"""What a FluxFlow configuration must hold beside its form: what each step trains, freezes and waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fluxflow_registry.errors import Location, Problem, choices

from .config import Config, Section, Step
from .metrics import WATCHED, logged
from .options import OPTIMIZER_ALIASES

#: Side of the picture over side of the latent; and of a token of the flow processor.
DOWNSCALE, PATCH = 16, 2


def broken(config: Config) -> Iterator[Problem]:
    """Every rule that the configuration breaks."""
    for step in config.steps:
        yield from _modes(step)
        yield from _freezing(step)
        yield from _transition(step)
    yield from _sizes(config)


def idle(config: Config) -> Iterator[Problem]:
    """What is stated and has nothing to do: worth a note, since a file may state more than a step needs."""
    for step in config.steps:
        optimization = step.own.get("optimization")
        trained = trained_by(step)
        for key in ("optimizers", "schedulers"):
            stated = optimization.get(key) if optimization is not None else None
            for name in stated.value if stated is not None and isinstance(stated.value, dict) else ():
                if not trained.get(OPTIMIZER_ALIASES.get(str(name), str(name))):
                    message = f"`{name}` under `{key}` has nothing to do: step `{step.name}` trains none of its models"
                    yield Problem(message, stated.keys[name] if stated else step.where)
    if config.steps and config.steps[0].flow and not config.steps[0].autoencoder:
        message = f"nothing trains the autoencoder before step `{config.steps[0].name}`: its latents are random"
        yield Problem(message, config.steps[0].where)
    flows = [step for step in config.steps if step.flow]
    fixed = flows and not any(trained_by(step)["text_encoder"] for step in flows)
    if fixed and config.model.settings.pretrained_bert_model is None:
        message = (
            "`text_encoder` is frozen wherever a flow is trained, and is not pretrained: its embeddings are random"
        )
        yield Problem(message, flows[0].keys.where("freeze"))


def trained_by(step: Step) -> dict[str, tuple[str, ...]]:
    """For each optimizer, the models that it trains in a step."""
    vae = step.trains("compressor", "expander") if step.autoencoder else ()
    discriminator = step.trains("discriminator") if step.settings.gan_training else ()
    flow = step.trains("flow_processor") if step.flow else ()
    text = step.trains("text_encoder") if step.flow else ()
    return {"vae": vae, "discriminator": discriminator, "flow": flow, "text_encoder": text}


def _modes(step: Step) -> Iterator[Problem]:
    settings, what = step.settings, f"step `{step.name}`"
    if not (step.autoencoder or step.flow):
        modes = "train_vae, gan_training, train_diff or train_diff_full"
        yield Problem(f"{what} trains nothing: none of its modes is true", step.where, (("modes", modes),))
        return
    wanting = {
        "train_spade": (settings.train_spade, step.autoencoder, "needs `train_vae` or `gan_training`"),
        "use_lpips": (settings.use_lpips, settings.train_vae, "needs `train_vae`: without it nothing is reconstructed"),
        "cfg_dropout_prob": (settings.cfg_dropout_prob > 0, step.flow, "needs `train_diff` or `train_diff_full`"),
        "lambda_align": (settings.lambda_align > 0, step.flow, "needs `train_diff` or `train_diff_full`"),
    }
    for key, (wished, possible, why) in wanting.items():
        if wished and not possible and step.states(key):
            yield Problem(f"`{key}` of {what} {why}", step.keys.where(key))


def _freezing(step: Step) -> Iterator[Problem]:
    settings, what, where = step.settings, f"step `{step.name}`", step.keys.where("freeze")
    conflicts = {
        "train_vae": (settings.train_vae, ("compressor", "expander")),
        "gan_training": (settings.gan_training, ("discriminator",)),
        "train_diff_full" if settings.train_diff_full else "train_diff": (step.flow, ("flow_processor",)),
    }
    for mode, (wished, models) in conflicts.items():
        if wished and not step.trains(*models):
            names = " and ".join(f"`{model}`" for model in models)
            message = f"{what} freezes {names}, which `{mode}` is to train"
            yield Problem(
                message, where, (("either", f"`{mode}: false`"), ("or", f"`unfreeze: [{', '.join(models)}]`"))
            )
    if settings.train_vae and settings.gan_training and step.trains("compressor") and not step.trains("expander"):
        message = f"{what} freezes `expander`, which alone learns from the discriminator beside `train_vae`"
        yield Problem(message, where, (("either", "`gan_training: false`"), ("or", "`unfreeze: [expander]`")))


def _transition(step: Step) -> Iterator[Problem]:
    keys, what = step.transition, f"`transition_on` of step `{step.name}`"
    settings = keys.settings
    if settings.mode == "epoch":
        for key in ("metric", "threshold", "max_epochs"):
            if keys.stated(key) and keys.node.value[key].value is not None:
                hint = (("state it", "`mode: loss_threshold`"),)
                yield Problem(f"{what} states `{key}`, which mode `epoch` does not look at", keys.where(key), hint)
        return
    there = [name for name in logged(step) if name in WATCHED]
    if settings.metric is None:
        yield Problem(f"{what} needs `metric`: one of {', '.join(there)}", keys.node.where)
    elif settings.metric not in WATCHED:
        message = f"{what} watches `{settings.metric}`, which is no metric of a transition"
        yield Problem(message, keys.where("metric"), choices(settings.metric, WATCHED, "metrics"))
    elif settings.metric not in there:
        message = f"{what} watches `{settings.metric}`, which the step does not log"
        yield Problem(message, keys.where("metric"), (("logged", ", ".join(there) or "nothing"),))
    if settings.threshold is None:
        yield Problem(f"{what} needs `threshold`: the value below which the step ends", keys.node.where)


def _sizes(config: Config) -> Iterator[Problem]:
    """Sides of pictures that the models cannot halve as often as they do."""
    for name in dict.fromkeys(step.dataset for step in config.steps):
        flow = any(step.flow for step in config.steps if step.dataset == name)
        unit = DOWNSCALE * (PATCH if flow else 1)
        levels: list[Section[Any]] = [config.datasets[name], config.data]
        sizes = next((level for level in levels if level.stated("img_size")), config.data)
        smaller = next((level for level in levels if level.stated("reduced_min_sizes")), config.data)
        stated: list[tuple[int, Location | str]] = [(size_of(config, name), sizes.where("img_size"))]
        stated += [
            (side, smaller.node.at("reduced_min_sizes", index))
            for index, side in enumerate(smaller.settings.reduced_min_sizes or ())
        ]
        for side, where in stated:
            if side < unit or side % unit:
                near = max(side // unit, 1) * unit
                message = f"pictures of {side} pixels: the sides of `{name}` are multiples of {unit}"
                yield Problem(message, where, (("nearest", f"{near} or {near + unit}"),))


def size_of(config: Config, dataset: str) -> int:
    """The side of a dataset's pictures."""
    return config.datasets[dataset].settings.img_size or config.data.settings.img_size
