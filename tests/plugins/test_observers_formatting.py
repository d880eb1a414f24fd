"""Metrics, durations and positions are written as a reader expects."""

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

from fluxflow_observers.console.observer import Console
from fluxflow_observers.formatting import (
    batch_time,
    duration,
    epochs_of,
    metric_value,
    metric_values,
    whereabouts,
)
from fluxflow_observers.jsonl import Jsonl
from fluxflow_observers.pictures import Pictures
from fluxflow_observers.report import Report
from fluxflow_observers.timing import BatchTimer
from fluxflow_registry import Position, counted, to_json, write_file


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
def test_a_metric_is_written_with_its_unit(name: str, value: float, expected: str) -> None:
    assert metric_value(name, value) == expected


def test_metrics_that_control_training_are_not_displayed() -> None:
    metrics = {"vae_loss": 1.0, "vae/lr": 1e-3, "vae/grad_norm": 2.0, "vae/kl/weight": 0.1}

    assert metric_values(metrics, {}) == ["VAE: 1"]


@given(st.floats(0, 1e7))
def test_a_duration_is_read_back(seconds: float) -> None:
    hours, minutes, rest = map(int, duration(seconds).split(":"))

    assert abs(hours * 3600 + minutes * 60 + rest - seconds) <= 0.5
    assert minutes < 60
    assert rest < 60


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(3.2, "3.2s/batch"), (0.032, "0.032s/batch"), (0.00012, "0.00012s/batch"), (75.0, "75.0s/batch")],
)
def test_the_time_of_a_batch_has_two_or_three_digits(seconds: float, expected: str) -> None:
    assert batch_time(seconds) == expected


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [(1, "batch", "1 batch"), (5000, "batch", "5,000 batches"), (1, "epoch", "1 epoch"), (0, "epoch", "0 epochs")],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, expected: str) -> None:
    assert counted(number, noun) == expected


@pytest.mark.parametrize(
    ("epoch", "batch", "expected"),
    [
        (0, 0, "step flow (2/2), before its first batch"),
        (0, 3, "step flow (2/2), epoch 1/3, after batch 3/5"),
        (2, 5, "step flow (2/2), epoch 3/3, after batch 5/5"),
        (2, 0, "step flow (2/2), epoch 2/3, after batch 5/5"),
        (4, 1, "step flow (2/2), epoch 5/5, after batch 1/5"),
    ],
)
def test_a_position_counts_epochs_from_one(epoch: int, batch: int, expected: str, steps: list[Any]) -> None:
    assert whereabouts(steps[1], 2, Position(1, epoch, batch)) == expected


def test_what_json_cannot_hold_becomes_null_at_any_depth() -> None:
    assert to_json({"a": [1.0, math.nan, {"b": (math.inf, "x", None, 3)}]}) == {
        "a": [1.0, None, {"b": [None, "x", None, 3]}]
    }


def test_the_time_of_a_batch_settles_after_the_first_whole_stretch() -> None:
    timer = BatchTimer(window=2.0)
    timer.start(0, 0.0)

    read = [timer.measure(1, 1.0), timer.measure(2, 1.5), timer.measure(4, 2.5), timer.measure(5, 3.5)]
    timer.start(5, 100.0)  # after an evaluation

    assert read == [1.0, 0.75, 0.625, 0.625]
    assert timer.measure(6, 103.0) == 2.0


def test_before_the_first_batch_its_time_is_unknown() -> None:
    timer = BatchTimer()
    timer.start(7, 5.0)

    assert timer.measure(7, 9.0) is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inner" / "results.json"
    write_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_file(path, b"new")

    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"old"]


def test_console_jsonl_and_report_join_every_run_and_pictures_does_not() -> None:
    assert [getattr(kind, "default", False) for kind in (Console, Jsonl, Report, Pictures)] == [True] * 3 + [False]


@pytest.mark.parametrize("plugin", ["fluxflow_observers", "fluxflow_data"])
def test_listing_the_plugin_imports_no_heavy_package(plugin: str) -> None:
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


def test_a_step_that_a_transition_extends_has_as_many_epochs_as_it_takes(steps: list[Any]) -> None:
    assert epochs_of(evolve(steps[0], epochs=4), 3) == 4
    assert epochs_of(evolve(steps[0], epochs=4), 6) == 6
