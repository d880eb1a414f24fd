"""A text encoder whose weights come from elsewhere: Hugging Face transformers, by name or folder."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry import Problem
from fluxflow_registry.errors import choices, one_line
from fluxflow_text.hub import PretrainedError, folder_of, missing_library
from fluxflow_text.networks import TextEmbedding

#: Where the state dict holds what the weights alone do not tell: architecture and tokenizer, as JSON.
DESCRIPTION = "_extra_state"

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class PretrainedTextEncoder(nn.Module):
    """Encode captions with a published network: hidden states of the chosen layer.

    B captions to TextEmbedding of tokens [B, L, D] and mask [B, L], L = the most tokens of a caption, at most
    `max_tokens`; the tokenizer's own marks count, so that the empty caption has an embedding too. Padding is
    masked: a caption's tokens do not depend on what it is batched with. The state dict holds the architecture
    and the tokenizer beside the weights, so that a checkpoint needs nothing else to draw.
    """

    def __init__(self, network: nn.Module, description: Mapping[str, Any], max_tokens: int, layer: int) -> None:
        super().__init__()
        self.network = network
        self.max_tokens, self.layer = max_tokens, layer
        self.describe(description)

    def describe(self, description: Mapping[str, Any]) -> None:
        """Take the tokenizer of a description."""
        from tokenizers import Tokenizer

        self._description = dict(description)
        self._tokenizer = Tokenizer.from_str(description["tokenizer"])
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

    def get_extra_state(self) -> Tensor:
        """The description as bytes, which safetensors can hold."""
        return torch.frombuffer(bytearray(json.dumps(self._description).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the description of a checkpoint: its weights were trained with its tokenizer."""
        self.describe(read_description(state))

    def tokens_of(self, captions: Sequence[str]) -> list[list[int]]:
        """The numbers of each caption's tokens; at least one."""
        encoded = self._tokenizer.encode_batch(list(captions))
        return [list(each.ids) or [self._description["empty"]] for each in encoded]

    def forward(self, captions: list[str]) -> TextEmbedding:
        """Encode the captions."""
        device = next(self.network.parameters()).device
        rows = self.tokens_of(captions)
        longest = max(map(len, rows))
        pad = self._description["pad"]
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
        real = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows], device=device)
        if device.type == "meta":
            return self._shapes(real)
        out = self.network(input_ids=ids, attention_mask=real.long(), output_hidden_states=self.layer != -1)
        tokens = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
        return TextEmbedding(tokens.float().masked_fill(~real[:, :, None], 0.0), real)

    def _shapes(self, real: Tensor) -> TextEmbedding:
        """What there will be, without numbers: transformers looks at those of a mask."""
        network: Any = self.network
        parameters = list(network.parameters())
        one = next((p for p in parameters if p.requires_grad), parameters[0]).flatten()[0].float()
        return TextEmbedding(one.expand(*real.shape, network.config.hidden_size), real)


def read_description(state: Tensor) -> dict[str, Any]:
    """The description that a state dict holds."""
    found: dict[str, Any] = json.loads(bytes(state.cpu().numpy()))
    return found


def load(
    name: str,
    revision: str | None,
    max_tokens: int,
    layer: int,
    dtype: str,
    frozen: Sequence[str],
    weights: Mapping[str, Tensor] | None,
) -> PretrainedTextEncoder:
    """The encoder with its published weights, or, where `weights` will be loaded, with the form that they have.

    Raises PretrainedError where the library or the files are missing.
    """
    # Captions are few; and a tokenizer that has used threads warns when data workers fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with _quiet():
            if weights is not None and DESCRIPTION in weights:
                description = read_description(weights[DESCRIPTION])
                network = _empty(description["config"], DTYPES[dtype])
            else:
                network, description = _published(folder_of(name, revision), DTYPES[dtype])
    except ImportError as error:  # a tokenizer's own library, for one
        raise missing_library(str(error.name or error), "pretrained_text_encoder") from error
    _fits(network.config, name, max_tokens, layer)
    encoder = PretrainedTextEncoder(network, description, max_tokens, layer)
    _freeze(encoder.network, frozen)
    return encoder


def _published(folder: Path, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The network of a folder with its weights (without, on the meta device), and its description."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config = getattr(config, "text_config", None) or config
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        description = _description(config, tokenizer)
        if torch.get_default_device().type == "meta":
            return _empty(description["config"], dtype), description
        network, told = _class_of(config).from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except ImportError:
        raise
    except Exception as error:  # files can be wrong in more ways than their readers count
        raise PretrainedError(
            f"{folder} cannot be read as a text encoder of transformers: {one_line(error)}"
        ) from error
    # A pooled summary is nothing that is used here, and often not published.
    missing = sorted(key for key in told["missing_keys"] if "pooler" not in key)
    if missing:
        raise PretrainedError(f"{folder} holds no `{missing[0]}` of {type(network).__name__}")
    return network, description


def _description(config: Any, tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError("its tokenizer has no form of the library tokenizers (tokenizer.json)")
    marks = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
    mark = next((number for number in marks if number is not None), 0)
    pad = tokenizer.pad_token_id
    return {
        "config": config.to_dict(),
        "tokenizer": backend.to_str(),
        "pad": mark if pad is None else pad,
        "empty": mark,
    }


def _empty(config: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """A network of a described form, whose weights are still to come."""
    from transformers import CONFIG_MAPPING

    plain = {key: value for key, value in config.items() if key != "dtype"}
    made = CONFIG_MAPPING[plain["model_type"]].from_dict(plain)
    return _class_of(made)(made).to(dtype)


def _class_of(config: Any) -> Any:
    """The class of a configuration that encodes texts: of an encoder-decoder the encoder alone."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

    for mapping in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise ValueError(f"a {config.model_type} encodes no texts")


def _fits(config: Any, name: str, max_tokens: int, layer: int) -> None:
    """Hold that the network has these positions and layers."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and max_tokens > positions:
        raise PretrainedError(f"max_tokens is {max_tokens}: `{name}` has positions for {positions}")
    layers = int(config.num_hidden_layers)
    if not -layers - 1 <= layer:
        raise PretrainedError(
            f"layer is {layer}: `{name}` has {layers} layers, so -1 to {-layers - 1} (its embeddings)"
        )


def _freeze(network: nn.Module, frozen: Collection[str]) -> None:
    """Freeze the parts that are named; raises PretrainedError for a name that is none."""
    names = [name for name, _ in network.named_modules() if name]
    for part in frozen:
        if part not in names:
            message = f"`frozen` of pretrained_text_encoder: `{part}` is no part of {type(network).__name__}"
            raise PretrainedError(Problem(message, None, choices(part, names, "parts")))
        network.get_submodule(part).requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Let the library tell nothing while it loads: what matters is raised."""
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
