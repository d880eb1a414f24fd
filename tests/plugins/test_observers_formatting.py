"""Figures, durations and places read as one would say them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from fluxflow_observers import formatting as words
from fluxflow_observers.batch_timer import Pace
from fluxflow_observers.console.observer import Console
from fluxflow_observers.files import write_whole
from fluxflow_observers.jsonl import JsonLines
from fluxflow_observers.pictures import Pictures
from fluxflow_observers.report import Report
from fluxflow_registry import Position


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("psnr", 30.126, "30.13 dB"),
        ("held_out/psnr", 7.0, "7.00 dB"),
        ("accuracy", 0.8421, "84.2%"),
        ("top5_accuracy", 1.0, "100.0%"),
        ("everything", 0.955, "95.5%"),
        ("vae_loss", 0.023412, "0.02341"),
        ("vae/kl", 12.45, "12.45"),
        ("psnr", math.nan, "nan"),
        ("vae_loss", -math.inf, "-inf"),
    ],
)
def test_a_figure_has_its_unit(name: str, value: float, expected: str) -> None:
    assert words.figure(name, value) == expected


def test_what_steers_training_is_not_among_the_figures() -> None:
    metrics = {"vae_loss": 1.0, "vae/lr": 1e-3, "vae/grad_norm": 2.0, "vae/kl/weight": 0.1}

    assert words.figures(metrics, {}) == ["VAE: 1"]


@given(st.floats(0, 1e7))
def test_a_duration_is_read_back(seconds: float) -> None:
    hours, minutes, rest = map(int, words.duration(seconds).split(":"))

    assert abs(hours * 3600 + minutes * 60 + rest - seconds) <= 0.5
    assert minutes < 60
    assert rest < 60


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3.2, "3.2s/batch"), (0.032, "0.032s/batch"), (0.00012, "0.00012s/batch"), (75.0, "75.0s/batch")],
)
def test_a_pace_has_two_or_three_digits(seconds: float, expected: str) -> None:
    assert words.pace(seconds) == expected


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(1, "batch", "1 batch"), (5000, "batch", "5,000 batches"), (1, "epoch", "1 epoch"), (0, "epoch", "0 epochs")],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, expected: str) -> None:
    assert words.count(number, noun) == expected


@pytest.mark.parametrize(
    ("epoch", "batch", "expected"),
    [
        (0, 0, "step flow (2/2), at its start"),
        (0, 3, "step flow (2/2), epoch 1/3, after batch 3/5"),
        (2, 5, "step flow (2/2), epoch 3/3, after batch 5/5"),
        (2, 0, "step flow (2/2), epoch 2/3, after batch 5/5"),
        (4, 1, "step flow (2/2), epoch 5/5, after batch 1/5"),
    ],
)
def test_a_place_counts_epochs_from_one(epoch: int, batch: int, expected: str, steps: list[Any]) -> None:
    assert words.whereabouts(steps[1], 2, Position(1, epoch, batch)) == expected


def test_what_json_cannot_hold_becomes_null_at_any_depth() -> None:
    assert words.finite({"a": [1.0, math.nan, {"b": (math.inf, "x", None, 3)}]}) == {
        "a": [1.0, None, {"b": [None, "x", None, 3]}]
    }


def test_a_pace_settles_once_a_whole_stretch_is_over() -> None:
    pace = Pace(window=2.0)
    pace.start(0, 0.0)

    read = [pace.measure(1, 1.0), pace.measure(2, 1.5), pace.measure(4, 2.5), pace.measure(5, 3.5)]
    pace.start(5, 100.0)  # an evaluation lies between

    assert read == [1.0, 0.75, 0.625, 0.625]
    assert pace.measure(6, 103.0) == 2.0


def test_before_the_first_batch_there_is_no_pace() -> None:
    pace = Pace()
    pace.start(7, 5.0)

    assert pace.measure(7, 9.0) is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inner" / "results.json"
    write_whole(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(path, b"new")

    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"old"]


def test_console_lines_and_report_join_every_run_and_pictures_only_when_asked() -> None:
    assert [getattr(kind, "default", False) for kind in (Console, JsonLines, Report, Pictures)] == [True] * 3 + [False]


@pytest.mark.parametrize("plugin", ["fluxflow_observers", "fluxflow_data"])
def test_listing_the_plugin_imports_neither_torch_nor_anything_that_draws(plugin: str) -> None:
    heavy = "{'torch', 'rich', 'PIL', 'numpy'}"
    script = f"import {plugin}, sys; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"

    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )

    assert (done.returncode, done.stderr) == (0, "")


def test_a_step_that_goes_on_beyond_its_plan_has_as_many_epochs_as_it_takes(steps: list[Any]) -> None:
    assert words.planned(evolve(steps[0], epochs=4), 3) == 4
    assert words.planned(evolve(steps[0], epochs=4), 6) == 6
