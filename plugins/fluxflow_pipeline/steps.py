"""A step of a FluxFlow configuration as a step of a recipe."""

from __future__ import annotations

from fluxflow_registry.recipe.node import Node

from .config import Config, Step
from .draft import Piece, component, entry, mapping, said
from .metrics import logged
from .models import aligns, spaded
from .optimizers import optimizer, scheduler
from .rules import trained_by

#: What adaptive weights hold for: reconstruction, perceptual and adversarial loss.
_BALANCED = ("frequency", "lpips", "hinge_generator")


def step_of(config: Config, step: Step) -> Piece:
    """The step: its data, its values, its updates in the order of their turns, and its end."""
    settings, where = step.settings, step.keys.where
    output = config.output
    accumulate = "training_steps" if settings.training_steps is not None else "gradient_accumulation_steps"
    batches = getattr(settings, accumulate) or 1
    return entry(
        step.where,
        dataset=said(step.dataset, where("dataset")),
        batch_size=said(step.batch_size.value, step.batch_size.where),
        workers=said(step.workers.value, step.workers.where),
        epochs=said(settings.n_epochs or 1, where("n_epochs")),
        max_steps=_given(step, "max_steps"),
        precision=said("fp16", where("use_fp16")) if settings.use_fp16 else None,
        accumulate=said(batches, where(accumulate)) if batches > 1 else None,
        log_every=said(output.settings.log_interval, output.where("log_interval")),
        checkpoint_every=said(output.settings.checkpoint_save_interval, output.where("checkpoint_save_interval")),
        values=_some(step, _values(config, step)),
        updates=mapping(step.where, _updates(step)),
        ema=_ema(step),
        until=_until(step),
    )


def _given(step: Step, key: str) -> Node | None:
    """A setting that has no default."""
    value = getattr(step.settings, key)
    return said(value, step.keys.where(key)) if value is not None else None


def _some(step: Step, children: dict[str, Node | None]) -> Piece | None:
    """A mapping, unless nothing is in it."""
    piece = mapping(step.where, children)
    return piece if piece.value else None


def _values(config: Config, step: Step) -> dict[str, Node | None]:
    settings, where = step.settings, step.keys.where
    values: dict[str, Node | None] = {}
    if step.autoencoder and any(spaded(each) for each in config.steps):
        # Said where it is off too: left open, it would be as the step before has left it.
        values["reconstruction"] = entry(where("train_spade"), spade=said(settings.train_spade, where("train_spade")))
    if settings.gan_training:
        std = said(settings.instance_noise_std, where("instance_noise_std"))
        decay = said(settings.instance_noise_decay, where("instance_noise_decay"))
        values["instance_noise"] = entry(std.where, std=std, decay=decay)
    if step.flow:
        dropout = where("cfg_dropout_prob")
        values["prompt"] = entry(dropout, dropout=said(settings.cfg_dropout_prob, dropout))
        values["time"] = _time(step)
    return values


def _time(step: Step) -> Piece:
    """`train_diff_full` draws times from the whole schedule, `train_diff` most of them from its middle."""
    key = "train_diff_full" if step.settings.train_diff_full else "train_diff"
    kind = "uniform" if step.settings.train_diff_full else "logit_normal"
    return entry(step.keys.where(key), distribution=said(kind, step.keys.where(key)))


def _updates(step: Step) -> dict[str, Node | None]:
    """Discriminator first, then the autoencoder, then the flow; each with the models that are not frozen."""
    trained = trained_by(step)
    updates: dict[str, Node | None] = {}
    if trained["discriminator"]:
        updates["discriminator"] = _update(step, "discriminator", trained["discriminator"], _game(step))
    if trained["vae"]:
        losses = _autoencoding(step)
        updates["vae"] = _update(step, "vae", trained["vae"], losses, _balancer(step, losses))
    if trained["flow"]:
        # A text encoder with an optimizer of its own has a turn of its own, on the same loss.
        own = bool(trained["text_encoder"]) and ("text_encoder" in step.optimizers or "text_encoder" in step.schedulers)
        together = (
            trained["flow"] + (() if own else trained["text_encoder"]) + (("projection",) if aligns(step) else ())
        )
        updates["flow"] = _update(step, "flow", together, _flow(step))
        if own:
            comment = "its own optimizer: a turn of its own, for which the velocity is computed once more"
            updates["text_encoder"] = _update(step, "text_encoder", trained["text_encoder"], _flow(step), None, comment)
    return updates


def _update(
    step: Step, name: str, trains: tuple[str, ...], losses: Piece, balancer: Node | None = None, comment: str = ""
) -> Piece:
    norm, clip = step.settings.initial_clipping_norm, step.keys.where("initial_clipping_norm")
    return entry(
        step.where,
        comment,
        trains=said(trains, step.where),
        losses=losses,
        optimizer=optimizer(step, name),
        scheduler=scheduler(step, name),
        balancer=balancer,
        clip_grad_norm=said(norm, clip) if norm > 0 else None,
    )


def _game(step: Step) -> Piece:
    """The discriminator's side: hinge loss and, on every n-th batch, the penalty on its gradient."""
    settings, where = step.settings, step.keys.where
    penalty = entry(
        where("r1_gamma"),
        gamma=said(settings.r1_gamma, where("r1_gamma")),
        every=said(settings.r1_interval, where("r1_interval")),
    )
    gan = where("gan_training")
    return mapping(gan, {"hinge_discriminator": entry(gan), "r1": penalty if settings.r1_gamma > 0 else None})


def _autoencoding(step: Step) -> Piece:
    """Reconstruction, LPIPS, KL and the generator's side; in GAN-only mode the last two alone."""
    settings, where = step.settings, step.keys.where
    losses: dict[str, Node | None] = {}
    if settings.train_vae:
        losses["frequency"] = entry(where("train_vae"))
        losses["mse"] = _weighted(step, "mse_weight")
        losses["lpips"] = _weighted(step, "lambda_lpips") if settings.use_lpips else None
    if "compressor" not in step.frozen_models:  # what is frozen has a divergence that nothing moves
        free = said(settings.kl_free_bits, where("kl_free_bits")) if settings.kl_free_bits > 0 else None
        losses["kl"] = entry(
            where("kl_beta"),
            weight=said(settings.kl_beta, where("kl_beta")),
            warmup=said(settings.kl_warmup_steps, where("kl_warmup_steps")),
            free_bits=free,
        )
    if settings.gan_training:
        adv = where("lambda_adv")
        # Beside a reconstruction loss the encoder does not learn from the discriminator; in GAN-only mode it does.
        cut = settings.train_vae and "compressor" not in step.frozen_models
        losses["hinge_generator"] = entry(
            adv,
            "the encoder does not learn from it" if cut else "" if settings.train_vae else "the encoder learns from it",
            weight=said(settings.lambda_adv, adv),
            detach=said(("latent",), where("train_vae")) if cut else None,
        )
    return mapping(step.where, losses)


def _weighted(step: Step, key: str) -> Piece:
    where = step.keys.where(key)
    return entry(where, weight=said(getattr(step.settings, key), where))


def _balancer(step: Step, losses: Piece) -> Node | None:
    """Reconstruction, perceptual and adversarial losses are brought to one size, where there are two or more."""
    where = step.keys.where("adaptive_weights")
    balanced = [name for name in losses.value if name in _BALANCED]
    if not step.settings.adaptive_weights or len(balanced) < 2:
        return None
    return component("inverse", where, spare=said([name for name in losses.value if name not in balanced], where))


def _flow(step: Step) -> Piece:
    where = step.keys.where("train_diff_full" if step.settings.train_diff_full else "train_diff")
    return mapping(
        where, {"velocity": entry(where), "alignment": _weighted(step, "lambda_align") if aligns(step) else None}
    )


def _ema(step: Step) -> Piece | None:
    """Averages of what the step trains, but for the discriminator, which draws nothing."""
    trained = trained_by(step)
    models = [model for name in ("vae", "flow", "text_encoder") for model in trained[name]]
    where = step.keys.where("use_ema")
    if not (step.settings.use_ema and models):
        return None
    return entry(where, models=said(models, where), decay=said(step.settings.ema_decay, step.keys.where("ema_decay")))


def _until(step: Step) -> Piece | None:
    keys = step.transition
    metric = logged(step).get(keys.settings.metric or "")
    if keys.settings.mode == "epoch" or metric is None:
        return None
    most = keys.settings.max_epochs
    return component(
        "loss_threshold",
        keys.where("mode"),
        f"FluxFlow's {keys.settings.metric}",
        metric=said(metric, keys.where("metric")),
        threshold=said(keys.settings.threshold, keys.where("threshold")),
        max_epochs=said(most, keys.where("max_epochs")) if most is not None else None,
    )
