"""An error says what is wrong, where, and what was probably meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_registry.errors import (
    Choices,
    Flag,
    FluxflowError,
    Location,
    Place,
    Problem,
    condensed,
    listed,
    nearest,
    one_line,
    printable,
    table,
    unique,
)

WORDS = ["mse", "l1", "kl", "lr", "frequency", "hinge_generator", "hinge_discriminator", "AdamW", "SGD", "weight"]
words = st.sampled_from(WORDS)


def test_a_problem_reads_place_then_message_then_labeled_notes() -> None:
    problem = Problem("unknown loss `mes`", "r.yaml:3:7", (("nearest", "mse"), ("available", "l1, mse")))

    text = str(problem)

    assert text == "r.yaml:3:7  unknown loss `mes`\n    nearest    mse\n    available  l1, mse"


def test_a_note_of_several_lines_stays_under_its_label() -> None:
    problem = Problem("unknown loss `x`", None, (("not loaded", "one\ntwo"), ("nearest", "y")))

    text = str(problem)

    assert text == "unknown loss `x`\n    not loaded  one\n                two\n    nearest     y"


def test_an_error_carries_all_its_problems() -> None:
    error = FluxflowError([Problem("first", "a:1:1"), Problem("second")])

    assert str(error) == "a:1:1  first\n\nsecond"
    assert [problem.message for problem in error.problems] == ["first", "second"]
    assert error.exit_code == 2


@given(st.text())
def test_whatever_a_recipe_quotes_cannot_steer_a_terminal(text: str) -> None:
    shown = str(Problem(f"unknown key `{text}`", text))

    assert shown.isprintable()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="?#@=")))  # without secrets
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_bytes_of_a_file_name_that_are_not_utf_8_are_shown_as_bytes() -> None:
    name = b"caf\xe9\x1b.png".decode("utf-8", "surrogateescape")

    assert printable(name) == r"caf\xe9\x1b.png"
    assert printable("half \ud800") == r"half \ud800"


def test_a_text_without_end_is_cut() -> None:
    assert len(printable("x" * 1_000_000)) < 2100


@given(words, st.data())
def test_a_name_with_one_slip_of_the_finger_is_recognized(word: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(word) - 1))
    letter = data.draw(st.sampled_from("abcxyz_"))
    slips = {
        "dropped": word[:place] + word[place + 1 :],
        "doubled": word[:place] + word[place] + word[place:],
        "added": word[:place] + letter + word[place:],
        "swapped": word[: max(place - 1, 0)] + word[max(place - 1, 0) : place + 1][::-1] + word[place + 1 :],
    }
    slip = slips[data.draw(st.sampled_from(sorted(slips)))]

    found = nearest(slip, WORDS)

    # A slip in a word of two letters may make it as near to another one.
    assert found == word or len(word) == 2


@given(words)
def test_a_name_in_another_case_or_with_hyphens_is_recognized(word: str) -> None:
    assert nearest(word.upper(), WORDS) == word
    assert nearest(word.lower().replace("_", "-"), WORDS) == word


@given(st.lists(st.text(max_size=8)), st.text(max_size=8))
def test_the_nearest_name_is_one_of_the_names(names: list[str], name: str) -> None:
    found = nearest(name, names)

    assert found is None or found in names
    assert name not in names or found is not None


@pytest.mark.parametrize("name", ["", "zzzzzz", "x", "learning_rate_of_everything"])
def test_a_name_that_resembles_nothing_has_no_nearest_one(name: str) -> None:
    assert nearest(name, WORDS) is None


#: Names, and valid ones that spell alike and mean something else.
MISLEADING = {
    "resume": ["prove_resume"],
    "--resume": ["--prove-resume", "--replay"],
    "val": ["train", "held_out", "all"],
    "val_loss": ["vae_loss"],
    "l2": ["l1"],
    "mae": ["mse"],
    "fid": ["kid"],
    "ddpm": ["ddim"],
    "dpmpp_3m": ["dpmpp_2m"],
    "fp64": ["fp32", "fp16", "bf16"],
    "--seed": ["--set", "--help"],
    "adan": ["Adam"],
    "hinge_generator": ["hinge_discriminator"],
    "real_logits": ["fake_logits"],
    "clean_latent": ["noisy_latent"],
    "vae/l2": ["vae/l1"],
    "image_embedding": ["image"],
}


@pytest.mark.parametrize("name", MISLEADING)
def test_a_name_of_which_a_word_or_a_number_is_another_one_is_not_near(name: str) -> None:
    assert nearest(name, MISLEADING[name]) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_workers", "workers"),
        ("max_epochs", "epochs"),
        ("learning_rte", "learning_rate"),
        ("hinge_gen", "hinge_generator"),
        ("prove", "prove_resume"),
        ("--list", "--list-plugins"),
        ("epsilon", "eps"),
        ("--settings", "--set"),
        ("mes", "mse"),
        ("fp_16", "fp16"),
        ("held-out", "held_out"),
        ("optimiser", "optimizer"),
        ("epok", "epoch"),
        ("expander.oot.0.weight", "expander.out.0.weight"),
    ],
)
def test_a_name_of_the_same_words_is_near(name: str, meant: str) -> None:
    assert nearest(name, [meant, "unrelated"]) == meant


def test_a_short_key_with_another_letter_is_a_typing_error() -> None:
    assert nearest("epz", ["eps"], keys=True) == "eps"
    assert nearest("epz", ["eps"]) is None
    assert nearest("l2", ["l1"], keys=True) is None


def on_line(number: int, subject: str | None = "tab", file: str = "captions.txt") -> Problem:
    return Problem(f"line {number}", Place(file, number), code="malformed-line", subject=subject)


def test_one_mistake_throughout_a_file_is_one_problem() -> None:
    others = [on_line(3, "name"), on_line(3, file="b.txt"), on_line(4, None), on_line(5, None), Problem("other")]

    found = condensed([*(on_line(number) for number in range(1, 3_000)), *others])

    assert found[1:] == others
    assert found[0].where == Place("captions.txt", 1)
    assert found[0].notes == (("status", "the same on 2,998 other lines: 2, 3, 4, 5, 6, 7, 8, 9, ..."),)
    few = [on_line(number) for number in range(1, 9)]
    assert condensed(few) == few


def test_choices_begin_with_the_nearest_name_and_end_with_all() -> None:
    assert Choices.of("mes", ["mse", "l1"]).rows() == [("nearest", "mse"), ("available", "l1, mse")]
    assert Choices.of("zzz", ["mse"]).rows() == [("available", "mse")]
    assert Choices.of("zzz", []).rows() == [("available", "nothing")]


def test_names_passed_as_choices_are_valid_in_place_of_the_subject() -> None:
    problem = Problem("unknown loss `mes`", code="unknown-name", subject="mes", choices={"mse": 1, "kl": 2})

    assert problem.choices == Choices.of("mes", ["mse", "kl"])


def test_an_error_takes_the_parts_of_a_single_problem() -> None:
    error = FluxflowError("broken", "a.yaml", [("hint", 1)], code="wrong-type", subject="b", choices=["c"])

    assert error.problems == (
        Problem("broken", "a.yaml", [("hint", "1")], code="wrong-type", subject="b", choices=["c"]),
    )


def test_a_long_list_of_choices_is_shortened() -> None:
    ((_, shown),) = Choices.of("?", [f"name_{index:03}" for index in range(100)]).rows()

    assert shown.endswith("name_023, ...")


def test_a_list_is_shortened_only_if_it_has_more() -> None:
    assert listed([1, 2], 2) == "1, 2"
    assert listed([1, 2, 3], 2) == "1, 2, ..."
    assert listed([], 2) == ""


def test_rows_are_aligned_at_their_indentation_and_steer_no_terminal() -> None:
    rows = [("one", "first\nsecond"), ("a\x1bb", "third")]

    assert table(rows, indent=2) == ["  one     first\n          second", "  a\\x1bb  third"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "ValueError: one"),
        (ValueError(), "ValueError"),
        (KeyError("x"), "KeyError: 'x'"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("\n\n"), "RuntimeError"),
        (TypeError("<function f at 0x7f00aa> is odd"), "TypeError: <function f> is odd"),
    ],
)
def test_an_exception_fits_on_a_line(error: BaseException, line: str) -> None:
    assert one_line(error) == line


def test_problems_are_in_the_order_of_each_file_and_files_are_not_mixed() -> None:
    places: list[Location] = [
        Place("r.yaml", 190),
        Place("plugin.py", 200),
        Place("r.yaml", 7, 3),
        Flag("--set"),
        Place("r.yaml", 210),
    ]

    found = unique(Problem("is wrong", where) for where in places)

    assert [str(problem.where) for problem in found] == [
        *("--set", "r.yaml:7:3", "r.yaml:190", "r.yaml:210", "plugin.py:200")
    ]


def test_problems_without_a_subject_are_the_same_only_where_their_words_are() -> None:
    subjects = [None, None, None, "a", "a"]
    words = ["one", "two", "two", "three", "four"]

    found = unique(Problem(word, "f", code="c", subject=each) for word, each in zip(words, subjects, strict=True))

    assert [problem.message for problem in found] == ["one", "two", "three"]
