"""Captions files as people have them say which images of a folder are used, and what each shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fluxflow_data.folder.captions_file import CAPTION_KEYS, NAME_KEYS
from fluxflow_data.folder.dataset import Folder, FolderSource
from fluxflow_registry import DataError

from .test_data_folder_problems import problems_in


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with five images and no captions."""
    folder = tmp_path / "images"
    (folder / "inner").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.png", "inner/d.png", "café.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def opened(images: Path, *tables: Path, **options: Any) -> FolderSource:
    captions: Any = str(tables[0]) if len(tables) == 1 else [str(table) for table in tables]
    return Folder(path=str(images), captions=captions, image_size=8, **options)()


def samples(source: FolderSource) -> list[tuple[str, str]]:
    """The names of the images with their captions, in order."""
    captions = source.batch(range(len(source)), 0)["caption"]
    return [(Path(source.name(index)).name, str(caption)) for index, caption in enumerate(captions)]


def lines(*rows: Any) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


#: The same two captions in every form, by the name of the file.
FORMS = {
    "tabs.txt": "a.png\ta cat, asleep\nc.png\ta dog\n",
    "header.tsv": "caption\tfile_name\na cat, asleep\ta.png\na dog\tc.png\n",
    "windows.tsv": "a.png\ta cat, asleep\r\nc.png\ta dog\r\n",
    "quoted.csv": 'file_name,text\na.png,"a cat, asleep"\nc.png,a dog\n',
    "unquoted.csv": "image,caption\na.png,a cat, asleep\nc.png,a dog\n",
    "plain.csv": 'a.png,"a cat, asleep"\nc.png,a dog\n',
    "others.csv": ',id,File Name,width,Prompt\n0,7,a.png,8,"a cat, asleep"\n1,8,c.png,8,a dog\n',
    "semicolons.csv": "file;text\na.png;a cat, asleep\nc.png;a dog\n",
    "flickr.txt": 'image,caption\na.png,"a cat, asleep"\nc.png,a dog\n',
    "flickr.csv": "image_name| comment_number| comment\na.png| 0| a cat, asleep\nc.png| 0| a dog\n",
    "signed.csv": '\ufefffile_name,text\na.png,"a cat, asleep"\nc.png,a dog\n',
    "broken.csv": 'file_name,text\n"a.png","a cat,\nasleep"\n\nc.png,a dog\n',
    "metadata.jsonl": lines(
        {"file_name": "a.png", "text": "a cat, asleep", "width": 8}, {"file_name": "c.png", "text": "a dog"}
    ),
    "other.ndjson": lines({"image": "a.png", "caption": "a cat, asleep"}, {"Path": "c.png", "Prompt": "a dog"}),
    "list.json": json.dumps([{"image": "a.png", "caption": "a cat, asleep"}, {"image": "c.png", "caption": "a dog"}]),
    "mapping.json": json.dumps({"a.png": "a cat, asleep", "c.png": {"caption": "a dog", "tags": "dog"}}),
    "lines.json": lines({"file": "a.png", "text": "a cat, asleep"}, {"file": "c.png", "text": "a dog"}),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("inside", [True, False], ids=["in the folder", "elsewhere"])
def test_every_form_says_which_images_are_used(name: str, inside: bool, images: Path, tmp_path: Path) -> None:
    table = (images if inside else tmp_path) / name
    table.write_bytes(FORMS[name].encode())

    source = opened(images, table)

    assert samples(source) == [("a.png", "a cat, asleep"), ("c.png", "a dog")]
    assert source.left_out == []
    assert source.notes == [f"skipped 3 images of the folder that `{name}` does not name"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("inner//d.png", "d.png"),
        ("inner\\d.png", "d.png"),
        ("images/a.png", "a.png"),
        ("images/inner/d.png", "d.png"),
        ("other/../images/a.png", "a.png"),
        ("{images}/inner/d.png", "d.png"),
        ("b", "b.jpg"),
        ("inner/d", "d.png"),
        ("cafe\u0301.png", "café.png"),
        ("cafe\u0301", "café.png"),
    ],
)
def test_an_image_is_found_however_its_name_is_written(written: str, name: str, images: Path, tmp_path: Path) -> None:
    table = tmp_path / "captions.jsonl"
    table.write_text(lines({"file_name": written.format(images=images), "text": "a cat"}))

    assert samples(opened(images, table)) == [(name, "a cat")]


def test_an_image_has_a_sample_for_each_of_its_captions_in_all_files(images: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tsv", tmp_path / "2.jsonl"
    first.write_text("c.png\tone\na.png\ttwo\nc.png\tthree\nc.png\tone\n")
    second.write_text(lines({"file_name": "a.png", "captions": ["four", "two", "five"]}))

    source = opened(images, first, second)

    assert samples(source) == [
        ("a.png", "two"),
        ("a.png", "four"),
        ("a.png", "five"),
        ("c.png", "one"),
        ("c.png", "three"),
    ]
    assert source.sizes().tolist() == [[8, 8]] * 5
    assert len({opened(images, first).digest, source.digest, opened(images, second, first).digest}) == 3
    assert source.notes == ["skipped 3 images of the folder that no captions file names"]


def test_an_image_is_held_out_with_all_of_its_captions(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "1.tsv"
    names = ("a.png", "b.jpg", "c.png", "inner/d.png", "café.png")
    table.write_text("".join(f"{name}\tcaption {number}\n" for name in names for number in range(3)))

    parts = [
        {name for name, _ in samples(opened(images, table, holdout=0.5, split=split))}
        for split in ("train", "held_out")
    ]

    assert parts[0] & parts[1] == set()
    assert len(parts[0] | parts[1]) == 5


def test_an_image_that_is_not_named_is_not_even_looked_at(images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"not an image")
    table = tmp_path / "1.tsv"
    table.write_text("a.png\ta cat\n")

    source = opened(images, table, damaged_at_most=0.0)

    assert samples(source) == [("a.png", "a cat")]


#: What is wrong with one line of two, by the file's name: the lines, and the message.
FLAWS = {
    "a.csv": ("file_name,text\na.png\nc.png,a dog\n", "line 2 of `a.csv` has no caption"),
    "b.csv": ("file_name,text\n,a cat\nc.png,a dog\n", "line 2 of `b.csv` has no image name"),
    "c.csv": (
        "text,file_name\na cat, asleep,a.png\na dog,c.png\n",
        "line 2 of `c.csv` has 3 cells, but there are 2 columns",
    ),
    "d.csv": ("file_name,text\na.png,\udcff\nc.png,a dog\n", "line 2 of `d.csv` is not UTF-8"),
    "e.csv": (
        'file_name,text\nc.png,a dog\na.png,"a cat\n',
        "line 3 of `e.csv` cannot be read: unexpected end of data",
    ),
    "f.jsonl": ('{"file_name": "c.png", "text": "a dog"}\n{"file_name": \n', "line 2 of `f.jsonl` is not JSON"),
    "g.jsonl": ('{"file_name": "c.png", "text": "a dog"}\n[1]\n', "line 2 of `g.jsonl` is not a mapping"),
    "h.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"text": "a cat"}\n',
        "line 2 of `h.jsonl` has no image name: expected a key such as `file_name`",
    ),
    "i.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": 7}\n',
        "line 2 of `i.jsonl` has a caption that is not text",
    ),
    "i2.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": null}\n',
        "line 2 of `i2.jsonl` has a caption that is not text",
    ),
    "i3.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": ["a cat", 7]}\n',
        "line 2 of `i3.jsonl` has a caption that is not text",
    ),
    "i4.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": 7, "text": "a cat"}\n',
        "line 2 of `i4.jsonl` has an image name that is not text",
    ),
    "i5.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": " ", "text": "a cat"}\n',
        "line 2 of `i5.jsonl` has an image name that is empty",
    ),
    "i6.json": ('{"c.png": "a dog", "a.png": null}', "an entry of `i6.json` has a caption that is not text"),
    "i7.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "size": 7}\n',
        "line 2 of `i7.jsonl` has no caption: expected a key such as `caption`",
    ),
    "j.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": "\\ud800"}\n',
        "line 2 of `j.jsonl` has an unpaired surrogate",
    ),
    "k.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": "\udcff"}\n',
        "line 2 of `k.jsonl` is not UTF-8 (first invalid byte: 33)",
    ),
    "l.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n' + "[" * 200_000 + "\n",
        "line 2 of `l.jsonl` is not JSON",
    ),
    "m.json": ('[{"image": "c.png", "caption": "a dog"}, 7]', "an entry of `m.json` is not a mapping"),
    "n.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "a.png", "text": ""}\n',
        "the caption of image `a.png` is empty",
    ),
    "o.tsv": ("c.png\ta dog\n../a.png\ta cat\n", "image `../a.png` is outside the folder"),
    "p.jsonl": (
        '{"file_name": "c.png", "text": "a dog"}\n{"file_name": "aa.png", "text": "a cat"}\n',
        "image `aa.png` does not exist in the folder",
    ),
}


@pytest.mark.parametrize("name", FLAWS)
def test_a_bad_line_is_reported_with_its_number_and_the_others_are_used(
    name: str, images: Path, tmp_path: Path
) -> None:
    table = tmp_path / name
    content, message = FLAWS[name]
    table.write_bytes(content.encode("utf-8", "surrogateescape"))

    source = opened(images, table, damaged_at_most=0.5)

    assert samples(source) == [("c.png", "a dog")]
    assert [problem.message for problem in source.left_out] == [message]
    assert messages_of(images, table) == [message]


def messages_of(images: Path, table: Path) -> list[str]:
    return [problem.message for problem in problems_in(images, captions=str(table)).values()]


def test_lines_that_an_open_quote_swallows_are_counted(images: Path, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    rows = "".join(f"c.png,dog {number}\n" for number in range(50))
    table.write_text(f'file_name,text\na.png,fine\na.png,"open\n{rows}')

    with pytest.raises(DataError) as caught:
        opened(images, table, damaged_at_most=0.5)

    assert len(caught.value.problems) == 51


@pytest.mark.parametrize(
    ("name", "content", "first"),
    [
        ("a.txt", "a.png a cat\n" * 7572, "line 1 of `a.txt` has no tab between name and caption"),
        ("a.csv", "7,link\n" + "1,x.png\n" * 300, "image `7` does not exist in the folder"),
        ("a.jsonl", '{"url": "x", "text": "a cat"}\n' * 300, "line 1 of `a.jsonl` has no image name"),
        ("a.tsv", "elsewhere/a.jpeg\ta cat\n" * 300, "image `elsewhere/a.jpeg` does not exist in the folder"),
        ("a.json", '{"images": [], "annotations": []}', "the caption of image `images` is empty"),
    ],
)
def test_a_file_without_any_usable_line_is_one_problem(
    name: str, content: str, first: str, images: Path, tmp_path: Path
) -> None:
    table = tmp_path / name
    table.write_text(content)

    (problem,) = problems_in(images, captions=str(table), damaged_at_most=1.0).values()

    assert problem.message == f"captions file `{name}` describes no image of the folder"
    notes = dict(problem.notes)
    assert notes["cause"].startswith(first)
    assert notes["hint"].startswith("write lines `name<TAB>caption`, CSV or JSON lines with the keys")


NO_NAMES, NO_CAPTIONS = "image names", "captions"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
@pytest.mark.parametrize("separator", ["\t", ",", ";", "|"])
@pytest.mark.parametrize(
    ("header", "missing"),
    [
        (["filename", "score", "label"], [NO_CAPTIONS]),
        (["id", "text"], [NO_NAMES]),
        (["", "File Name", "long title"], [NO_CAPTIONS]),
        (["picture", "words"], [NO_NAMES, NO_CAPTIONS]),
        (["Bild", "Beschreibung", "Größe_2"], [NO_NAMES, NO_CAPTIONS]),
        (['"picture"', '"words"'], [NO_NAMES, NO_CAPTIONS]),
    ],
    ids=" ".join,
)
def test_a_header_without_a_known_column_is_an_error_that_names_its_columns(
    header: list[str], missing: list[str], separator: str, suffix: str, images: Path, tmp_path: Path
) -> None:
    rows = [header, *(["a.png", "0.5", "a cat"][: len(header)] for _ in range(300))]
    table = tmp_path / f"a.{suffix}"
    table.write_text("\n".join(map(separator.join, rows)), encoding="utf-8")

    (problem,) = problems_in(images, captions=str(table), damaged_at_most=1.0).values()

    assert problem.message == f"the header of captions file `{table.name}` has no known column of " + " or of ".join(
        missing
    )
    notes = dict(problem.notes)
    columns = [cell.strip('"').lower().replace(" ", "_") for cell in header if cell]
    assert notes["received"] == f"the columns {', '.join(columns)}"
    keys = {NO_NAMES: NAME_KEYS, NO_CAPTIONS: CAPTION_KEYS}
    assert notes["hint"] == "; ".join(f"name the column of {what} one of {', '.join(keys[what])}" for what in missing)


@pytest.mark.parametrize("first", ["a\tcat", "d\tcaption", "image\ta cat", "a.png\ttext", "a\tcat\tdog"])
def test_a_first_line_that_is_not_a_header_is_a_line_as_any_other(first: str, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "image.png")
    Image.new("RGB", (8, 8)).save(images / "d.png")
    (tmp_path / "a.tsv").write_text(f"{first}\nc.png\ta dog\n")

    assert len(opened(images, tmp_path / "a.tsv")) == 2


def test_the_page_of_recipes_lists_every_name_of_a_column() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8").split())

    for keys in (NAME_KEYS, CAPTION_KEYS):
        assert ", ".join(f"`{key}`" for key in keys) in page


@pytest.mark.parametrize("content", ["", "\n\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_an_empty_captions_file_is_reported(name: str, content: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)

    assert messages_of(images, tmp_path / name) == [f"captions file `{name}` is empty"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "file_name,text\n"), ("a.tsv", "image\tcaption"), ("a.txt", "file;text\n\n"), ("a.json", "[]")],
)
def test_a_captions_file_with_a_header_only_is_not_called_empty(
    name: str, content: str, images: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)

    assert messages_of(images, tmp_path / name) == [
        f"captions file `{name}` has a header only, or an empty list: it describes no image"
    ]


def test_a_mapping_whose_caption_is_not_text_is_one_entry(images: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"image": "a.png", "caption": 5}')

    (problem,) = problems_in(images, captions=str(tmp_path / "a.json")).values()

    assert problem.message == "an entry of `a.json` has a caption that is not text"
    assert dict(problem.notes)["received"] == "`caption`: 5"


@pytest.mark.parametrize("name", ["b", "images/b", "b "])
def test_a_name_without_suffix_that_several_images_have_is_ambiguous(name: str, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(images / "b.png")
    (tmp_path / "a.tsv").write_text(f"{name}\ta cat\nc\ta dog\n")

    (problem,) = problems_in(images, captions=str(tmp_path / "a.tsv")).values()

    assert problem.message == f"image `{name.strip()}` is ambiguous: the folder has `b.jpg` and `b.png`"
    assert ("hint", "write the name with its suffix") in problem.notes


def test_the_second_of_two_captions_beside_an_image_is_reported_as_ignored(images: Path) -> None:
    for name in ("a", "b", "c", "inner/d", "café"):
        (images / f"{name}.txt").write_text(f"about {name}")
    (images / "a.caption").write_text("other words")

    source = Folder(path=str(images), image_size=8)()

    assert samples(source)[0] == ("a.png", "about a")
    assert source.notes == ["ignored 1 caption beside another one of the same image: `a.caption`"]


@pytest.mark.parametrize("captions", ["", [], ["a.tsv", ""]])
def test_a_captions_file_needs_a_name(captions: Any) -> None:
    with pytest.raises(ValueError, match="`captions` names no file: write the path of one, a list of paths, or null"):
        Folder(path="x", captions=captions)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from(["txt", "csv", "tsv", "json", "jsonl"]))
def test_a_captions_file_of_any_bytes_is_read_or_refused(
    content: bytes, suffix: str, images: Path, tmp_path: Path
) -> None:
    table = tmp_path / f"any.{suffix}"
    table.write_bytes(content)

    with pytest.raises(DataError) as caught:
        opened(images, table)

    assert caught.value.problems


@pytest.mark.parametrize("suffix", ["txt", "TXT", "caption"])
def test_a_caption_beside_an_image_has_either_suffix(suffix: str, images: Path) -> None:
    for name in ("a", "b", "c", "inner/d", "café"):
        (images / f"{name}.{suffix}").write_text(f"about {name}")
    (images / "a.txt").write_text("first")

    source = Folder(path=str(images), image_size=8)()

    assert samples(source)[0] == ("a.png", "first")
    assert samples(source)[1] == ("b.jpg", "about b")
    second = [] if suffix == "txt" else [f"ignored 1 caption beside another one of the same image: `a.{suffix}`"]
    assert source.notes == second


@pytest.mark.parametrize("content", ["", " \n", "\ufeff"])
def test_an_empty_caption_is_enough_where_none_is_needed(content: str, images: Path) -> None:
    (images / "a.txt").write_text(content)
    (images / "b.txt").write_text("about b")

    source = Folder(path=str(images), image_size=8, uncaptioned=True, damaged_at_most=0.0)()

    assert samples(source)[:2] == [("a.png", ""), ("b.jpg", "about b")]
