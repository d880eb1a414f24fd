"""Options of the text encoders; torch is imported only when one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import Attribute, field, frozen, validators

if TYPE_CHECKING:
    from torch import Tensor, nn


def _divides_width(builder: Any, attribute: Attribute[int], heads: int) -> None:
    """Hold that every head gets the same number of channels."""
    if heads < 1 or builder.width % heads:
        raise ValueError(f"heads is {heads}: it must divide width ({builder.width})")


@frozen
class TextTransformerBuilder:
    """Transformer over hashed words, trained from scratch; see `networks.TextTransformer`."""

    width: int = field(default=128, validator=validators.ge(1))
    """Channels of a token."""
    depth: int = field(default=2, validator=validators.ge(0))
    """Transformer blocks."""
    heads: int = field(default=4, validator=_divides_width)
    """Attention heads."""
    table_size: int = field(default=2048, validator=validators.ge(1))
    """Rows of each hash table; collisions do no harm while words are fewer than its square."""
    tables: int = field(default=2, validator=validators.ge(1))
    """Hash tables, each with its own hash function."""
    max_words: int = field(default=63, validator=validators.ge(1))
    """Words of a caption that are read; the rest is cut off."""

    def __call__(self) -> nn.Module:
        """Build the model with fresh weights."""
        from fluxflow_text.networks import TextTransformer

        return TextTransformer(
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            table_size=self.table_size,
            tables=self.tables,
            max_words=self.max_words,
        )


@frozen
class PretrainedTextEncoderBuilder:
    """Text encoder of Hugging Face transformers with its published weights: CLIP, T5, BERT and their kin.

    Hidden states [B, L, D] of one layer, padding masked. The weights stay as they are published unless an update
    trains the model. They are read from a folder or from the hub's cache (HF_HOME), as safetensors; nothing is
    ever downloaded. Checkpoints hold the architecture and the tokenizer too: drawing needs neither the hub nor
    the folder. Needs the extra `text`.
    """

    name: str = field(validator=validators.min_len(1))
    """Name on the hub (`openai/clip-vit-large-patch14`), or a folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    max_tokens: int = field(default=77, validator=validators.ge(1))
    """Tokens of a caption that are read, with the tokenizer's own marks; the rest is cut off."""
    layer: int = field(default=-1, validator=validators.le(-1))
    """Whose hidden states are taken, from the end: -1 the last with its final norm, -2 the last but one."""
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the weights in memory; a model that is trained is kept in fp32."""
    frozen: list[str] = field(factory=list)
    """Parts that stay as they are even where an update trains the model, such as `embeddings`."""

    def __call__(self, weights: Mapping[str, Tensor] | None) -> nn.Module:
        """Build the model; raises PretrainedError where the library or the files are missing."""
        from fluxflow_text.hub import missing_library

        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise missing_library("transformers", "pretrained_text_encoder") from error
        from fluxflow_text.pretrained import load

        return load(
            name=self.name,
            revision=self.revision,
            max_tokens=self.max_tokens,
            layer=self.layer,
            dtype=self.dtype,
            frozen=self.frozen,
            weights=weights,
        )
