"""A step of a FluxFlow configuration as a step of a recipe, with its losses, optimizers and schedulers."""

from __future__ import annotations

from fluxflow_registry.commands import Node, as_node

from ..config.config import (
    METRICS,
    Config,
    Step,
    aligns,
    logged_metrics,
    trained_models,
    trains_autoencoder,
    trains_flow,
    uses_lpips,
    uses_spade,
    watched_metric,
)
from .optimizers import optimizer, scheduler
from .recipe_text import component, entry

#: The losses that adaptive weights balance: reconstruction, perceptual and adversarial.
_BALANCED = ("frequency", "lpips", "hinge_generator")

#: Losses that FluxFlow adds to every reconstruction, with weights that no key sets.
_COLORS = {"color_statistics": 0.05, "histogram": 0.02, "contrast": 0.1}

#: The discriminator sees a vector beside the image: for each loss that needs one, the values that it takes instead.
_LOGITS = {"real_logits": "real_projected_logits", "fake_logits": "fake_projected_logits"}
_CONTEXT = {"context_vector": "latent_vector"}


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
        max_steps=_batches(config, step),
        precision=as_node("fp16", keys.where("use_fp16")) if settings.use_fp16 else None,
        accumulate=keys.value(accumulate) if (getattr(settings, accumulate) or 1) > 1 else None,
        log_every=config.output.value("log_interval"),
        checkpoint_every=config.output.value("checkpoint_save_interval"),
        values=entry(step.where, **values) if values else None,
        updates=entry(step.where, **_updates(step)),
        ema=_ema(step),
        until=_until(step),
    )


def _batches(config: Config, step: Step) -> Node | None:
    """Batches of an epoch at most: `max_steps`, and as many as `webdataset_size` samples fill."""
    section, own = config.datasets[step.dataset], step.keys.value("max_steps")
    size = section.settings.webdataset_size
    if section.settings.type != "webdataset" or size is None:
        return own
    count = max(size // step.batch_size.value, 1)
    return own if own is not None and own.value <= count else as_node(count, section.where("webdataset_size"))


def _values(config: Config, step: Step) -> dict[str, Node]:
    settings, keys = step.settings, step.keys
    values = {}
    if trains_autoencoder(step) and any(map(uses_spade, config.steps)):
        # Set even if it is off: otherwise it would stay as the step before has left it.
        values["reconstruction"] = entry(keys.where("train_spade"), spade=settings.train_spade)
    if settings.gan_training:
        std, decay = keys.value("instance_noise_std"), keys.value("instance_noise_decay")
        values["instance_noise"] = entry(keys.where("instance_noise_std"), std=std, decay=decay)
        values |= {name: entry(keys.where("gan_training"), **{"with": _CONTEXT}) for name in _LOGITS.values()}
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
        own = bool(text) and (step.flat or "text_encoder" in {*step.optimizers, *step.schedulers})
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
    gamma, every = keys.value("r1_gamma"), keys.value("r1_interval")
    r1 = entry(keys.where("r1_gamma"), type="projected_r1", gamma=gamma, every=every, **{"with": _CONTEXT})
    hinge = entry(gan, **{"with": _LOGITS})
    return entry(gan, hinge_discriminator=hinge, r1=r1 if step.settings.r1_gamma > 0 else None)


def _autoencoder_losses(step: Step) -> Node:
    """Reconstruction, LPIPS, KL and the generator's side; in GAN-only mode the last two alone."""
    settings, keys = step.settings, step.keys
    losses: dict[str, Node | None] = {}
    if settings.train_vae:
        losses["frequency"] = entry(keys.where("train_vae"))
        losses["mse"] = _weighted(step, "mse_weight")
        losses["lpips"] = _weighted(step, "lambda_lpips") if uses_lpips(step) else None
        losses |= {name: entry(keys.where("train_vae"), weight=weight) for name, weight in _COLORS.items()}
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
            **{"with": {"fake_logits": _LOGITS["fake_logits"]}},
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
    keys, settings = step.transition, step.settings
    watched = watched_metric(step)
    if keys.settings.mode == "epoch" or watched not in logged_metrics(step):
        return None
    limits = {"n_epochs": settings.n_epochs, "max_epochs": keys.settings.max_epochs}
    limit = min((count, key) for key, count in limits.items() if count is not None)[1]
    shared = {
        "threshold": keys.value("threshold"),
        "max_epochs": keys.value("max_epochs") if limit == "max_epochs" else None,
    }
    where, comment = keys.where("metric"), f"FluxFlow's {keys.settings.metric}"
    terms = _terms(step, watched or "")
    if list(terms.values()) == [1.0]:
        return component(
            "loss_threshold", keys.where("mode"), comment, metric=as_node(next(iter(terms)), where), **shared
        )
    return component("sum_threshold", keys.where("mode"), comment, terms=as_node(terms, where), **shared)


def _terms(step: Step, watched: str) -> dict[str, float]:
    """The metrics of the recipe whose weighted sum is a metric of FluxFlow."""
    settings = step.settings
    if watched == "g_loss":
        return {METRICS[watched]: settings.lambda_adv}
    if watched != "vae_loss":
        return {METRICS[watched]: 1.0}
    lpips = {"vae/lpips": settings.lambda_lpips} if uses_lpips(step) else {}
    terms = {"vae/frequency": 1.0, "vae/mse": settings.mse_weight, **lpips}
    return {metric: weight for metric, weight in terms.items() if weight > 0}
