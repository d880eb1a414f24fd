"""Samples are held out by their names, so that further samples never move one to another split."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from fluxflow_data.folder.dataset import Folder
from fluxflow_data.holdout import uniform_by_name
from fluxflow_data.image_dataset import ImageSource
from fluxflow_data.shards.dataset import WebDataset
from fluxflow_registry import DataError, SampleError, hookimpl
from fluxflow_registry.engine.data.survey import survey
from fluxflow_registry.errors import RecipeError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import load
from fluxflow_registry.state import store

from ..engine.conftest import StopAfter, start
from ..engine.test_resume import finals
from ..small import PLUGINS
from .shard_files import png, sample, write_tar

BOTH = pytest.mark.parametrize("kind", ["folder", "webdataset"])

NAMES = st.lists(st.binary(max_size=12), unique=True, max_size=30)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def members(numbers: Sequence[int]) -> dict[str, bytes]:
    """Samples of a dataset by name."""
    return {name: data for number in numbers for name, data in sample(number, key=f"in/{number:03}").items()}


def source(kind: str, folder: Path, files: dict[str, bytes], **options: Any) -> ImageSource:
    """The files as a folder, or half and half in two shards."""
    options = {"image_size": 8, "holdout": 0.3} | options
    if kind == "webdataset":
        halves = list(files)[: len(files) // 4 * 2], list(files)[len(files) // 4 * 2 :]
        for number, half in enumerate(halves):
            new = write_tar(folder / "new.tar", {name: files[name] for name in half})
            if not (folder / f"{number}.tar").exists() or new.read_bytes() != (folder / f"{number}.tar").read_bytes():
                new.replace(folder / f"{number}.tar")  # one that is open must not change
        return WebDataset(shards=str(folder / "{0..1}.tar"), **options)()
    (folder / "images" / "in").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / "images" / name).write_bytes(data)
    return Folder(path=str(folder / "images"), **options)()


def captions(source: ImageSource) -> list[str]:
    return [str(source.batch([index], 0)["caption"][0]) for index in range(len(source))]


@given(names=NAMES, more=NAMES, share=st.floats(0, 1), larger=st.floats(0, 1))
def test_whether_a_sample_is_held_out_depends_on_its_name_alone_and_a_larger_share_keeps_it(
    names: list[bytes], more: list[bytes], share: float, larger: float
) -> None:
    share, larger = sorted((share, larger))

    alone = {name for name, chance in zip(names, uniform_by_name(names).tolist(), strict=True) if chance < share}
    both = [*more, *names]
    among = {name for name, chance in zip(both, uniform_by_name(both).tolist(), strict=True) if chance < share}
    grown = {name for name, chance in zip(names, uniform_by_name(names).tolist(), strict=True) if chance < larger}

    assert alone == among & set(names)
    assert alone <= grown


def test_the_share_is_kept_and_the_numbers_of_names_never_change() -> None:
    numbers = uniform_by_name(f"{number:06}".encode() for number in range(20_000))

    assert 0.0 <= numbers.min() < numbers.max() < 1.0
    for share in (0.01, 0.05, 0.5):
        assert (numbers < share).mean() == pytest.approx(share, abs=0.005)
    known = uniform_by_name([b"", b"a/007", "café".encode()]).tolist()
    assert known == [0.4832227145744713, 0.5885591886806808, 0.45477261535893243]


@BOTH
def test_the_splits_are_disjoint_and_complete_and_keep_their_samples_when_others_are_added(
    kind: str, tmp_path: Path
) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for folder in (few, many):
        folder.mkdir()

    parts = {split: captions(source(kind, few, members(range(20)), split=split)) for split in ("train", "held_out")}
    later = {split: captions(source(kind, many, members(range(40)), split=split)) for split in ("train", "held_out")}

    assert sorted(parts["train"] + parts["held_out"]) == sorted(f"image {number}" for number in range(20))
    assert len(parts["held_out"]) == 7
    for split, before in parts.items():
        assert later[split][: len(before)] == before
    assert captions(source(kind, few, members(range(20)), split="all")) == [f"image {n}" for n in range(20)]


def test_a_folder_and_its_shards_hold_out_the_same(tmp_path: Path) -> None:
    found = [
        captions(source(kind, tmp_path, members(range(20)), split="held_out")) for kind in ("folder", "webdataset")
    ]

    assert found[0] == found[1]


def test_another_image_format_and_another_order_of_shards_change_no_split(tmp_path: Path) -> None:
    files = members(range(20))
    expected = set(captions(source("webdataset", tmp_path, files, split="held_out")))

    turned = captions(source("webdataset", tmp_path, dict(reversed(files.items())), split="held_out"))
    webp = io.BytesIO()
    Image.new("RGB", (8, 8)).save(webp, "WEBP")
    images = {name.replace(".png", ".webp"): webp.getvalue() for name in files if name.endswith(".png")}
    texts = {name: data for name, data in files.items() if name.endswith(".txt")}
    other = captions(source("folder", tmp_path, texts | images, split="held_out"))

    assert set(turned) == expected
    assert set(other) == expected


@BOTH
def test_each_split_has_its_own_names_and_digest(kind: str, tmp_path: Path) -> None:
    files = members(range(20))
    sources = {split: source(kind, tmp_path, files, split=split) for split in ("train", "held_out", "all")}
    whole = source(kind, tmp_path, files, holdout=0.0)
    same = source(kind, tmp_path, files, split="held_out")

    digests = {split: each.digest for split, each in sources.items()}  # type: ignore[attr-defined]
    assert len(set(digests.values())) == 3
    assert digests["all"] == whole.digest  # type: ignore[attr-defined]
    assert digests["held_out"] == same.digest  # type: ignore[attr-defined]
    held_out = sources["held_out"]
    for index, caption in enumerate(captions(held_out)):
        assert f"in/{int(caption.split()[1]):03}" in held_out.name(index)
    with pytest.raises(IndexError):
        held_out.batch([len(held_out)], 0)


@BOTH
def test_buckets_and_sizes_are_those_of_the_split(kind: str, tmp_path: Path) -> None:
    files = members(range(20))
    for number in range(0, 20, 2):
        path = tmp_path / "tall.png"
        Image.new("RGB", (8, 24)).save(path)
        files[f"in/{number:03}.png"] = path.read_bytes()

    held_out = source(kind, tmp_path, files, split="held_out", bucket_multiple=4, bucket_aspect=3.0)

    assert held_out.buckets is not None
    tall = [int(caption.split()[1]) % 2 == 0 for caption in captions(held_out)]
    assert len(held_out.buckets) == len(held_out) == len(tall)
    assert [size == [8, 24] for size in held_out.sizes().tolist()] == tall
    assert [held_out.bucket_name(int(number)) != "8 x 8" for number in held_out.buckets] == tall


def test_a_folder_is_judged_as_a_whole_and_damage_is_reported_in_its_split(tmp_path: Path) -> None:
    whole = members(range(20))
    held_out = captions(source("folder", tmp_path, whole, split="held_out"))
    number = int(held_out[0].split()[1])
    damaged = {f"in/{number:03}.png": b"not an image", f"in/{number:03}.txt": b"words"}

    parts = {
        split: source("folder", tmp_path, whole | damaged, split=split, damaged_at_most=0.05)
        for split in ("train", "held_out")
    }

    assert parts["train"].left_out == []
    assert [str(problem.where) for problem in parts["held_out"].left_out] == [
        str(tmp_path / "images" / "in" / f"{number:03}.png")
    ]
    assert captions(parts["held_out"]) == held_out[1:]
    with pytest.raises(DataError, match="is not an image in a supported format"):
        source("folder", tmp_path, whole | damaged, damaged_at_most=0.04)


def test_a_malformed_line_of_a_captions_file_is_reported_in_both_splits(tmp_path: Path) -> None:
    source("folder", tmp_path, members(range(20)))
    table = tmp_path / "captions.tsv"
    lines = [f"in/{number:03}.png\tcaption {number}" for number in range(19)]
    table.write_text("\n".join(["no tab", *lines]))
    options = {"captions": str(table), "damaged_at_most": 0.5, "image_size": 8, "holdout": 0.3}
    path = str(tmp_path / "images")

    parts = [Folder(path=path, split=split, **options)() for split in ("train", "held_out")]  # type: ignore[arg-type]

    assert all(str(part.left_out[0].where) == f"{table}:1" for part in parts)
    unnamed = "skipped 1 image of the folder that `captions.tsv` does not name"
    assert all(unnamed in part.notes for part in parts)
    assert sum(map(len, parts)) == 19


def test_damage_in_a_shard_is_reported_for_its_sample(tmp_path: Path) -> None:
    files = members(range(20))
    held_out = captions(source("webdataset", tmp_path, files, split="held_out"))
    key = f"in/{int(held_out[2].split()[1]):03}"

    part = source("webdataset", tmp_path, files | {f"{key}.png": b"not an image"}, split="held_out")

    with pytest.raises(SampleError) as caught:
        part.batch([1, 2, 3], 0)
    assert list(caught.value.samples) == [2]
    assert caught.value.samples[2].subject == key
    assert str(caught.value.samples[2].where).endswith(".tar")


@BOTH
@pytest.mark.parametrize(("split", "holdout", "better"), [("held_out", 0.001, "larger"), ("train", 0.999, "smaller")])
def test_an_empty_split_is_refused(kind: str, split: str, holdout: float, better: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        source(kind, tmp_path, members(range(4)), split=split, holdout=holdout)

    (problem,) = caught.value.problems
    assert (problem.code, problem.subject) == ("empty-dataset", split)
    assert problem.message == f"the split `{split}` is empty: `holdout: {holdout}` assigns none of 4 samples to it"
    assert dict(problem.notes) == {"hint": f"set a {better} `holdout`, or add samples"}
    assert str(problem.where).startswith(str(tmp_path))


@pytest.mark.parametrize("dataset", [lambda **o: Folder(path="x", **o), lambda **o: WebDataset(shards="x", **o)])
def test_a_held_out_split_without_a_share_is_refused_before_anything_is_opened(dataset: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"`holdout` is 0: set the share to hold out, such as 0\.05"):
        dataset(split="held_out")
    with pytest.raises(ValueError, match=r"'holdout' must be < 1\.0"):
        dataset(holdout=1.0)


@BOTH
def test_inspection_describes_the_split(kind: str, tmp_path: Path) -> None:
    files = members(range(20))

    found = survey(source(kind, tmp_path, files, split="held_out"), 100)

    assert found.notes == ("split `held_out`: 7 of 20 samples, with `holdout: 0.3`",)
    assert survey(source(kind, tmp_path, files, holdout=0.0), 100).notes == ()


RECIPE = """
recipe: 1
name: held_out
models:
  compressor: {type: compressor, latent_channels: 2, width: 8}
  expander: {type: expander, latent_channels: 2, width: 8}
datasets:
  train: {type: folder, path: PATH, image_size: 16, holdout: 0.3}
  val: {type: folder, path: PATH, image_size: 16, holdout: 0.3, split: held_out}
steps:
  vae:
    dataset: train
    batch_size: 4
    epochs: 3
    log_every: 1
    updates:
      vae:
        trains: [compressor, expander]
        losses: {mse: {}, kl: {weight: 0.01}}
        optimizer: {type: AdamW, lr: 0.1}
        scheduler: {type: StepLR, step_size: 100}
    evaluate:
      val: {dataset: val, samples: 7, batch_size: 3, every: 1, metrics: {elbo: {}}}
    best: {metric: val/elbo}
"""


class Read:
    """An observer that records each evaluation, and the samples of each batch."""

    def __init__(self) -> None:
        self.bounds: list[float] = []
        self.trained: set[str] = set()

    @hookimpl
    def evaluated(self, run: Any, metrics: Any) -> None:
        self.bounds.append(metrics["elbo"])

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self.trained.update(run.engine.data.sources["train"].name(index) for index in run.engine.live.samples)


def test_the_best_epoch_is_chosen_on_samples_that_are_never_trained_on_and_a_stop_changes_nothing(
    prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    files = members(range(20))
    source("folder", tmp_path, files | {name: png(len(name), 16) for name in files if name.endswith("png")})
    recipe = prove(RECIPE.replace("PATH", str(tmp_path / "images")).encode(), using=load([*PLUGINS, "data"]))
    read = Read()

    run = start(recipe, tmp_path / "whole", [read]).run
    stopped = start(recipe, tmp_path / "often", [StopAfter("batch_ended", 4)]).stopped
    again = start(recipe, tmp_path / "often").run

    assert stopped.run_batch == 4
    held_out = run.data.sources["val"]
    measured = {held_out.name(index) for index in range(len(held_out))}
    assert len(measured) == 7
    assert len(read.trained) == 13
    assert not measured & read.trained
    (best,) = (run.folder.path / "checkpoints").glob("*-best")
    _, meta = store.load(best)
    assert meta["position"]["epoch"] == read.bounds.index(min(read.bounds[:3])) + 1
    assert finals(again) == finals(run)


#: The setting of a dataset of held-out samples of shards.
VAL = "datasets.val={type: webdataset, shards: PATH, holdout: 0.3, split: held_out}"

SPLITS = st.sampled_from(["train", "held_out", "all"])


@given(mine=st.floats(0.01, 0.99), share=st.floats(0, 0.99), split=SPLITS)
def test_an_overlap_of_two_splits_is_reported_exactly_where_a_name_can_be_in_both(
    mine: float, share: float, split: Any
) -> None:
    assume(share > 0 or split != "held_out")
    held_out, trained = Folder("x", holdout=mine, split="held_out"), Folder("./x", holdout=share, split=split)
    chance = mine / 2 if split != "train" else (mine + share) / 2  # where a name would lie, if one were in both

    problem = held_out.overlap("val", "train", trained)

    both = chance < mine and {"train": chance >= share, "held_out": True, "all": True}[split]
    assert (problem is not None) == both
    assert evolve(held_out, split="all").overlap("val", "train", trained) is None


def test_shards_are_not_looked_up_where_no_held_out_sample_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxflow_data.shards.dataset.identities", lambda _: pytest.fail("shards were looked up"))
    plain = WebDataset("{00000..99999}.tar")
    held_out, apart = evolve(plain, holdout=0.1, split="held_out"), evolve(plain, holdout=0.1)

    problems = [plain.overlap("val", "train", plain), held_out.overlap("val", "train", apart)]

    assert problems == [None, None]


@pytest.mark.parametrize("path", ["~nouser/x", "a\0b", "a\udfffb"])
def test_an_impossible_path_of_a_folder_overlaps_with_nothing(path: str) -> None:
    folder = Folder(path, holdout=0.1, split="held_out")

    problems = [
        folder.overlap("val", "train", Folder("x")),
        evolve(folder, path="x").overlap("val", "train", Folder(path)),
    ]

    assert problems == [None, None]


@pytest.mark.parametrize("path", ["~nouser/x", "a\udfffb"])
def test_an_impossible_path_of_shards_overlaps_with_nothing(path: str) -> None:
    shards = WebDataset(path, holdout=0.1, split="held_out")

    problems = [
        shards.overlap("val", "train", WebDataset("x")),
        evolve(shards, shards="x").overlap("val", "train", WebDataset(path)),
    ]

    assert problems == [None, None]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], None),
        (["datasets.train.holdout=0.5"], None),
        (["datasets.val.split=all", "datasets.train.holdout=0"], None),
        (["datasets.val.path=elsewhere"], None),
        (["datasets.val.path=PATH/.hidden"], None),
        (["steps.vae.evaluate.val.dataset=train", "datasets.train.holdout=0"], None),
        (["datasets.train.holdout=0.1"], "`train` has `holdout: 0.1`, but `val` has `holdout: 0.3`"),
        (["datasets.train.holdout=0"], "`train` has no `holdout`, but `val` has `holdout: 0.3`"),
        (["datasets.train.split=all"], "`train` has `split: all`, but `val` has `holdout: 0.3`"),
        (
            ["datasets.val.path=PATH/in"],
            "the folder of `val` is inside that of `train`: images have two names and may be in both splits",
        ),
        (
            ["datasets.train={type: webdataset, shards: 'a{0..3}.tar'}", VAL.replace("PATH", "['a2.tar']")],
            "`train` has no `holdout`, but `val` has `holdout: 0.3`",
        ),
        (["datasets.train={type: webdataset, shards: 'a{0..3}.tar'}", VAL.replace("PATH", "a4.tar")], None),
        (
            ["datasets.train={type: shapes, split: all}", "datasets.val={type: shapes, split: held_out}"],
            "dataset `val` is held out, but training reads samples of it: `train` has `split: all`",
        ),
        (["datasets.train={type: shapes}", "datasets.val={type: shapes, split: held_out}"], None),
    ],
)
def test_held_out_samples_that_are_trained_on_are_found_from_the_recipe_alone(
    settings: list[str], expected: str | None, prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    def checked() -> RecipePlan:
        path = str(tmp_path / "images")
        return prove(RECIPE.replace("PATH", path), *(setting.replace("PATH", path) for setting in settings))

    if expected is None:
        checked()
        return

    with pytest.raises(RecipeError) as caught:
        checked()

    (problem,) = caught.value.problems
    assert expected in problem.message


def test_both_datasets_are_reported_with_their_locations_through_all_parent_steps_and_no_others(
    prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    text = RECIPE.replace("PATH", "images").replace("holdout: 0.3}", "holdout: 0.1}")
    measured = text[text.index("    evaluate") :]
    step = text[text.index("  vae:\n") : text.index("    evaluate")]
    last = step.replace("vae:\n", "last:\n    after: vae\n", 1).replace("train\n", "plain\n")
    plain = "  plain: {type: folder, path: images, image_size: 16, holdout: 0.3}\nsteps:"
    text = (
        text.replace("steps:", plain).replace(measured, "")
        + last
        + measured.replace("    best: {metric: val/elbo}\n", "")
    )

    with pytest.raises(RecipeError) as caught:
        prove(text)
    prove(text.replace("after: vae", "after: null"))

    place = tmp_path / "r.yaml"
    (problem,) = caught.value.problems
    assert str(problem.where) == f"{place}:9:15"
    assert dict(problem.notes) == {
        "see also": f"step `vae` trains on `train` ({place}:8:17)",
        "requested by": f"evaluation `val` of step `last` ({place}:36:22)",
        "hint": "set `holdout: 0.3` in `train`, or `split: all` in `val` if nothing has to be held out",
    }
