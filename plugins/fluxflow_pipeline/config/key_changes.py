"""Keys that are not needed, keys and names of earlier versions, and what FluxFlow assumes by default."""

from __future__ import annotations

from collections.abc import Mapping

#: Keys of FluxFlow that have no use here, by section, and why.
UNNEEDED: dict[str, dict[str, str]] = {
    "model": {
        "model_version": "the architectures are those of this framework",
        "baseline_vae_width_mult": "the width follows from `vae_dim`",
        "baseline_vae_depth_mult": "the recipe sets the depths",
        "baseline_flow_blocks": "the recipe sets the depths",
        "baseline_flow_ffn_expansion": "the transformer has a fixed expansion",
        "attention_backend": "torch chooses the fastest",
    },
    "data": {
        "webdataset_size": "the samples of the tar files are counted",
        "webdataset_samples_per_shard": "the samples of the tar files are counted",
        "dataloader_max_retries": "samples that cannot be read are reported and replaced",
        "dataloader_retry_delay": "samples that cannot be read are reported and replaced",
        "tokenizer_name": "the text encoder has its own tokenizer",
    },
    "training": {"preserve_lr": "a resumed run keeps its learning rates"},
    "output": {
        "log_level": "warnings are always printed",
        "log_file": "messages go to standard error, which a shell can redirect to a file",
    },
}
UNNEEDED["dataset"] = {key: why for key, why in UNNEEDED["data"].items() if key.startswith("webdataset")}

_THRESHOLD = "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}"

#: Keys of earlier versions: the key that replaces each, and how it is written.
RENAMED: Mapping[str, tuple[str, str]] = {
    "duration_epochs": ("n_epochs", "n_epochs: 10"),
    "train_flow": ("train_diff", "train_diff: true"),
    "freeze_modules": ("freeze", "freeze: [compressor, expander]"),
    "freeze_vae": ("freeze", "freeze: [compressor, expander]"),
    "transition_criteria": ("transition_on", _THRESHOLD),
    "stop_condition": ("transition_on", _THRESHOLD),
    "optimizers": ("optimization", "optimization: {optimizers: {...}}"),
    "schedulers": ("optimization", "optimization: {schedulers: {...}}"),
    "optimizer_type": ("type", "type: AdamW"),
    "scheduler_type": ("type", "type: CosineAnnealingLR"),
    "loss_name": ("metric", "metric: vae_loss"),
    "metric_name": ("metric", "metric: vae_loss"),
    "loss_threshold": ("threshold", "threshold: 0.05"),
    "use_tt2m": ("use_webdataset", "use_webdataset: true"),
    "tt2m_token": ("webdataset_token", "webdataset_token: null"),
}

#: FluxFlow's names of the models, and synonyms of some versions.
MODELS = ("compressor", "expander", "flow_processor", "text_encoder", "discriminator")
MODEL_SYNONYMS = {"flow": "flow_processor", "D_img": "discriminator"}

#: Names under `optimization`, and synonyms.
OPTIMIZERS = ("vae", "discriminator", "flow", "text_encoder")
OPTIMIZER_SYNONYMS = {"flow_processor": "flow", "D_img": "discriminator"}

#: Batch size, workers and learning rate of a file that sets none.
BATCH_SIZE, WORKERS, STREAMING_WORKERS, LR = 2, 8, 1, 1e-5
