"""Text encoders of Hugging Face transformers, by name or folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fluxflow_registry import Notice, one_line

from .published import DESCRIPTION, DTYPES, PretrainedError, Published, freeze, from_tensor, missing_library, to_tensor

COMPONENT = "pretrained_text_encoder"

#: The files of a text encoder: its config, its tokenizer, and weights that cannot contain code.
PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")


class TextEmbedding(NamedTuple):
    """Captions as vectors: tokens [B, L, D], zero where mask [B, L] is False (padding)."""

    tokens: Tensor
    mask: Tensor


class PretrainedTextEncoder(nn.Module):
    """Encode captions with a published network: hidden states of one layer.

    B captions to TextEmbedding of tokens [B, L, D] and mask [B, L], where L is the largest number of tokens of a
    caption, at most `max_tokens`; the tokenizer's special tokens count, so that the empty caption has an embedding
    too. Padding is masked: the tokens of a caption do not depend on the other captions of a batch. The state dict
    contains the architecture and the tokenizer besides the weights, so that a checkpoint is complete.

    With `head` H the network is frozen, and y = LayerNorm(W x + b) of each hidden state x is trained: tokens [B, L, H].
    """

    def __init__(
        self, network: Any, description: Mapping[str, Any], max_tokens: int, layer: int, head: int | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.head: nn.Module | None = None
        if head is not None:
            network.requires_grad_(False)
            self.head = nn.Sequential(nn.Linear(network.config.hidden_size, head), nn.LayerNorm(head))
        self.max_tokens, self.layer = max_tokens, layer
        self._use(description)

    def _use(self, description: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self._description = dict(description)
        self._tokenizer = Tokenizer.from_str(description["tokenizer"])
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

    def get_extra_state(self) -> Tensor:
        """The architecture and the tokenizer, as part of the state dict."""
        return to_tensor(self._description)

    def set_extra_state(self, state: Tensor) -> None:
        """Use the tokenizer of the state dict, with which its weights were trained."""
        self._use(from_tensor(state))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network stays in that of evaluation, without dropout."""
        super().train(mode)
        if self.head is not None:
            self.network.eval()
        return self

    def forward(self, captions: list[str]) -> TextEmbedding:
        """Encode the captions."""
        device = next(self.network.parameters()).device
        encoded = self._tokenizer.encode_batch(list(captions))
        if any(each.overflowing for each in encoded):
            text = f"the text encoder reads {self.max_tokens} tokens of a caption, and some captions are longer"
            warnings.warn(Notice(f"{text}: they are truncated"), stacklevel=2)
        rows = [list(each.ids) or [self._description["empty"]] for each in encoded]
        longest = max(map(len, rows))
        pad = self._description["pad"]
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows], device=device)
        if device.type == "meta":
            return self._shapes(mask)
        out = self.network(input_ids=ids, attention_mask=mask.long(), output_hidden_states=self.layer != -1)
        tokens = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
        return self._embedding(tokens.float(), mask)

    def _shapes(self, mask: Tensor) -> TextEmbedding:
        """The result on the meta device, without the network: transformers reads the values of a mask."""
        network: Any = self.network
        parameters = list(network.parameters())
        one = next((p for p in parameters if p.requires_grad), parameters[0]).flatten()[0].float()
        return self._embedding(one.expand(*mask.shape, network.config.hidden_size), mask)

    def _embedding(self, tokens: Tensor, mask: Tensor) -> TextEmbedding:
        tokens = tokens if self.head is None else self.head(tokens)
        return TextEmbedding(tokens.masked_fill(~mask[:, :, None], 0.0), mask)


def load_text_encoder(
    name: str,
    revision: str | None,
    max_tokens: int,
    layer: int,
    dtype: str,
    frozen: Sequence[str],
    head: int | None,
    weights: Mapping[str, Tensor] | None,
) -> PretrainedTextEncoder:
    """The encoder with its published weights, or, if `weights` will be loaded, with the architecture of those.

    Raises PretrainedError if the library or the files are missing.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise missing_library("transformers", "text") from error
    # Captions are few, and a tokenizer that has used threads warns when data workers fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with _quiet():
            if weights is not None and DESCRIPTION in weights:
                description = from_tensor(weights[DESCRIPTION])
                network = _build(description["config"], DTYPES[dtype])
            else:
                network, description = _read(Published(name, revision, PATTERNS), DTYPES[dtype])
    except ImportError as error:  # a tokenizer's own library, for example
        raise missing_library(str(error.name or error), "text") from error
    _check_options(network.config, name, max_tokens, layer)
    encoder = PretrainedTextEncoder(network, description, max_tokens, layer, head)
    freeze(encoder.network, frozen, COMPONENT)
    return encoder


def _read(published: Published, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The network of a folder with its weights (on the meta device without), and its description."""
    from transformers import AutoConfig, AutoTokenizer

    folder = published.folder()
    if not any(folder.glob("*.safetensors")):
        raise published.without_safetensors(folder, ".safetensors file")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = getattr(config, "text_config", None) or config
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        description = _describe(config, tokenizer)
        if torch.get_default_device().type == "meta":
            return _build(description["config"], dtype), description
        network, report = _class_of(config).from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except ImportError:
        raise
    except Exception as error:  # files can be damaged in more ways than their readers document
        message = f"folder `{folder}` cannot be read as a text encoder of transformers"
        notes = [("cause", one_line(error))]
        raise PretrainedError(message, None, notes, code="unreadable-file", subject=published.name) from error
    # A pooled output is not used here, and often not published.
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)
    if missing:
        message = f"the weights in folder `{folder}` have no `{missing[0]}` of {type(network).__name__}"
        raise PretrainedError(message, code="missing-weights", subject=missing[0])
    return network, description


def _describe(config: Any, tokenizer: Any) -> dict[str, Any]:
    """What a state dict stores of a network besides its weights."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("its tokenizer cannot be used by the library tokenizers: there is no tokenizer.json")
    special = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    empty, pad = next((number for number in special if number is not None), 0), tokenizer.pad_token_id
    return {
        "config": config.to_dict(),
        "tokenizer": backend.to_str(),
        "pad": empty if pad is None else pad,
        "empty": empty,
    }


def _build(config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A network of a described architecture, before its weights are loaded."""
    from transformers import CONFIG_MAPPING

    plain = {key: value for key, value in config.items() if key != "dtype"}
    of_kind = CONFIG_MAPPING[plain["model_type"]].from_dict(plain)
    return _class_of(of_kind)(of_kind).to(dtype)


def _class_of(config: Any) -> Any:
    """The class that encodes text for a config: for an encoder-decoder only the encoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise ValueError(f"a {config.model_type} does not encode text")


def _check_options(config: Any, name: str, max_tokens: int, layer: int) -> None:
    """Require that the network has these positions and layers."""
    positions, layers = getattr(config, "max_position_embeddings", None), int(config.num_hidden_layers)
    if positions is not None and max_tokens > positions:
        message = f"max_tokens is {max_tokens}, but `{name}` has only {positions} positions"
        raise PretrainedError(message, code="out-of-range", subject="max_tokens")
    if layer < -layers - 1:
        message = f"layer is {layer}, but `{name}` has {layers} layers: set -1 to {-layers - 1} (its embeddings)"
        raise PretrainedError(message, code="out-of-range", subject="layer")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library while it loads: errors are raised in any case."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
