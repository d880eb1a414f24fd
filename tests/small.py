"""Small recipes that train in a second, for tests."""

from __future__ import annotations

from attrs import evolve

from fluxflow_registry.contracts import Source
from fluxflow_registry.engine.data.order import batches_of
from fluxflow_registry.plan.steps import StepPlan

PLUGINS = ("balancers", "flow", "gan", "shapes", "text", "torch", "transitions", "vae")

VAE_GAN = """
recipe: 1
name: small
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8}
  discriminator: {type: patch_discriminator, width: 8}
  text_encoder: {type: text_transformer, width: 16, depth: 1, heads: 2, table_size: 32}
  flow_processor: {type: flow_transformer, latent_channels: 2, width: 16, depth: 1, heads: 2, text_width: 16}
datasets:
  shapes: {type: shapes, image_size: 16, length: 24}
sampler: {type: euler, steps: 2}
defaults: {dataset: shapes, batch_size: 4, log_every: 2, checkpoint_every: 4}
steps:
  vae_gan:
    epochs: 2
    updates:
      discriminator:
        trains: [discriminator]
        losses: {hinge_discriminator: {}, r1: {every: 2}}
        optimizer: {type: AdamW, lr: 1.0e-3}
      vae:
        trains: [compressor, expander]
        losses:
          l1: {}
          kl: {weight: 1.0e-3, warmup: 5}
          hinge_generator: {weight: 0.1, detach: [latent]}
        optimizer: {type: AdamW, lr: 1.0e-3}
        scheduler: {type: CosineAnnealingLR, interval: batch}
        clip_grad_norm: 1.0
"""

FLOW = """
  flow:
    epochs: 2
    updates:
      flow:
        trains: [flow_processor, text_encoder]
        losses: {velocity: {}}
        optimizer: {type: AdamW, lr: 1.0e-3}
        scheduler: {type: StepLR, step_size: 1}
    ema: {models: [flow_processor], decay: 0.9}
    evaluate:
      seen: {dataset: shapes, samples: 4, batch_size: 2, every: 1, metrics: {shapes_judge: {}}}
"""


def sized(step: StepPlan, source: Source) -> StepPlan:
    """The plan of a step whose dataset is open."""
    return evolve(step, batches=batches_of(step, source))
