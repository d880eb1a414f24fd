"""FluxFlow's configuration as frozen classes: exactly the keys that its files may have, their types and defaults."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators


def _at_least(least: float, default: Any) -> Any:
    bound = validators.ge(least)
    return field(default=default, validator=bound if default is not None else validators.optional(bound))


def _optional(least: int = 1) -> Any:
    return field(default=None, validator=validators.optional(validators.ge(least)))


@frozen
class ModelKeys:
    """The section `model`."""

    model_type: Literal["bezier", "baseline"] = "bezier"
    """Activation of the autoencoder: Bezier curves, or `baseline_activation`."""
    baseline_activation: Literal["silu", "relu"] = "silu"
    """Activation where `model_type` is `baseline`."""
    vae_dim: int = _at_least(1, 128)
    """Channels of the latent; half of it is the autoencoder's width."""
    feature_maps_dim: int = _at_least(4, 128)
    """Channels of the flow processor's tokens."""
    feature_maps_dim_disc: int | None = _optional()
    """Channels of the discriminator's first convolution; nothing: half of `vae_dim`."""
    text_embedding_dim: int = _at_least(1, 1024)
    """Channels of the text encoder's tokens."""
    pretrained_bert_model: str | None = None
    """Name or folder of a Hugging Face text encoder; nothing: one that is trained from scratch."""
    use_gradient_checkpointing: bool = False
    """Whether activations are computed again on the way back."""


@frozen
class DataKeys:
    """The section `data`."""

    data_path: str | None = None
    """Folder of pictures."""
    captions_file: str | None = None
    """Lines `name<TAB>caption`; nothing: `a.txt` beside `a.jpg`."""
    fixed_prompt_prefix: str | None = None
    """Put in front of every caption, as `{prefix}. {caption}`."""
    use_webdataset: bool | None = None
    """Whether the tar files of `webdataset_url` are read; nothing: where there is no `data_path`."""
    webdataset_url: str | list[str] | None = None
    """Tar files: a path or address with ranges or wildcards."""
    webdataset_token: str | None = None
    """Token for the address; handed on in the environment (`HF_TOKEN`), written nowhere."""
    webdataset_image_key: str = "png"
    """Extension of the pictures in the tar files."""
    webdataset_label_key: str = "json"
    """Extension of the member in which the caption stands."""
    webdataset_caption_key: str = "prompt"
    """The caption's name in that member, where it is JSON."""
    img_size: int = _at_least(1, 1024)
    """Side of the pictures in pixels."""
    reduced_min_sizes: list[int] | None = None
    """Smaller sides on which each batch is trained as well."""
    channels: Literal[3] = 3
    """Channels of a picture."""


@frozen
class DatasetKeys:
    """An entry of `training.pipeline.datasets`."""

    type: Literal["local", "webdataset"] = "local"
    """Where the pictures are: files of a folder, or tar files."""
    image_folder: str | None = None
    """Folder of pictures; `data_path` is the same."""
    data_path: str | None = None
    """Folder of pictures; `image_folder` is the same."""
    captions_file: str | None = None
    """As in `data`."""
    fixed_prompt_prefix: str | None = None
    """As in `data`."""
    webdataset_url: str | list[str] | None = None
    """As in `data`."""
    webdataset_token: str | None = None
    """As in `data`."""
    webdataset_image_key: str = "png"
    """As in `data`."""
    webdataset_label_key: str = "json"
    """As in `data`."""
    webdataset_caption_key: str = "prompt"
    """As in `data`."""
    img_size: int | None = _optional()
    """Side of the pictures; nothing: that of `data`."""
    reduced_min_sizes: list[int] | None = None
    """As in `data`."""
    batch_size: int | None = _optional()
    """For steps that do not state their own."""
    workers: int | None = _optional(0)
    """For steps that do not state their own."""


@frozen
class TransitionKeys:
    """The key `transition_on` of a step."""

    mode: Literal["epoch", "loss_threshold"] = "epoch"
    """After `n_epochs`, or when a metric has fallen below a threshold."""
    metric: str | None = None
    """The metric that is watched: vae_loss, kl_loss, flow_loss, g_loss or d_loss."""
    threshold: float | None = None
    """The value below which the step ends."""
    max_epochs: int | None = _optional()
    """Safety limit; nothing: `n_epochs`."""


@frozen
class StepKeys:
    """What a step says; under `training` and `pipeline.defaults` it holds for each step that does not say otherwise."""

    n_epochs: int | None = _optional()
    """Passes through the dataset."""
    description: str = ""
    """Told when the step begins."""
    dataset: str | None = None
    """The dataset that is trained on; nothing: `default_dataset`, or the one of `data`."""

    train_vae: bool = False
    """Whether compressor and expander learn to reconstruct."""
    gan_training: bool = False
    """Whether a discriminator learns, and the expander from it."""
    train_spade: bool = False
    """Whether the expander is conditioned on the spatial context."""
    use_lpips: bool = False
    """Whether the reconstruction is also compared as LPIPS does."""
    train_diff: bool = False
    """Whether the flow processor learns, on the middle of the schedule."""
    train_diff_full: bool = False
    """Whether the flow processor learns, on the whole schedule."""
    freeze: list[str] = field(factory=list)
    """Models that are not trained although a mode would."""
    unfreeze: list[str] = field(factory=list)
    """Models that `freeze` does not hold for."""

    batch_size: int | None = _optional()
    """Samples in a batch."""
    workers: int | None = _optional(0)
    """Processes that read the data."""
    max_steps: int | None = _optional()
    """Batches of an epoch at most."""
    lr: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Learning rate of every optimizer that does not state its own."""
    lr_min: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Last rate as a share of the first, where no scheduler is stated."""
    use_fp16: bool = False
    """Whether values are computed in fp16."""
    initial_clipping_norm: float = _at_least(0.0, 1.0)
    """Norm to which longer gradients are shortened; 0: never."""
    training_steps: int | None = _optional()
    """Batches whose gradients are averaged before an optimizer steps."""
    gradient_accumulation_steps: int | None = _optional()
    """The same."""

    kl_beta: float = _at_least(0.0, 1e-4)
    """Weight of the KL divergence."""
    kl_warmup_steps: int = _at_least(0, 5000)
    """Batches over which it rises."""
    kl_free_bits: float = _at_least(0.0, 0.0)
    """Nats that each element may carry at no cost."""
    mse_weight: float = _at_least(0.0, 0.1)
    """Weight of the squared error beside the frequency-aware loss."""
    lambda_adv: float = _at_least(0.0, 0.5)
    """Weight of the adversarial loss."""
    lambda_lpips: float = _at_least(0.0, 0.1)
    """Weight of LPIPS."""
    lambda_align: float = _at_least(0.0, 0.0)
    """Weight of the alignment of picture and text in a flow step; 0: none."""
    adaptive_weights: bool = True
    """Whether reconstruction, perceptual and adversarial losses are brought to one size."""
    r1_gamma: float = _at_least(0.0, 5.0)
    """Strength of the discriminator's gradient penalty."""
    r1_interval: int = _at_least(1, 16)
    """The penalty is computed on each n-th batch."""
    instance_noise_std: float = _at_least(0.0, 0.01)
    """Noise on what the discriminator sees."""
    instance_noise_decay: float = field(default=0.9999, validator=[validators.gt(0), validators.le(1)])
    """Its factor with each batch."""
    use_ema: bool = True
    """Whether the trained models are averaged."""
    ema_decay: float = field(default=0.9999, validator=[validators.ge(0), validators.lt(1)])
    """Decay of the averages."""
    cfg_dropout_prob: float = field(default=0.0, validator=[validators.ge(0), validators.le(1)])
    """Share of the captions that a flow step empties, for classifier-free guidance."""


@frozen
class OutputKeys:
    """The section `output`."""

    output_path: str = "outputs"
    """Folder of the runs' folders."""
    log_interval: int = _at_least(1, 10)
    """Batches between two logged lines."""
    checkpoint_save_interval: int = _at_least(1, 50)
    """Batches between two checkpoints."""
    samples_per_checkpoint: int = _at_least(1, 1)
    """Pictures are drawn at each n-th checkpoint."""
    no_samples: bool = False
    """Whether no pictures are drawn."""
    test_image_address: list[str] = field(factory=list)
    """Pictures that are reconstructed."""
    sample_captions: list[str] = field(factory=list)
    """Captions that pictures are drawn for."""
    sample_sizes: list[int | list[int]] | None = None
    """Sizes of the drawn pictures: a side, or [width, height]."""
    generate_diagrams: bool = False
    """Whether graphs are drawn at the end; as `--generate_diagrams`."""


#: Keys that FluxFlow has and that are not needed here, by section, and why.
MOOT: dict[str, dict[str, str]] = {
    "model": {
        "model_version": "the architectures are those of this framework",
        "baseline_vae_width_mult": "the width follows `vae_dim`",
        "baseline_vae_depth_mult": "the depths are stated in the recipe",
        "baseline_flow_blocks": "the depths are stated in the recipe",
        "baseline_flow_ffn_expansion": "the transformer has its own",
        "attention_backend": "torch chooses the fastest",
    },
    "data": {
        "webdataset_size": "the samples of the tar files are counted",
        "webdataset_samples_per_shard": "the samples of the tar files are counted",
        "dataloader_max_retries": "what cannot be read is named and gives its place to another sample",
        "dataloader_retry_delay": "what cannot be read is named and gives its place to another sample",
        "tokenizer_name": "the text encoder brings its own tokenizer",
    },
    "training": {"preserve_lr": "a run that goes on keeps its learning rates"},
    "output": {
        "log_level": "warnings are always told",
        "log_file": "messages go to standard error, which a shell can send to a file",
    },
}
MOOT["dataset"] = {key: why for key, why in MOOT["data"].items() if key.startswith("webdataset")}

#: Spellings of earlier versions, and how they are written now.
FORMER: dict[str, str] = {
    "duration_epochs": "n_epochs: 10",
    "train_flow": "train_diff: true",
    "freeze_modules": "freeze: [compressor, expander]",
    "freeze_vae": "freeze: [compressor, expander]",
    "transition_criteria": "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}",
    "stop_condition": "transition_on: {mode: loss_threshold, metric: vae_loss, threshold: 0.05, max_epochs: 50}",
    "optimizers": "optimization: {optimizers: {...}}",
    "schedulers": "optimization: {schedulers: {...}}",
    "optimizer_type": "type: AdamW",
    "scheduler_type": "type: CosineAnnealingLR",
    "loss_name": "metric: vae_loss",
    "metric_name": "metric: vae_loss",
    "loss_threshold": "threshold: 0.05",
    "use_tt2m": "use_webdataset: true",
    "tt2m_token": "webdataset_token: null",
}

#: The models by FluxFlow's names, and the names of some versions that mean the same.
MODELS = ("compressor", "expander", "flow_processor", "text_encoder", "discriminator")
ALIASES = {"flow": "flow_processor", "D_img": "discriminator"}

#: What an optimizer trains, by its name under `optimization`.
OPTIMIZERS = ("vae", "discriminator", "flow", "text_encoder")
OPTIMIZER_ALIASES = {"flow_processor": "flow", "D_img": "discriminator"}

#: Batch size, workers and learning rate where nobody states one.
BATCH_SIZE, WORKERS, STREAMING_WORKERS, LR = 2, 8, 1, 1e-5
