"""A step of a FluxFlow configuration as a step of a recipe, with its losses, optimizers and schedulers."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.commands import Node, as_node

from ..config.config import (
    Config,
    Step,
    aligns,
    default_of,
    logged_metrics,
    trained_models,
    trains_autoencoder,
    trains_flow,
    uses_spade,
)
from .recipe_text import component, entry

#: The losses that adaptive weights balance: reconstruction, perceptual and adversarial.
_BALANCED = ("frequency", "lpips", "hinge_generator")

#: FluxFlow's options without a counterpart, and the value that has the same effect as none.
_IMPLIED = {"decoupled_weight_decay": True, "mode": "min"}

#: The learning rate of a file that sets none.
LR = 1e-5

#: FluxFlow's defaults for options whose default is another one here.
_OPTIMIZER_DEFAULTS = {"AdamW": {"weight_decay": 0.0}}
_SCHEDULER_DEFAULTS: dict[str, dict[str, float | str]] = {
    "CosineAnnealingLR": {"eta_min_factor": 0.1, "interval": "batch"},
    "LinearLR": {"start_factor": 1.0, "end_factor": 0.1, "interval": "batch"},
    "ConstantLR": {"factor": 1.0, "interval": "batch"},
    "ExponentialLR": {"gamma": 0.95},
}


def step_of(config: Config, step: Step) -> Node:
    """The step: its data, its values, its updates in their order, and its end."""
    settings, keys = step.settings, step.keys
    accumulate = "training_steps" if settings.training_steps is not None else "gradient_accumulation_steps"
    values = _values(config, step)
    return entry(
        step.where,
        dataset=as_node(step.dataset, keys.where("dataset")),
        batch_size=step.batch_size,
        workers=step.workers,
        epochs=keys.value("n_epochs") or as_node(1, keys.where("n_epochs")),
        max_steps=keys.value("max_steps"),
        precision=as_node("fp16", keys.where("use_fp16")) if settings.use_fp16 else None,
        accumulate=keys.value(accumulate) if (getattr(settings, accumulate) or 1) > 1 else None,
        log_every=config.output.value("log_interval"),
        checkpoint_every=config.output.value("checkpoint_save_interval"),
        values=entry(step.where, **values) if values else None,
        updates=entry(step.where, **_updates(step)),
        ema=_ema(step),
        until=_until(step),
    )


def _values(config: Config, step: Step) -> dict[str, Node]:
    settings, keys = step.settings, step.keys
    values = {}
    if trains_autoencoder(step) and any(map(uses_spade, config.steps)):
        # Set even if it is off: otherwise it would stay as the step before has left it.
        values["reconstruction"] = entry(keys.where("train_spade"), spade=settings.train_spade)
    if settings.gan_training:
        std, decay = keys.value("instance_noise_std"), keys.value("instance_noise_decay")
        values["instance_noise"] = entry(keys.where("instance_noise_std"), std=std, decay=decay)
    if trains_flow(step):
        values["prompt"] = entry(keys.where("cfg_dropout_prob"), dropout=settings.cfg_dropout_prob)
        # `train_diff_full` takes times from the whole schedule, `train_diff` most of them from its middle.
        distribution = "uniform" if settings.train_diff_full else "logit_normal"
        values["time"] = entry(keys.where(_flow_mode(step)), distribution=distribution)
    return values


def _flow_mode(step: Step) -> str:
    return "train_diff_full" if step.settings.train_diff_full else "train_diff"


def _updates(step: Step) -> dict[str, Node]:
    """The discriminator's update, then the autoencoder's, then the flow's, each with the models that are not frozen."""
    trained = trained_models(step)
    updates = {}
    if trained["discriminator"]:
        updates["discriminator"] = _update(step, "discriminator", trained["discriminator"], _discriminator_losses(step))
    if trained["vae"]:
        losses = _autoencoder_losses(step)
        updates["vae"] = _update(step, "vae", trained["vae"], losses, _balancer(step, losses))
    if trained["flow"]:
        # A text encoder with an optimizer of its own has an update of its own, with the same loss.
        text = trained["text_encoder"]
        own = bool(text) and ("text_encoder" in step.optimizers or "text_encoder" in step.schedulers)
        models = trained["flow"] + (() if own else text) + (("projection",) if aligns(step) else ())
        updates["flow"] = _update(step, "flow", models, _flow_losses(step))
        if own:
            comment = "its own optimizer needs its own update, which computes the velocity again"
            updates["text_encoder"] = _update(step, "text_encoder", text, _flow_losses(step), None, comment)
    return updates


def _update(
    step: Step, name: str, trains: tuple[str, ...], losses: Node, balancer: Node | None = None, comment: str = ""
) -> Node:
    return entry(
        step.where,
        comment,
        trains=trains,
        losses=losses,
        optimizer=optimizer(step, name),
        scheduler=scheduler(step, name),
        balancer=balancer,
        clip_grad_norm=step.keys.value("initial_clipping_norm") if step.settings.initial_clipping_norm > 0 else None,
    )


def _discriminator_losses(step: Step) -> Node:
    """The hinge loss and, on every n-th batch, the gradient penalty."""
    keys, gan = step.keys, step.keys.where("gan_training")
    penalty = entry(keys.where("r1_gamma"), gamma=keys.value("r1_gamma"), every=keys.value("r1_interval"))
    return entry(gan, hinge_discriminator=entry(gan), r1=penalty if step.settings.r1_gamma > 0 else None)


def _autoencoder_losses(step: Step) -> Node:
    """Reconstruction, LPIPS, KL and the generator's side; in GAN-only mode the last two alone."""
    settings, keys = step.settings, step.keys
    losses: dict[str, Node | None] = {}
    if settings.train_vae:
        losses["frequency"] = entry(keys.where("train_vae"))
        losses["mse"] = _weighted(step, "mse_weight")
        losses["lpips"] = _weighted(step, "lambda_lpips") if settings.use_lpips else None
    if "compressor" not in step.frozen_models:  # a frozen compressor has a constant divergence
        losses["kl"] = entry(
            keys.where("kl_beta"),
            weight=keys.value("kl_beta"),
            warmup=keys.value("kl_warmup_steps"),
            free_bits=keys.value("kl_free_bits") if settings.kl_free_bits > 0 else None,
        )
    if settings.gan_training:
        # Beside a reconstruction loss the encoder does not learn from the discriminator; in GAN-only mode it does.
        detached = settings.train_vae and "compressor" not in step.frozen_models
        only = "" if settings.train_vae else "the encoder learns from it"
        losses["hinge_generator"] = entry(
            keys.where("lambda_adv"),
            "the encoder does not learn from it" if detached else only,
            weight=keys.value("lambda_adv"),
            detach=as_node(["latent"], keys.where("train_vae")) if detached else None,
        )
    return entry(step.where, **losses)


def _weighted(step: Step, key: str) -> Node:
    return entry(step.keys.where(key), weight=step.keys.value(key))


def _balancer(step: Step, losses: Node) -> Node | None:
    """Reconstruction, perceptual and adversarial losses are balanced if there are at least two of them."""
    spared = [name for name in losses.value if name not in _BALANCED]
    if not step.settings.adaptive_weights or len(losses.value) - len(spared) < 2:
        return None
    return component("inverse", step.keys.where("adaptive_weights"), spare=spared)


def _flow_losses(step: Step) -> Node:
    where = step.keys.where(_flow_mode(step))
    return entry(where, velocity=entry(where), alignment=_weighted(step, "lambda_align") if aligns(step) else None)


def _ema(step: Step) -> Node | None:
    """Averages of the trained models, except the discriminator, which generates nothing."""
    trained = trained_models(step)
    models = [model for name in ("vae", "flow", "text_encoder") for model in trained[name]]
    if not (step.settings.use_ema and models):
        return None
    return entry(step.keys.where("use_ema"), models=models, decay=step.keys.value("ema_decay"))


def _until(step: Step) -> Node | None:
    keys = step.transition
    metric = logged_metrics(step).get(keys.settings.metric or "")
    if keys.settings.mode == "epoch" or metric is None:
        return None
    return component(
        "loss_threshold",
        keys.where("mode"),
        f"FluxFlow's {keys.settings.metric}",
        metric=as_node(metric, keys.where("metric")),
        threshold=keys.value("threshold"),
        max_epochs=keys.value("max_epochs"),
    )


def optimizer(step: Step, name: str) -> Node:
    """The optimizer of an update, AdamW by default; its learning rate is its own, or the step's."""
    own = step.optimizers.get(name)
    rate = step.keys.value("lr") or as_node(LR, step.keys.where("lr"))
    if own is None:
        decay = as_node(0.0, default_of("weight_decay"))
        return component("AdamW", default_of(name), lr=rate, weight_decay=decay)
    return _with_defaults(own, "AdamW", _OPTIMIZER_DEFAULTS, {"lr": rate})


def scheduler(step: Step, name: str) -> Node | None:
    """The scheduler of an update, by default a cosine down to `lr_min`."""
    own = step.schedulers.get(name)
    if own is None:
        factor = step.keys.value("lr_min")
        where = step.keys.where("lr_min")
        return component("CosineAnnealingLR", where, eta_min_factor=factor, interval="batch")
    return _with_defaults(own, "CosineAnnealingLR", _SCHEDULER_DEFAULTS, {})


def _with_defaults(
    own: Node, type_: str, defaults: Mapping[str, Mapping[str, float | str]], options: Mapping[str, Node]
) -> Node:
    """The component with its own options first, then `options`, then FluxFlow's defaults for its type."""
    chosen = own.get("type") or as_node(type_, default_of("type"))
    value = {
        key: child
        for key, child in own.value.items()
        if key != "type" and child.value is not None and (key, child.value) not in _IMPLIED.items()
    }
    for key, child in options.items():
        value.setdefault(key, child)
    for key, default in defaults.get(str(chosen.value), {}).items():
        value.setdefault(key, as_node(default, default_of(key)))
    made = as_node({"type": chosen, **value}, own.where)
    return Node(made.value, own.where, {**made.keys, **{key: own.keys[key] for key in made.keys if key in own.keys}})
