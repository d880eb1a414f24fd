"""The keys of FluxFlow's configuration files, one attribute each (hence so many), with their types and defaults."""

from __future__ import annotations

from typing import Any, Literal

from attrs import field, frozen, validators


def _at_least(minimum: float, default: Any) -> Any:
    bound = validators.ge(minimum)
    return field(default=default, validator=bound if default is not None else validators.optional(bound))


def _optional(minimum: int = 1) -> Any:
    return field(default=None, validator=validators.optional(validators.ge(minimum)))


@frozen
class ModelKeys:
    """The section `model`."""

    model_type: Literal["bezier", "baseline"] = "bezier"
    """Activation of the autoencoder: Bezier curves, or `baseline_activation`."""
    baseline_activation: Literal["silu", "gelu", "relu"] = "silu"
    """Activation if `model_type` is `baseline`."""
    vae_dim: int = _at_least(1, 128)
    """Channels of the latent; half of it is the autoencoder's width."""
    feature_maps_dim: int = _at_least(4, 128)
    """Channels of the flow processor's tokens."""
    text_embedding_dim: int = _at_least(1, 1024)
    """Channels of the text encoder's tokens."""
    pretrained_bert_model: str | None = None
    """Name or folder of a Hugging Face text encoder, which stays frozen; null: one that is trained from scratch."""
    use_gradient_checkpointing: bool = True
    """Whether activations of the autoencoder are recomputed in the backward pass; results are the same."""


@frozen
class _ImageKeys:
    """The keys that the section `data` and an entry of `training.pipeline.datasets` share."""

    data_path: str | None = None
    """Folder of images; in a dataset, `image_folder` is the same."""
    captions_file: str | list[str] | None = None
    """Files of lines `name<TAB>caption`, which say which images are used; null: `a.txt` beside `a.jpg`."""
    fixed_prompt_prefix: str | None = None
    """Prepended to every caption, as `{prefix}. {caption}`."""
    webdataset_url: str | list[str] | None = None
    """Tar files: a path or URL with ranges, or a path or `hf://datasets/...` with wildcards."""
    webdataset_token: str | None = None
    """Access token for the address; passed on in the environment (`HF_TOKEN`), written nowhere."""
    webdataset_image_key: str = "png"
    """Extension of the images in the tar files."""
    webdataset_label_key: str = "json"
    """Extension of the member that contains the caption."""
    webdataset_caption_key: str = "prompt"
    """The caption's key in that member, if it is JSON."""
    webdataset_size: int | None = _optional()
    """Samples of an epoch; null: all of the tar files, and 10,000 of a dataset of the pipeline."""
    reduced_min_sizes: list[int] | None = None
    """Smaller sides on which each batch is trained as well."""


@frozen
class DataKeys(_ImageKeys):
    """The section `data`."""

    use_webdataset: bool | None = None
    """Whether tar files are read: `webdataset_url`, or text-to-image-2M; null: if there is no `data_path`."""
    img_size: int = _at_least(1, 1024)
    """Side of a square with as many pixels as an image has."""
    channels: Literal[3] = 3
    """Channels of an image."""


@frozen
class DatasetKeys(_ImageKeys):
    """An entry of `training.pipeline.datasets`."""

    type: Literal["local", "webdataset"] = "local"
    """Where the images are: in a folder, or in tar files."""
    image_folder: str | None = None
    """Folder of images; same as `data_path`."""
    img_size: int | None = _optional()
    """Side of the images; null: that of `data`."""
    batch_size: int | None = _optional()
    """For steps without their own."""
    workers: int | None = _optional(0)
    """For steps without their own."""


@frozen
class TransitionKeys:
    """The key `transition_on` of a step."""

    mode: Literal["epoch", "loss_threshold"] = "epoch"
    """Whether the step ends after `n_epochs`, or when a metric falls below a threshold."""
    value: int | None = None
    """Not used: the step ends after `n_epochs`."""
    metric: str | None = None
    """The metric to watch, such as vae_loss or flow_loss."""
    threshold: float | None = None
    """The value below which the step ends."""
    max_epochs: int | None = _optional()
    """Limit beside `n_epochs`: the step ends at the smaller one."""


# More than a dozen members: one attribute for each key.
@frozen
class StepKeys:
    """The keys of a step; under `training` and `pipeline.defaults` they are the defaults of all steps."""

    n_epochs: int | None = _optional()
    """Passes through the dataset."""
    description: str = ""
    """Printed when the step starts."""
    dataset: str | None = None
    """The dataset to train on; null: `default_dataset`, or the one of `data`."""

    train_vae: bool = False
    """Whether compressor and expander are trained to reconstruct."""
    gan_training: bool = False
    """Whether a discriminator is trained, and the expander against it."""
    train_spade: bool = False
    """Whether the expander is conditioned on the spatial context."""
    use_lpips: bool = False
    """Whether LPIPS is one of the losses."""
    train_diff: bool = False
    """Whether the flow processor is trained on the middle of the schedule."""
    train_diff_full: bool = False
    """Whether the flow processor is trained on the whole schedule."""
    freeze: list[str] = field(factory=list)
    """Models that the step does not train, whatever its modes."""
    unfreeze: list[str] = field(factory=list)
    """Models that `freeze` does not apply to."""

    batch_size: int | None = _optional()
    """Samples in a batch."""
    workers: int | None = _optional(0)
    """Processes that read the data."""
    max_steps: int | None = _optional()
    """Batches of an epoch, at most."""
    lr: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    """Learning rate of every optimizer without its own."""
    lr_min: float = field(default=0.1, validator=[validators.ge(0), validators.le(1)])
    """Last learning rate as a share of the first, for steps without a scheduler."""
    use_fp16: bool = False
    """Whether values are computed in fp16."""
    initial_clipping_norm: float = _at_least(0.0, 1.0)
    """Norm to which gradients are clipped; 0: no clipping."""
    training_steps: int | None = _optional()
    """Batches whose gradients are averaged before an optimizer step."""
    gradient_accumulation_steps: int | None = _optional()
    """The same."""

    kl_beta: float = _at_least(0.0, 1e-4)
    """Weight of the KL divergence."""
    kl_warmup_steps: int = _at_least(0, 5000)
    """Batches over which the weight rises."""
    kl_free_bits: float = _at_least(0.0, 0.0)
    """Nats of each element that are free."""
    mse_weight: float = _at_least(0.0, 0.1)
    """Weight of the squared error beside the frequency-aware loss."""
    lambda_adv: float = _at_least(0.0, 0.5)
    """Weight of the adversarial loss."""
    lambda_lpips: float = _at_least(0.0, 0.1)
    """Weight of LPIPS."""
    lambda_align: float = _at_least(0.0, 0.0)
    """Weight of the alignment of images and captions in a flow step; 0: none."""
    adaptive_weights: bool = True
    """Whether reconstruction, perceptual and adversarial losses are balanced."""
    r1_gamma: float = _at_least(0.0, 5.0)
    """Strength of the discriminator's gradient penalty."""
    r1_interval: int = _at_least(1, 16)
    """The penalty is computed on every n-th batch."""
    instance_noise_std: float = _at_least(0.0, 0.01)
    """Noise on the discriminator's inputs."""
    instance_noise_decay: float = field(default=0.9999, validator=[validators.gt(0), validators.le(1)])
    """Factor of the noise per batch."""
    use_ema: bool = True
    """Whether averages of the trained models are kept."""
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
    """Samples are written at every n-th checkpoint."""
    no_samples: bool = False
    """Whether no samples are written."""
    test_image_address: list[str] = field(factory=list)
    """Image files to reconstruct."""
    sample_captions: list[str] = field(factory=lambda: ["A sample caption"])
    """Captions to generate images for."""
    sample_sizes: list[int | list[int]] | None = None
    """Sizes of the samples: a side, or [width, height]."""
    generate_diagrams: bool = False
    """Whether charts are written at the end of the run; same as `--generate_diagrams`."""
