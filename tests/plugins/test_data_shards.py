"""Samples are read from shards by position, in any order and by any process."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_data.captions import CaptionMember
from fluxflow_data.shards.dataset import ShardSource, WebDataset
from fluxflow_data.shards.paths import expand_braces
from fluxflow_registry import DataError, SampleError
from fluxflow_registry.engine.data.batches import epoch_batches
from fluxflow_registry.plan.steps import RecipePlan

from ..small import VAE_GAN
from .shard_files import SIZE, captions_of, open_shards, png, problems_in, sample, with_json, write_shard, write_tar


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXFLOW_HOME", str(tmp_path / "home"))


def images(source: ShardSource, *indices: int, seed: int = 0) -> torch.Tensor:
    image = source.batch(indices, seed)["image"]
    assert isinstance(image, torch.Tensor)
    return image


def test_shards_written_by_webdataset_are_read_as_squares_with_captions(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(3):
            writer.write({"__key__": f"k{number}", "png": png(number), "txt": f" caption\n{number} ", "cls": 7})

    source = open_shards(path, caption_prefix="a photo")

    assert len(source) == 3
    assert captions_of(source) == [f"a photo. caption {number}" for number in range(3)]
    assert images(source, 2, 0).shape == (2, 3, SIZE, SIZE)
    assert images(source, 0).dtype == torch.float32
    assert -1 <= images(source, 0, 1, 2).min() < images(source, 0, 1, 2).max() <= 1
    assert source.name(1) == f"{path}:k1"


def test_an_image_is_the_same_from_a_folder_and_from_a_shard(tmp_path: Path) -> None:
    from fluxflow_data.folder.dataset import Folder

    (tmp_path / "images").mkdir()
    for name, data in {**sample(0), **sample(1)}.items():
        (tmp_path / "images" / name).write_bytes(data)
    options: dict[str, Any] = {"image_size": 5, "flip": 0.5, "caption_prefix": "of"}

    packed = open_shards(write_shard(tmp_path / "a.tar", range(2)), **options)
    loose = Folder(path=str(tmp_path / "images"), **options)()

    for seed in range(4):
        one, other = packed.batch([1, 0], seed), loose.batch([1, 0], seed)
        assert torch.equal(torch.as_tensor(one["image"]), torch.as_tensor(other["image"]))
        assert one["caption"] == other["caption"]


def test_a_sample_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{n}.tar", range(5 * n, 5 * n + 5)) for n in range(3)]
    source = open_shards(*paths, flip=0.5)

    whole = images(source, *range(15), seed=3)

    assert captions_of(source) == [f"image {number}" for number in range(15)]
    for index in (14, 0, 7, 5, 4, 10):
        assert torch.equal(images(source, index, seed=3)[0], whole[index])
    with pytest.raises(IndexError, match="sample 15 does not exist: the dataset has 15"):
        source.name(15)


@given(names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=300), unique=True, min_size=1))
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_a_member_name_is_never_used_as_a_path(
    form: int, names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("names")
    keys = [f"../{number}/{name.replace('.', '_').replace('/', '')}k" for number, name in enumerate(names)]
    keys += ["/etc/passwd", "../../up", "a/../../b", "C:\\x", "\u00e9" * 90, "l" * 250]
    if form == tarfile.GNU_FORMAT:  # whose names end at the first NUL
        keys = [key.replace("\0", "") for key in keys]
    else:  # pax keeps a name that is not ASCII beside the header, and every other one in it, like the GNU form
        keys = [key.replace("\0", "") if key.isascii() else key for key in keys]
    path = write_tar(folder / "a.tar", {n: d for i, key in enumerate(keys) for n, d in sample(i, key).items()}, form)
    before = sorted(folder.rglob("*"))

    source = open_shards(path)

    assert [source._table.shards[0].index.key(number) for number in range(len(source))] == keys
    assert captions_of(source) == [f"image {number}" for number in range(len(keys))]
    assert all(source.name(index).isprintable() for index in range(len(keys)))
    assert sorted(folder.rglob("*")) == before


def test_extensions_match_in_any_case_and_the_first_in_image_key_is_read(tmp_path: Path) -> None:
    members = {"a.PNG": png(0), "a.TXT": b"first", "b.webp": b"", "b.seg.png": b"", "b.png": png(1), "b.txt": b"second"}
    path = write_tar(
        tmp_path / "a.tar", members | {"README": b"not a sample", "d/.hidden.png": b"not a sample", "n.txt/": b""}
    )

    source = open_shards(path, image_key=".jpg; png;webp")

    assert captions_of(source) == ["first", "second"]
    assert torch.equal(images(source, 1), images(open_shards(write_shard(tmp_path / "b.tar", [1])), 0))


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_samples_after_nine_gibibytes_are_found(form: Literal[1, 2], tmp_path: Path) -> None:
    path, huge = tmp_path / "a.tar", tarfile.TarInfo("0000.huge")
    huge.size = 9 << 30
    with open(path, "wb") as stream:  # with a hole in it: it takes little space
        stream.write(huge.tobuf(form))
        stream.seek(huge.size, os.SEEK_CUR)
        stream.write(write_shard(tmp_path / "b.tar", range(2)).read_bytes())

    source = open_shards(path)

    assert path.stat().st_size > 9 << 30
    assert captions_of(source) == ["image 0", "image 1"]


def test_folders_in_a_tar_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, data in sample(0).items():
        (tmp_path / "in" / "deep" / name).write_bytes(data)
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "in", "./in")

    assert open_shards(path).name(0) == f"{path}:./in/deep/0000"


@pytest.mark.parametrize(
    ("key", "caption"),
    [("json.caption", "a cat"), ("JSON.deep.Er", "a dog"), (".json.caption", "a cat")],
)
def test_a_caption_may_be_in_a_json_member(key: str, caption: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", with_json(0, {"caption": " a\ncat ", "deep": {"Er": "a dog"}}))

    assert captions_of(open_shards(path, caption_key=key)) == [caption]


@pytest.mark.parametrize(("label", "key"), [("json", "caption"), (".JSON", "deep.Er"), ("meta.json", "caption")])
def test_the_json_member_and_the_key_in_it_may_be_separate_options(label: str, key: str, tmp_path: Path) -> None:
    content = {"caption": "a cat", "deep": {"Er": "a cat"}}
    members = with_json(0, content)
    if label == "meta.json":
        members = {name.replace(".json", ".meta.json"): data for name, data in members.items()}

    source = open_shards(write_tar(tmp_path / "a.tar", members), label_key=label, caption_key=key)

    assert captions_of(source) == ["a cat"]
    assert source.digest == open_shards(tmp_path / "a.tar", caption_key=f"{label.strip('.')}.{key}").digest


@pytest.mark.parametrize(
    ("key", "expected"),
    [("txt", ("txt", ())), ("a.Json.b.C", ("a.json", ("b", "C"))), ("caption.TXT", ("caption.txt", ()))],
)
def test_a_caption_key_is_an_extension_and_the_keys_of_a_json(key: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert CaptionMember.parse(key) == CaptionMember(*expected)


def damaged(tmp_path: Path, key: str, members: dict[str, bytes]) -> dict[int, str]:
    """The message about each damaged sample, between two sound ones."""
    ends = [with_json(9, {"caption": "x"}) if key != "txt" else sample(9) for _ in range(2)]
    first = {f"0{name}": data for name, data in ends[0].items()}
    path = write_tar(tmp_path / "a.tar", first | members | ends[1])
    source = open_shards(path, caption_key=key)
    with pytest.raises(SampleError) as caught:
        source.batch(range(len(source)), 0)
    problems = caught.value.samples
    assert all(f"{problem.where}:{problem.subject}" == source.name(index) for index, problem in problems.items())
    return {index: problem.message for index, problem in problems.items()}


def test_all_damaged_samples_of_a_batch_are_reported_by_shard_and_key(tmp_path: Path) -> None:
    members = {
        **sample(1, png=png(1)[:90]),
        **sample(2, png=b"not an image"),
        **sample(3, png=b""),
        **sample(4, txt=b"\xff\xfea"),
        **sample(5, txt="été".encode("latin-1")),
        **sample(6, txt=b" \n"),
        **sample(7, png=b"", txt=b""),
    }

    messages = damaged(tmp_path, "txt", members)

    assert messages.pop(1).startswith("the image of sample `0001` is damaged: ")
    assert messages == {
        2: "the image of sample `0002` is not an image in a supported format",
        3: "the image of sample `0003` is empty (0 bytes)",
        4: "member `txt` of sample `0004` is UTF-16: save it as UTF-8",
        5: "member `txt` of sample `0005` is not UTF-8 (first invalid byte: 1)",
        6: "the caption of sample `0006` is empty",
        7: "the image of sample `0007` is empty (0 bytes)",
    }


def test_a_json_member_without_the_caption_is_reported_with_its_keys(tmp_path: Path) -> None:
    values: list[Any] = [
        {"text": "x", "width": 3},
        {"a": {}},
        {"a": 3},
        {"a": {"b": 7}},
        {"a": {"b": ""}},
        [1],
        {"\ud800": 1},
    ]
    values.append({"a": {"b": "half of \udc00"}})
    members = {n: d for i, value in enumerate(values) for n, d in with_json(i, value).items()}
    members |= {"8.png": png(6), "8.json": b"{" * 100_000, "9.png": png(7), "9.json": b""}
    ends = {"a.png": png(0), "a.json": b'{"a": {"b": "sound"}}'}
    source = open_shards(write_tar(tmp_path / "a.tar", ends | members), caption_key="json.a.b")

    with pytest.raises(SampleError) as caught:
        source.batch(range(len(source)), 0)

    problems = list(caught.value.samples.values())
    assert [problem.subject for problem in problems] == [*(f"{number:04}" for number in range(8)), "8", "9"]
    assert [str(problem.message).replace(f" of sample `{problem.subject}`", "") for problem in problems] == [
        "member `json` has no key `a`, only text, width",
        "member `json` has no key `a.b`",
        "member `json` has no key `a.b`",
        "member `json` has no string under `a.b`",
        "the caption is empty",
        "member `json` has no key `a`",
        "member `json` has no key `a`, only \ud800",
        "member `json` has an unpaired surrogate under `a.b`",
        "member `json` is not JSON",
        "member `json` is empty (0 bytes)",
    ]
    assert {problem.code for problem in problems} == {"damaged-sample", "missing-caption"}


@pytest.mark.parametrize("how", [os.unlink, lambda path: os.truncate(path, 2048), lambda path: os.utime(path, (1, 1))])
def test_a_shard_that_is_removed_or_changed_after_opening_is_refused_by_name(
    how: Callable[[Path], None], tmp_path: Path
) -> None:
    path = write_shard(tmp_path / "a.tar", range(4))
    source = open_shards(path)
    how(path)

    with pytest.raises(DataError, match=r"shard `a\.tar` (no longer exists|has changed since)") as caught:
        source.batch([2], 0)

    assert not isinstance(caught.value, SampleError)


def test_a_shard_that_shrinks_while_it_is_read_is_refused_by_name(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", range(4))
    source = open_shards(path)
    source.batch([0], 0)
    os.truncate(path, 2048)

    with pytest.raises(DataError, match=r"shard `a\.tar` has changed since the dataset was opened"):
        source.batch([3], 0)


def test_more_shards_are_read_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxflow_data.shards.reader.OPEN", 2)
    source = open_shards(*[write_shard(tmp_path / f"{n}.tar", [n]) for n in range(5)])
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        assert captions_of(source) == [f"image {number}" for number in range(5)]

    assert len(os.listdir("/proc/self/fd")) == before + 2
    del source
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_process_reads_the_same_from_a_copy(tmp_path: Path) -> None:
    source = open_shards(write_shard(tmp_path / "a.tar", range(4)), flip=0.5)
    before = images(source, 3, 1, seed=5)

    copy = pickle.loads(pickle.dumps(source))

    assert source._reader._open
    assert not copy._reader._open
    assert torch.equal(images(copy, 3, 1, seed=5), before)
    assert (copy.digest, copy.name(3)) == (source.digest, source.name(3))


def order(source: ShardSource, workers: int) -> tuple[list[str], list[Any]]:
    """The captions of an epoch, and what was replaced."""
    batches = list(epoch_batches(source, 4, len(source) // 4, 0, workers, ("vae", 1)))
    return [c for batch in batches for c in batch.fields["caption"]], [r for batch in batches for r in batch.replaced]


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers_reads_the_same_samples(workers: int, tmp_path: Path) -> None:
    paths = [write_shard(tmp_path / f"{n}.tar", range(6 * n, 6 * n + 6)) for n in range(4)]
    source = open_shards(*paths)

    alone = order(source, 0)

    assert sorted(alone[0]) == sorted(f"image {number}" for number in range(24))
    assert order(source, workers) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_replaced_by_the_next_in_the_order(workers: int, tmp_path: Path) -> None:
    members = {name: data for number in range(12) for name, data in sample(number).items()}
    sound = open_shards(write_tar(tmp_path / "sound.tar", members))
    bad = open_shards(write_tar(tmp_path / "bad.tar", members | {"0005.png": b"not an image"}))

    expected, _ = order(sound, 0)
    captions, replaced = order(bad, workers)

    place = expected.index("image 5")
    after = expected[(place + 1) % 12]
    assert captions == [after if caption == "image 5" else caption for caption in expected]
    assert [(r.index, f"image {r.substitute}", str(r.problem.where), r.problem.subject) for r in replaced] == [
        (5, after, f"{tmp_path}/bad.tar", "0005")
    ]


def test_a_recipe_trains_with_shards(prove: Callable[..., RecipePlan], tmp_path: Path) -> None:
    from ..engine.conftest import start

    for number in range(2):
        write_shard(tmp_path / f"{number}.tar", range(6 * number, 6 * number + 6))
    dataset = f"{{type: webdataset, shards: '{tmp_path}/{{0..1}}.tar', image_size: 16}}"

    recipe = prove(VAE_GAN, f"datasets.shapes={dataset}", "steps.vae_gan.epochs=1", "observers={console: false}")
    done = start(recipe, tmp_path / "runs")

    assert done.stopped is None
    assert len(done.run.data.sources["shapes"]) == 12


@pytest.mark.parametrize(
    ("entry", "paths"),
    [
        ("a.tar", ["a.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{a,b}-{0..1}", ["a-0", "a-1", "b-0", "b-1"]),
        ("{x}{}", ["{x}{}"]),
        ("{9..010}", ["009", "010"]),
    ],
)
def test_braces_stand_for_ranges_and_lists(entry: str, paths: list[str]) -> None:
    assert list(expand_braces(entry)) == paths


def members_of(count: int, **flawed: dict[str, bytes]) -> dict[str, bytes]:
    """The members of so many samples, and further ones by key."""
    members = {name: data for number in range(count) for name, data in sample(number).items()}
    return members | {f"{key}.{part}": data for key, parts in flawed.items() for part, data in parts.items()}


#: Members of one sample that cannot be used, and the problem with it.
FLAWS: dict[str, tuple[dict[str, bytes], str]] = {
    "no caption": ({"png": png(7)}, "sample `x` has no caption: expected a member `txt`"),
    "a class instead": ({"png": png(7), "cls": b"3"}, "sample `x` has no caption: expected a member `txt`"),
    "no image": ({"txt": b"x"}, "sample `x` has no image: expected a member `jpg` or `jpeg` or `png` or `webp`"),
    "another image": (
        {"tif": png(7), "txt": b"x"},
        "sample `x` has no image: expected a member `jpg` or `jpeg` or `png` or `webp`",
    ),
    "two captions": (
        {"png": png(7), "txt": b"x", "TXT": b"y"},
        "sample `x` has two members `txt`: at byte 205824 and at byte 206848",
    ),
}


@pytest.mark.parametrize("kind", FLAWS)
def test_a_sample_that_is_incomplete_is_left_out_and_reported(kind: str, tmp_path: Path) -> None:
    parts, message = FLAWS[kind]
    paths = [write_tar(tmp_path / "a.tar", members_of(100, x=parts)), write_shard(tmp_path / "b.tar", range(200, 299))]

    sources = [open_shards(*paths) for _ in range(2)]  # the second reads the kept index

    for source in sources:
        assert captions_of(source) == [f"image {number}" for number in (*range(100), *range(200, 299))]
        assert [(problem.message, str(problem.where)) for problem in source.left_out] == [(message, str(paths[0]))]


@pytest.mark.parametrize("kind", FLAWS)
def test_too_many_incomplete_samples_are_refused_with_a_hint(kind: str, tmp_path: Path) -> None:
    parts, message = FLAWS[kind]
    path = write_tar(tmp_path / "a.tar", members_of(100, x=parts, y=parts))

    problems = problems_in(path)
    source = open_shards(path, damaged_at_most=0.02)

    assert problems[0].message == message
    hint = "set `damaged_at_most: 0.02` to leave out these samples (2 of 102)"
    assert [dict(problem.notes).get("hint") for problem in problems] == [hint, None]
    assert (len(source), len(source.left_out)) == (100, 2)


def test_each_incomplete_sample_is_reported_in_its_split(tmp_path: Path) -> None:
    flawed = {f"x{number}": {"png": png(7)} for number in range(20)}
    path = write_tar(tmp_path / "a.tar", members_of(20, **flawed))

    parts = [
        open_shards(path, damaged_at_most=0.5, holdout=0.5, split=split).left_out for split in ("train", "held_out")
    ]

    names = [{problem.subject for problem in part} for part in parts]
    assert names[0] | names[1] == set(flawed)
    assert all(names)
    assert names[0].isdisjoint(names[1])


def test_shards_without_any_caption_suggest_how_to_use_them(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": png(0), "a.cls": b"0", "b.png": png(1), "b.cls": b"1"})

    first, _ = problems_in(path, damaged_at_most=1.0)

    assert dict(first.notes) == {
        "received": "members cls, png",
        "hint": "set `caption_key` to the extension of the captions, or `uncaptioned: true` if no captions are needed",
    }


@pytest.mark.parametrize("bucketed", [None, 4])
def test_an_autoencoder_needs_no_captions(bucketed: int | None, tmp_path: Path) -> None:
    members = {"a.png": png(0), "b.png": png(1), "b.txt": b" \n", "c.png": png(2), "c.cls": b"7", **sample(3)}
    path = write_tar(tmp_path / "a.tar", members)

    options: dict[str, Any] = {"uncaptioned": True, "damaged_at_most": 0.0, "bucket_multiple": bucketed}
    source = open_shards(path, **options)
    again = open_shards(path, **options)

    assert captions_of(source) == captions_of(again) == ["", "", "", "image 3"]
    assert captions_of(open_shards(path, caption_prefix="a photo", **options)) == ["a photo"] * 3 + ["a photo. image 3"]
    complete = write_tar(tmp_path / "b.tar", sample(3))
    assert open_shards(complete).digest != open_shards(complete, uncaptioned=True).digest


def test_a_class_is_a_caption_by_its_number_or_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(3):
            writer.write({"__key__": f"k{number}", "png": png(number), "cls": 2 - number})
    (tmp_path / "names.txt").write_text("a cat\na  dog\r\na bird\n")

    named = open_shards(path, caption_key="cls", class_names=str(tmp_path / "names.txt"))
    numbered = open_shards(path, caption_key="cls")

    assert captions_of(numbered) == ["2", "1", "0"]
    assert captions_of(named) == ["a bird", "a dog", "a cat"]
    assert captions_of(pickle.loads(pickle.dumps(named))) == ["a bird", "a dog", "a cat"]
    assert named.digest != numbered.digest


@pytest.mark.parametrize("content", ["3", "-1", "cat", "1.5", "\u0661", "9" * 5000, ""])
def test_a_class_without_a_name_is_a_damaged_sample(content: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": png(0), "a.cls": content.encode()})
    (tmp_path / "names.txt").write_text("a cat\na dog\na bird\n")
    source = open_shards(path, caption_key="cls", class_names=str(tmp_path / "names.txt"))

    with pytest.raises(SampleError) as caught:
        source.batch([0], 0)

    (problem,) = caught.value.problems
    empty, wrong = (
        "the caption of sample `a` is empty",
        "member `cls` of sample `a` is not the number of a class, 0 to 2",
    )
    assert problem.message == (wrong if content else empty)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "class names file `names.txt` does not exist"),
        (b"", "class names file `names.txt` is empty"),
        (b"\xff\xfea", "class names file `names.txt` is UTF-16: save it as UTF-8"),
        (b"caf\xe9", "class names file `names.txt` is not UTF-8 (first invalid byte: 4)"),
    ],
)
def test_class_names_that_cannot_be_read_are_reported(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.png": png(0), "a.cls": b"0"})
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)

    (problem,) = problems_in(path, caption_key="cls", class_names=str(tmp_path / "names.txt"))

    assert problem.message == message


#: The extensions of members by key, and the keys of the samples: with dots in names.
DOTTED: dict[str, tuple[list[str], list[str]]] = {
    "numbers": (["a.1.png", "a.1.txt", "a.2.png", "a.2.txt"], ["a.1", "a.2"]),
    "versions": (["photo.v1.0.PNG", "photo.v1.0.txt"], ["photo.v1.0"]),
    "upper case": (["A.Big.png", "A.Big.txt"], ["A.Big"]),
    "in folders": (["v1.0/a.5.png", "v1.0/a.5.txt"], ["v1.0/a.5"]),
    "an original beside": (["a.png", "a.txt", "a.mask.png", "a.mask.txt"], ["a"]),
    "some": (["a.1.png", "a.1.txt", "b.png", "b.txt", "a.2.png", "a.2.txt"], ["a.1", "b", "a.2"]),
    "further members": (["a.1.png", "a.1.txt", "a.1.json", "a.md5"], ["a.1"]),
}


@pytest.mark.parametrize("kind", DOTTED)
def test_names_with_dots_are_found(kind: str, tmp_path: Path) -> None:
    names, keys = DOTTED[kind]
    members = {name: png(0) if name.lower().endswith("png") else name.encode() for name in names}

    source = open_shards(write_tar(tmp_path / "a.tar", members), damaged_at_most=0.5)

    assert [source.name(index).partition(".tar:")[2] for index in range(len(source))] == keys
    assert captions_of(source) == [f"{key}.txt" for key in keys]


def test_a_folder_and_a_shard_with_dots_hold_the_same_samples_out(tmp_path: Path) -> None:
    from fluxflow_data.folder.dataset import Folder

    members = {f"a.{n}.{part}": png(n) if part == "png" else b"x" for n in range(30) for part in ("png", "txt")}
    (tmp_path / "images").mkdir()
    for name, data in members.items():
        (tmp_path / "images" / name).write_bytes(data)

    options: dict[str, Any] = {"holdout": 0.4, "split": "held_out", "image_size": SIZE}
    packed = open_shards(write_tar(tmp_path / "a.tar", members), **options)
    loose = Folder(path=str(tmp_path / "images"), **options)()

    assert {Path(loose.name(index)).stem for index in range(len(loose))} == {
        packed.name(index).partition(".tar:")[2] for index in range(len(packed))
    }


def test_wildcards_match_in_the_order_of_names_and_lists_in_their_own(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_shard(tmp_path / f"{number}.tar", [number])
    write_shard(tmp_path / "[x]*.tar", [7])

    assert captions_of(open_shards(tmp_path / "[0-9].tar")) == ["image 0", "image 1", "image 2"]
    assert captions_of(open_shards(tmp_path / "2.tar", tmp_path / "{0..1}.tar")) == ["image 2", "image 0", "image 1"]
    assert captions_of(open_shards(tmp_path / "[x]*.tar")) == ["image 7"]


def test_one_string_means_the_same_as_a_list(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", [3])

    assert captions_of(WebDataset(shards=str(path), image_size=SIZE)()) == ["image 3"]
