"""FluxFlow's flags: each sets a key of its configuration, and overrides the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fluxflow_registry import Flag
from fluxflow_registry.commands import CommandParser, Node, as_node

#: For each section ("": the top), its flags with their types; a list has several values.
FLAGS: Mapping[str, Mapping[str, Any]] = {
    "data": {
        "data_path": str,
        "captions_file": str,
        "fixed_prompt_prefix": str,
        "use_webdataset": bool,
        "webdataset_url": str,
        "webdataset_token": str,
        "webdataset_image_key": str,
        "webdataset_label_key": str,
        "webdataset_caption_key": str,
        "webdataset_size": int,
        "webdataset_samples_per_shard": int,
        "use_tt2m": bool,
        "tt2m_token": str,
        "tokenizer_name": str,
        "img_size": int,
        "channels": int,
        "reduced_min_sizes": [int],
        "dataloader_max_retries": int,
        "dataloader_retry_delay": float,
    },
    "model": {
        "vae_dim": int,
        "text_embedding_dim": int,
        "feature_maps_dim": int,
        "feature_maps_dim_disc": int,
        "pretrained_bert_model": str,
        "use_gradient_checkpointing": bool,
    },
    "training": {
        "n_epochs": int,
        "batch_size": int,
        "workers": int,
        "lr": float,
        "lr_min": float,
        "preserve_lr": bool,
        "training_steps": int,
        "use_fp16": bool,
        "initial_clipping_norm": float,
        "train_vae": bool,
        "gan_training": bool,
        "use_lpips": bool,
        "train_spade": bool,
        "train_diff": bool,
        "train_diff_full": bool,
        "kl_beta": float,
        "kl_warmup_steps": int,
        "kl_free_bits": float,
        "lambda_adv": float,
        "lambda_lpips": float,
    },
    "optimization": {"optim_sched_config": str},
    "output": {
        "output_path": str,
        "log_interval": int,
        "checkpoint_save_interval": int,
        "samples_per_checkpoint": int,
        "no_samples": bool,
        "test_image_address": [str],
        "sample_captions": [str],
        "sample_sizes": [str],
    },
    "": {"model_checkpoint": str},
}


def add_flags(parser: CommandParser) -> None:
    """Declare every flag; one that the command line does not have is None."""
    group = parser.add_argument_group(
        "FluxFlow's flags", "Each sets the key of that name, and overrides the configuration; with - or with _."
    )
    for section, flags in FLAGS.items():
        where = f"`{section}.{{}}`" if section else "`{}`"
        for name, kind in flags.items():
            options: dict[str, Any] = {"dest": name, "default": None, "help": where.format(name)}
            if kind is bool:
                options |= {"action": "store_const", "const": True}
            else:
                several = isinstance(kind, list)
                options |= {"type": kind[0] if several else kind, "metavar": "X"} | ({"nargs": "+"} if several else {})
            group.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), **options)


def given_flags(arguments: Mapping[str, Any]) -> dict[str, dict[str, Node]]:
    """For each section, the keys that flags of the command line set."""
    found: dict[str, dict[str, Node]] = {}
    for section, flags in FLAGS.items():
        for name in flags:
            value = arguments.get(name)
            if value is not None:
                value = [_size(each) for each in value] if name == "sample_sizes" else value
                found.setdefault(section, {})[name] = as_node(value, Flag(f"--{name}"))
    return found


def with_flags(root: Node, arguments: Mapping[str, Any]) -> Node:
    """The configuration with the keys that the command line sets."""
    if not isinstance(root.value, dict):
        return root
    for section, keys in given_flags(arguments).items():
        own = root.get(section) if section else root
        if own is None or own.value is None:
            own = Node({}, next(iter(keys.values())).where, {})
        if not isinstance(own.value, dict):  # reported when the section is read
            continue
        places = {key: node.where for key, node in keys.items()}
        own = Node({**own.value, **keys}, own.where, {**own.keys, **places})
        root = Node({**root.value, section: own}, root.where, {**root.keys, section: own.where}) if section else own
    return root


def _size(text: str) -> int | list[int] | str:
    """`512` or `768x512`, as a configuration has them; what is neither is reported when it is read."""
    match = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text.lower())
    if match is None:
        return text
    return [int(match[1]), int(match[2])] if match[2] else int(match[1])
