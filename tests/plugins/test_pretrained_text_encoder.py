"""Pretrained text encoders: tiny random ones, in folders as they are published."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxflow_pretrained.models import PretrainedTextEncoderBuilder
from fluxflow_pretrained.published import PretrainedError
from fluxflow_registry import Notice, Problem
from fluxflow_registry.cli.generate import untrained
from fluxflow_registry.engine.preflight.shapes import prove_shapes
from fluxflow_registry.engine.run.trained_models import load_trained_models
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.registry.registry import Registry

from ..engine.conftest import StopAfter, changed, start, weights
from ..engine.test_resume import finals
from ..small import FLOW, PLUGINS, VAE_GAN

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="the extra `text` is not installed")

WORDS = ["a", "small", "large", "red", "blue", "circle", "square", "left", "of", "shapes", "and"]
CAPTIONS = ["a small red circle", "", "a large blue square left of a small red circle and a square"]
KINDS = ["bert", "t5", "clip"]


def tokenizer(kind: str) -> Any:
    """A tokenizer of words, with the special tokens of the kind."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    marks = {"bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "t5": ["<pad>", "</s>", "<unk>"], "clip": ["<|s|>", "<|e|>"]}
    around = {"bert": "[CLS] $A [SEP]", "t5": "$A </s>", "clip": "<|s|> $A <|e|>"}[kind]
    vocabulary = {word: number for number, word in enumerate([*marks[kind], *WORDS])}
    unknown = {"bert": "[UNK]", "t5": "<unk>", "clip": "<|e|>"}[kind]
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(mark, vocabulary[mark]) for mark in marks[kind]]
    words.post_processor = processors.TemplateProcessing(single=around, special_tokens=special)
    pads = {"bert": "[PAD]", "t5": "<pad>", "clip": "<|e|>"}
    ends = {"bert": "[SEP]", "t5": "</s>", "clip": "<|e|>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pads[kind], eos_token=ends[kind], unk_token=unknown
    )


def network(kind: str) -> Any:
    """A tiny network with random weights; that of CLIP with its image encoder, as it is published."""
    import transformers

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "bert":
        return transformers.BertModel(transformers.BertConfig(vocab_size=20, max_position_embeddings=24, **size))
    if kind == "t5":
        heads = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        return transformers.T5Model(transformers.T5Config(vocab_size=20, **heads))
    text = {"vocab_size": 20, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**size, "image_size": 8, "patch_size": 4}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config={**size, **text}, vision_config=vision))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A folder of each kind, as `save_pretrained` writes it."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        network(kind).save_pretrained(folder)
        tokenizer(kind).save_pretrained(folder)
    return folders


def build(folder: Path, state: Mapping[str, Tensor] | None = None, **options: Any) -> Any:
    options = {"max_tokens": 20, **options}
    return PretrainedTextEncoderBuilder(name=str(folder), **options)(state)


@pytest.mark.parametrize("kind", KINDS)
def test_every_caption_of_a_batch_is_encoded_as_by_the_published_network(
    published: Mapping[str, Path], kind: str
) -> None:
    encoder = build(published[kind]).eval()
    theirs = network(kind).eval()
    theirs = {"t5": lambda: theirs.encoder, "clip": lambda: theirs.text_model, "bert": lambda: theirs}[kind]()

    tokens, mask = encoder(CAPTIONS)

    assert mask.dtype == torch.bool
    for index, caption in enumerate(CAPTIONS):
        ids = tokenizer(kind)([caption], return_tensors="pt")["input_ids"]
        alone, own = encoder([caption])
        expected = theirs(input_ids=ids).last_hidden_state[0]
        length = int(mask[index].sum())
        assert (length, bool(own.all())) == (ids.shape[1], True)
        torch.testing.assert_close(tokens[index, :length], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tokens[index, :length], alone[0], rtol=1e-4, atol=1e-5)
        assert not tokens[index, length:].any()


def test_the_empty_caption_has_an_embedding_even_without_special_tokens(tmp_path: Path) -> None:
    from tokenizers import processors

    network("bert").save_pretrained(tmp_path)
    plain = tokenizer("bert")
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    plain.save_pretrained(tmp_path)

    tokens, mask = build(tmp_path).eval()(["", "a circle"])

    assert mask.tolist() == [[True, False], [True, True]]
    assert tokens[0, 0].abs().sum() > 0


def test_layer_length_and_number_format_are_options(published: Mapping[str, Path]) -> None:
    folder = published["bert"]
    theirs = network("bert").eval()
    ids = tokenizer("bert")([CAPTIONS[0]], return_tensors="pt")["input_ids"]

    middle, _ = build(folder, layer=-2).eval()([CAPTIONS[0]])
    with pytest.warns(Notice, match="reads 4 tokens of a caption, and some captions are longer: they are truncated"):
        short, _ = build(folder, max_tokens=4).eval()([CAPTIONS[2]])
    half = build(folder, dtype="bf16").eval()

    torch.testing.assert_close(middle, theirs(input_ids=ids, output_hidden_states=True).hidden_states[1])
    assert short.shape == (1, 4, 16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half(CAPTIONS).tokens.dtype == torch.float32


def test_a_head_is_trained_on_a_frozen_network(published: Mapping[str, Path]) -> None:
    encoder = build(published["bert"], head=6).train()

    tokens, mask = encoder(CAPTIONS)
    again, _ = encoder(CAPTIONS)
    tokens.square().mean().backward()

    assert tokens.shape == (3, mask.shape[1], 6)
    assert torch.equal(tokens, again), "the network has no dropout"
    assert not tokens[~mask].any()
    assert {name for name, each in encoder.named_parameters() if each.requires_grad} == {
        "head.0.weight", "head.0.bias", "head.1.weight", "head.1.bias"
    }  # fmt: skip
    assert all(each.grad is not None for each in encoder.head.parameters())
    inside = build(published["bert"]).eval()(CAPTIONS).tokens
    torch.testing.assert_close(encoder.head(inside).masked_fill(~mask[:, :, None], 0.0), tokens)


def problem_of(name: str | Path, **options: Any) -> Problem:
    """The problem of an encoder that cannot be built."""
    with pytest.raises(PretrainedError) as caught:
        PretrainedTextEncoderBuilder(name=str(name), **options)(None)
    return caught.value.problems[0]


def test_options_that_do_not_fit_the_network_are_reported(published: Mapping[str, Path]) -> None:
    folder = published["bert"]

    long = problem_of(folder, max_tokens=25)
    deep = problem_of(folder, max_tokens=20, layer=-4)
    part = problem_of(folder, max_tokens=20, frozen=["embedings"])

    assert long.message == f"max_tokens is 25, but `{folder}` has only 24 positions"
    assert (long.code, long.subject) == ("out-of-range", "max_tokens")
    assert deep.message == f"layer is -4, but `{folder}` has 2 layers: set -1 to -3 (its embeddings)"
    assert (deep.code, deep.subject) == ("out-of-range", "layer")
    assert part.message == (
        "`frozen` of model `pretrained_text_encoder` names `embedings`, which the network does not have"
    )
    assert (part.code, part.subject, part.nearest) == ("unknown-name", "embedings", "embeddings")


def test_a_copy_and_a_state_dict_contain_the_tokenizer(published: Mapping[str, Path], tmp_path: Path) -> None:
    encoder = build(published["t5"]).eval()
    state = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}

    copied = copy.deepcopy(encoder)
    again = build(tmp_path / "nowhere", state).eval()
    fresh = again(CAPTIONS).tokens
    again.load_state_dict(state)

    assert torch.equal(copied(CAPTIONS).tokens, encoder(CAPTIONS).tokens)
    assert torch.equal(again(CAPTIONS).tokens, encoder(CAPTIONS).tokens)
    assert not torch.equal(fresh, encoder(CAPTIONS).tokens)


RECIPE = (VAE_GAN + FLOW).replace(
    "text_encoder: {type: text_transformer, width: 16, depth: 1, heads: 2, table_size: 32}",
    "text_encoder: {type: pretrained_text_encoder, name: FOLDER, max_tokens: 20}",
)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load([*PLUGINS, "pretrained"])


@pytest.fixture
def proven(prove: Callable[..., RecipePlan], registry: Registry, tmp_path: Path) -> Callable[..., RecipePlan]:
    """A checked recipe whose text encoder is in a folder."""

    def make(folder: Path, *settings: str) -> RecipePlan:
        return prove(RECIPE.replace("FOLDER", str(folder)), *settings, using=registry)

    return make


FROZEN = "steps.flow.updates.flow.trains=[flow_processor]"


def test_its_weights_do_not_change_if_no_update_trains_it(
    proven: Callable[..., RecipePlan], published: Mapping[str, Path], tmp_path: Path
) -> None:
    recipe = proven(published["bert"], FROZEN)
    shapes = prove_shapes(recipe)

    run = start(recipe, tmp_path / "runs").run

    assert shapes["flow"]["text_embedding"].startswith("(tokens [4, ")
    expected = network("bert").state_dict()
    for name, tensor in run.models["text_encoder"].network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    files = list(run.folder.path.glob("checkpoints/*/model.text_encoder.safetensors"))
    assert len({path.stat().st_ino for path in files}) < len(files)  # frozen weights are on the disk once per step


def test_an_update_fine_tunes_all_but_its_frozen_parts_and_resumes_bit_identically(
    proven: Callable[..., RecipePlan], published: Mapping[str, Path], tmp_path: Path
) -> None:
    recipe = proven(published["bert"], "models.text_encoder.frozen=[embeddings]")
    prove_shapes(recipe)
    whole = start(recipe, tmp_path / "whole").run

    first = start(recipe, tmp_path / "resumed", [StopAfter("batch_ended", 15)])
    second = start(recipe, tmp_path / "resumed")

    before = {f"text_encoder.network.{key}": tensor for key, tensor in network("bert").state_dict().items()}
    after = weights({"text_encoder": whole.models["text_encoder"]})
    trained = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert trained
    assert not any(".embeddings." in name for name in trained)
    assert first.stopped is not None
    assert finals(second.run) == finals(whole)


def test_a_run_can_be_sampled_without_the_folder_that_it_was_trained_from(
    proven: Callable[..., RecipePlan], published: Mapping[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.symlink_to(published["bert"])
    recipe = proven(folder)
    stopped = start(recipe, tmp_path / "runs", [StopAfter("batch_ended", 15)]).run
    folder.unlink()

    models, source, _ = load_trained_models(recipe, stopped.folder.path, torch.device("cpu"))

    trained = weights(stopped.models)
    assert "flow" in source
    assert not changed(trained, {"text_encoder": models["text_encoder"]})
    assert models["text_encoder"](CAPTIONS).tokens.shape == (3, 15, 16)


def test_sampling_does_not_report_it_as_untrained(
    proven: Callable[..., RecipePlan], published: Mapping[str, Path]
) -> None:
    recipe = proven(published["bert"], FROZEN, "steps.vae_gan.updates.vae.trains=[compressor, expander]")
    own = proven(published["bert"], FROZEN, "models.text_encoder={type: text_transformer, width: 16, heads: 2}")

    assert untrained(recipe, recipe.steps[1]) == set()
    assert untrained(own, own.steps[1]) == {"text_encoder"}


def test_missing_files_are_reported_with_the_command_that_fetches_them_and_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", fail)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model.safetensors").touch()

    missing = problem_of("nobody/nothing", revision="v1")

    assert missing.message == "`nobody/nothing` is neither a folder nor in the Hugging Face cache"
    assert (missing.code, missing.subject) == ("missing-weights", "nobody/nothing")
    assert missing.notes[2] == (
        "command",
        'hf download nobody/nothing --revision v1 --include "*.json" --include "*.txt" --include "*.model" '
        '--include "*.safetensors"',
    )
    assert dict(problem_of("a/b").notes)["command"].startswith("hf download a/b --include ")
    assert problem_of(tmp_path / "none").message == f"folder `{tmp_path / 'none'}` does not exist"
    assert problem_of("no name").message == "`no name` is neither a folder nor a valid name on the Hugging Face hub"
    empty = problem_of(tmp_path / "empty")
    assert empty.message == f"folder `{tmp_path / 'empty'}` cannot be read as a text encoder of transformers"
    assert (empty.code, [label for label, _ in empty.notes]) == ("unreadable-file", ["cause"])


def test_weights_that_could_contain_code_and_incomplete_weights_are_rejected(
    published: Mapping[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "bert"
    folder.mkdir()
    for path in published["bert"].iterdir():
        os.symlink(path, folder / path.name)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")

    unsafe = problem_of(folder, max_tokens=20)
    with torch.device("meta"):  # before training
        on_meta = problem_of(folder, max_tokens=20)
    missing = "encoder.layer.1.output.dense.weight"
    save_file({k: v for k, v in state.items() if k != missing}, folder / "model.safetensors", {"format": "pt"})
    incomplete = problem_of(folder, max_tokens=20)

    assert unsafe.message == on_meta.message == f"folder `{folder}` contains no .safetensors file"
    assert unsafe.notes == (("cause", "weights in torch's own format can contain code, so they are not read"),)
    assert incomplete.message == f"the weights in folder `{folder}` have no `{missing}` of BertModel"
    assert (incomplete.code, incomplete.subject) == ("missing-weights", missing)


def test_a_missing_library_is_reported_with_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)

    problem = problem_of("nobody/nothing")

    assert problem.message == "the library transformers, which `pretrained_*` models need, is not installed"
    assert (problem.code, problem.subject) == ("missing-dependency", "transformers")
    assert problem.notes == (("command", "pip install 'fluxflow-registry[text]'"),)
