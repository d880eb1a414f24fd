"""Part of a dataset is held out: by the names of its samples, so that no other sample ever changes sides."""

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

from fluxflow_data.batching.source import PictureSource
from fluxflow_data.folder.dataset import Folder
from fluxflow_data.holdout import chances
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
from .shard_files import png, sample, written

BOTH = pytest.mark.parametrize("kind", ["folder", "webdataset"])

NAMES = st.lists(st.binary(max_size=12), unique=True, max_size=30)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def members(numbers: Sequence[int]) -> dict[str, bytes]:
    """Samples of a dataset by name."""
    return {name: data for number in numbers for name, data in sample(number, key=f"in/{number:03}").items()}


def source(kind: str, folder: Path, files: dict[str, bytes], **options: Any) -> PictureSource:
    """The files as a folder, or half and half in two shards."""
    options = {"image_size": 8, "holdout": 0.3} | options
    if kind == "webdataset":
        halves = list(files)[: len(files) // 4 * 2], list(files)[len(files) // 4 * 2 :]
        for number, half in enumerate(halves):
            new = written(folder / "new.tar", {name: files[name] for name in half})
            if not (folder / f"{number}.tar").exists() or new.read_bytes() != (folder / f"{number}.tar").read_bytes():
                new.replace(folder / f"{number}.tar")  # one that is open must not change
        return WebDataset(shards=str(folder / "{0..1}.tar"), **options)()
    (folder / "pictures" / "in").mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / "pictures" / name).write_bytes(data)
    return Folder(path=str(folder / "pictures"), **options)()


def captions(source: PictureSource) -> list[str]:
    return [str(source.batch([index], 0)["caption"][0]) for index in range(len(source))]


@given(names=NAMES, more=NAMES, share=st.floats(0, 1), larger=st.floats(0, 1))
def test_what_is_held_out_depends_on_its_name_alone_and_stays_so_with_a_larger_share(
    names: list[bytes], more: list[bytes], share: float, larger: float
) -> None:
    share, larger = sorted((share, larger))

    alone = {name for name, chance in zip(names, chances(names).tolist(), strict=True) if chance < share}
    both = [*more, *names]
    among = {name for name, chance in zip(both, chances(both).tolist(), strict=True) if chance < share}
    grown = {name for name, chance in zip(names, chances(names).tolist(), strict=True) if chance < larger}

    assert alone == among & set(names)
    assert alone <= grown


def test_the_share_is_kept_and_the_numbers_of_names_never_change() -> None:
    found = chances(f"{number:06}".encode() for number in range(20_000))

    assert 0.0 <= found.min() < found.max() < 1.0
    for share in (0.01, 0.05, 0.5):
        assert (found < share).mean() == pytest.approx(share, abs=0.005)
    known = chances([b"", b"a/007", "café".encode()]).tolist()
    assert known == [0.4832227145744713, 0.5885591886806808, 0.45477261535893243]


@BOTH
def test_the_parts_are_disjoint_and_complete_and_keep_their_samples_when_others_come(kind: str, tmp_path: Path) -> None:
    few, many = tmp_path / "few", tmp_path / "many"
    for folder in (few, many):
        folder.mkdir()

    parts = {split: captions(source(kind, few, members(range(20)), split=split)) for split in ("train", "held_out")}
    later = {split: captions(source(kind, many, members(range(40)), split=split)) for split in ("train", "held_out")}

    assert sorted(parts["train"] + parts["held_out"]) == sorted(f"picture {number}" for number in range(20))
    assert len(parts["held_out"]) == 7
    for split, told in parts.items():
        assert later[split][: len(told)] == told
    assert captions(source(kind, few, members(range(20)), split="all")) == [f"picture {n}" for n in range(20)]


def test_a_folder_and_its_shards_hold_out_the_same(tmp_path: Path) -> None:
    found = [
        captions(source(kind, tmp_path, members(range(20)), split="held_out")) for kind in ("folder", "webdataset")
    ]

    assert found[0] == found[1]


def test_another_format_of_a_picture_and_another_order_of_shards_change_nothing(tmp_path: Path) -> None:
    files = members(range(20))
    expected = set(captions(source("webdataset", tmp_path, files, split="held_out")))

    turned = captions(source("webdataset", tmp_path, dict(reversed(files.items())), split="held_out"))
    webp = io.BytesIO()
    Image.new("RGB", (8, 8)).save(webp, "WEBP")
    pictures = {name.replace(".png", ".webp"): webp.getvalue() for name in files if name.endswith(".png")}
    texts = {name: data for name, data in files.items() if name.endswith(".txt")}
    other = captions(source("folder", tmp_path, texts | pictures, split="held_out"))

    assert set(turned) == expected
    assert set(other) == expected


@BOTH
def test_each_part_is_known_by_its_own_name_and_digest(kind: str, tmp_path: Path) -> None:
    files = members(range(20))
    made = {split: source(kind, tmp_path, files, split=split) for split in ("train", "held_out", "all")}
    whole = source(kind, tmp_path, files, holdout=0.0)
    same = source(kind, tmp_path, files, split="held_out")

    digests = {split: each.digest for split, each in made.items()}  # type: ignore[attr-defined]
    assert len(set(digests.values())) == 3
    assert digests["all"] == whole.digest  # type: ignore[attr-defined]
    assert digests["held_out"] == same.digest  # type: ignore[attr-defined]
    held = made["held_out"]
    for index, caption in enumerate(captions(held)):
        assert f"in/{int(caption.split()[1]):03}" in held.name(index)
    with pytest.raises(IndexError):
        held.batch([len(held)], 0)


@BOTH
def test_buckets_and_sizes_are_those_of_the_part(kind: str, tmp_path: Path) -> None:
    files = members(range(20))
    for number in range(0, 20, 2):
        path = tmp_path / "tall.png"
        Image.new("RGB", (8, 24)).save(path)
        files[f"in/{number:03}.png"] = path.read_bytes()

    held = source(kind, tmp_path, files, split="held_out", bucket_multiple=4, bucket_aspect=3.0)

    assert held.buckets is not None
    tall = [int(caption.split()[1]) % 2 == 0 for caption in captions(held)]
    assert len(held.buckets) == len(held) == len(tall)
    assert [size == [8, 24] for size in held.sizes().tolist()] == tall
    assert [held.bucket_name(int(number)) != "8 x 8" for number in held.buckets] == tall


def test_a_folder_is_judged_as_a_whole_and_names_damage_where_it_would_have_been_read(tmp_path: Path) -> None:
    whole = members(range(20))
    held = captions(source("folder", tmp_path, whole, split="held_out"))
    number = int(held[0].split()[1])
    damaged = {f"in/{number:03}.png": b"no picture", f"in/{number:03}.txt": b"words"}

    parts = {
        split: source("folder", tmp_path, whole | damaged, split=split, damaged_at_most=0.05)
        for split in ("train", "held_out")
    }

    assert parts["train"].left_out == []
    assert [str(problem.where) for problem in parts["held_out"].left_out] == [
        str(tmp_path / "pictures" / "in" / f"{number:03}.png")
    ]
    assert captions(parts["held_out"]) == held[1:]
    with pytest.raises(DataError, match="is not a picture"):
        source("folder", tmp_path, whole | damaged, damaged_at_most=0.04)


def test_a_line_of_a_captions_file_that_says_nothing_belongs_to_both_parts(tmp_path: Path) -> None:
    source("folder", tmp_path, members(range(20)))
    table = tmp_path / "captions.tsv"
    lines = [f"in/{number:03}.png\tcaption {number}" for number in range(19)]
    table.write_text("\n".join(["no tab", *lines]))
    options = {"captions": str(table), "damaged_at_most": 0.5, "image_size": 8, "holdout": 0.3}
    path = str(tmp_path / "pictures")

    parts = [Folder(path=path, split=split, **options)() for split in ("train", "held_out")]  # type: ignore[arg-type]

    assert all(str(part.left_out[0].where) == f"{table}:1" for part in parts)
    missing = [problem for part in parts for problem in part.left_out if "019.png" in str(problem.where)]
    assert len(missing) == 1


def test_damage_in_a_shard_is_told_of_the_sample_that_it_is(tmp_path: Path) -> None:
    files = members(range(20))
    held = captions(source("webdataset", tmp_path, files, split="held_out"))
    key = f"in/{int(held[2].split()[1]):03}"

    part = source("webdataset", tmp_path, files | {f"{key}.png": b"no picture"}, split="held_out")

    with pytest.raises(SampleError) as caught:
        part.batch([1, 2, 3], 0)
    assert list(caught.value.samples) == [2]
    assert str(caught.value.samples[2].where).endswith(f".tar:{key}")


@BOTH
@pytest.mark.parametrize(("split", "holdout", "better"), [("held_out", 0.001, "larger"), ("train", 0.999, "smaller")])
def test_an_empty_part_is_refused(kind: str, split: str, holdout: float, better: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        source(kind, tmp_path, members(range(4)), split=split, holdout=holdout)

    (problem,) = caught.value.problems
    assert problem.message == f"`holdout: {holdout}` leaves the part `{split}` empty: none of 4 samples is in it"
    assert dict(problem.notes) == {"or else": f"a {better} `holdout`, or more samples"}
    assert str(problem.where).startswith(str(tmp_path))


@pytest.mark.parametrize("made", [lambda **o: Folder(path="x", **o), lambda **o: WebDataset(shards="x", **o)])
def test_the_held_out_part_of_nothing_is_refused_before_anything_is_opened(made: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"`holdout` is 0: it says what share is held out, such as 0\.05"):
        made(split="held_out")
    with pytest.raises(ValueError, match=r"'holdout' must be < 1\.0"):
        made(holdout=1.0)


@BOTH
def test_inspection_tells_which_part_it_is(kind: str, tmp_path: Path) -> None:
    files = members(range(20))

    found = survey(source(kind, tmp_path, files, split="held_out"), 100)

    assert found.notes == ("split `held_out`: 7 of 20 samples, with `holdout: 0.3`",)
    assert survey(source(kind, tmp_path, files, holdout=0.0), 100).notes == ()


RECIPE = """
recipe: 1
name: held
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
    """An observer that notes what is measured, and what each batch held."""

    def __init__(self) -> None:
        self.bounds: list[float] = []
        self.trained: set[str] = set()

    @hookimpl
    def evaluated(self, run: Any, metrics: Any) -> None:
        self.bounds.append(metrics["elbo"])

    @hookimpl
    def batch_ended(self, run: Any) -> None:
        self.trained.update(run.engine.data.sources["train"].name(index) for index in run.engine.live.samples)


def test_the_best_epoch_is_chosen_on_what_is_never_trained_on_and_a_stop_changes_nothing(
    prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    files = members(range(20))
    source("folder", tmp_path, files | {name: png(len(name), 16) for name in files if name.endswith("png")})
    recipe = prove(RECIPE.replace("PATH", str(tmp_path / "pictures")).encode(), using=load([*PLUGINS, "data"]))
    read = Read()

    run = start(recipe, tmp_path / "whole", [read]).run
    stopped = start(recipe, tmp_path / "often", [StopAfter("batch_ended", 4)]).stopped
    again = start(recipe, tmp_path / "often").run

    assert stopped.run_batch == 4
    held = run.data.sources["val"]
    measured = {held.name(index) for index in range(len(held))}
    assert len(measured) == 7
    assert len(read.trained) == 13
    assert not measured & read.trained
    (best,) = (run.folder.path / "checkpoints").glob("*-best")
    _, meta = store.load(best)
    assert meta["position"]["epoch"] == read.bounds.index(min(read.bounds[:3])) + 1
    assert finals(again) == finals(run)


#: The setting of a held-out part of shards.
VAL = "datasets.val={type: webdataset, shards: PATH, holdout: 0.3, split: held_out}"

SPLITS = st.sampled_from(["train", "held_out", "all"])


@given(mine=st.floats(0.01, 0.99), share=st.floats(0, 0.99), split=SPLITS)
def test_two_parts_are_told_to_overlap_just_where_a_name_can_be_in_both(mine: float, share: float, split: Any) -> None:
    assume(share > 0 or split != "held_out")
    held, trained = Folder("x", holdout=mine, split="held_out"), Folder("./x", holdout=share, split=split)
    chance = mine / 2 if split != "train" else (mine + share) / 2  # where a name would lie, if one were in both

    told = held.overlap("val", "train", trained)

    both = chance < mine and {"train": chance >= share, "held_out": True, "all": True}[split]
    assert (told is not None) == both
    assert evolve(held, split="all").overlap("val", "train", trained) is None


def test_shards_are_not_looked_up_where_nothing_that_is_held_out_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxflow_data.shards.dataset.named", lambda _: pytest.fail("shards were looked up"))
    plain = WebDataset("{00000..99999}.tar")
    held, apart = evolve(plain, holdout=0.1, split="held_out"), evolve(plain, holdout=0.1)

    told = [plain.overlap("val", "train", plain), held.overlap("val", "train", apart)]

    assert told == [None, None]


@pytest.mark.parametrize("path", ["~nouser/x", "a\0b", "a\udfffb"])
def test_of_a_path_that_cannot_be_one_no_overlap_is_told(path: str) -> None:
    folder, shards = Folder(path, holdout=0.1, split="held_out"), WebDataset(path, holdout=0.1, split="held_out")

    told = [
        folder.overlap("val", "train", Folder("x")),
        evolve(folder, path="x").overlap("val", "train", Folder(path)),
        shards.overlap("val", "train", WebDataset("x")),
        evolve(shards, shards="x").overlap("val", "train", WebDataset(path)),
    ]

    assert told == [None] * 4


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], None),
        (["datasets.train.holdout=0.5"], None),
        (["datasets.val.split=all", "datasets.train.holdout=0"], None),
        (["datasets.val.path=elsewhere"], None),
        (["datasets.val.path=PATH/.hidden"], None),
        (["steps.vae.evaluate.val.dataset=train", "datasets.train.holdout=0"], None),
        (["datasets.train.holdout=0.1"], "`train` has `holdout: 0.1`, where `val` has `holdout: 0.3`"),
        (["datasets.train.holdout=0"], "`train` has no `holdout`, where `val` has `holdout: 0.3`"),
        (["datasets.train.split=all"], "`train` has `split: all`, where `val` has `holdout: 0.3`"),
        (
            ["datasets.val.path=PATH/in"],
            "the folder of `val` is within that of `train`, where its pictures have other names",
        ),
        (
            ["datasets.train={type: webdataset, shards: 'a{0..3}.tar'}", VAL.replace("PATH", "['a2.tar']")],
            "`train` has no `holdout`, where `val` has `holdout: 0.3`",
        ),
        (["datasets.train={type: webdataset, shards: 'a{0..3}.tar'}", VAL.replace("PATH", "a4.tar")], None),
        (
            ["datasets.train={type: shapes, split: all}", "datasets.val={type: shapes, split: held_out}"],
            "dataset `val` shows pairs that are held out, and training sees them: `train` is trained on",
        ),
        (["datasets.train={type: shapes}", "datasets.val={type: shapes, split: held_out}"], None),
    ],
)
def test_held_out_samples_that_are_trained_on_are_found_in_the_recipe_alone(
    settings: list[str], expected: str | None, prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    def checked() -> RecipePlan:
        path = str(tmp_path / "pictures")
        return prove(RECIPE.replace("PATH", path), *(setting.replace("PATH", path) for setting in settings))

    if expected is None:
        checked()
        return

    with pytest.raises(RecipeError) as caught:
        checked()

    (problem,) = caught.value.problems
    assert expected in problem.message


def test_both_entries_are_named_with_their_places_through_all_steps_that_led_there_and_no_others(
    prove: Callable[..., RecipePlan], tmp_path: Path
) -> None:
    text = RECIPE.replace("PATH", "pictures").replace("holdout: 0.3}", "holdout: 0.1}")
    measured = text[text.index("    evaluate") :]
    step = text[text.index("  vae:\n") : text.index("    evaluate")]
    last = step.replace("vae:\n", "last:\n    after: vae\n", 1).replace("train\n", "plain\n")
    plain = "  plain: {type: folder, path: pictures, image_size: 16, holdout: 0.3}\nsteps:"
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
        "trained on": f"`train` ({place}:8:17), in step `vae`",
        "measured in": f"evaluation `val` of step `last` ({place}:36:22)",
        "or else": "`holdout: 0.3` in `train`, or `split: all` in `val`, which promises nothing",
    }
