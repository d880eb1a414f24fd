"""The report gives every figure and the time of every step, over all sessions of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from fluxflow_observers import step_clock as spent
from fluxflow_observers.console import observer as console
from fluxflow_observers.console.observer import Console
from fluxflow_observers.report import Report
from fluxflow_registry import Ending, Position, hookimpl

Tell = Callable[..., None]

RESULTS = {
    "vae_warmup": {"held_out": {"psnr": 29.876, "sharpness": 0.9123}},
    "flow": {"seen": {"everything": 0.9512, "top_accuracy": 1.0}, "unseen": {"everything": math.nan}},
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by a test."""
    now = [0.0]
    for module in (spent, console):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def test_a_run_ends_with_a_table_of_all_figures_and_times(
    told: Callable[..., Tell], run: Any, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    tell, run.results = told(Report()), RESULTS

    tell("run_started", run, position=Position(), resumed=False)
    tell("step_started", run, step=run.steps[0], position=Position())
    clock[0] = 62.0
    tell("step_started", run, step=run.steps[1], position=Position(step=1))
    clock[0] = 3662.4
    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in err.splitlines() if "│" in line]
    assert out == ""
    assert "Results of small" in err
    assert rows == [
        ["vae_warmup", "0:01:02", "held_out", "psnr", "29.88 dB"],
        ["", "", "", "sharpness", "0.9123"],
        ["flow", "1:00:00", "seen", "everything", "95.1%"],
        ["", "", "", "top_accuracy", "100.0%"],
        ["", "", "unseen", "everything", "nan"],
        ["total", "1:01:02", "", "", ""],
    ]


def test_the_file_holds_the_same_figures_with_all_their_digits(
    told: Callable[..., Tell], run: Any, clock: list[float]
) -> None:
    tell, run.results = told(Report()), RESULTS

    tell("run_started", run, position=Position(), resumed=False)
    tell("step_started", run, step=run.steps[0], position=Position())
    clock[0] = 1.5
    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    assert json.loads((run.folder / "results.json").read_text()) == {
        "run": "small",
        "finished": True,
        "seconds": 1.5,
        "steps": {
            "vae_warmup": {"seconds": 1.5, "evaluations": RESULTS["vae_warmup"]},
            "flow": {"seconds": 0.0, "evaluations": {**RESULTS["flow"], "unseen": {"everything": None}}},
        },
    }


def test_a_step_without_evaluations_still_has_its_time(
    told: Callable[..., Tell], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tell = told(Report())

    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    assert "vae_warmup │ 0:00:00 │" in capsys.readouterr().err


def test_time_up_to_the_last_checkpoint_is_counted_in_the_next_session(
    told: Callable[..., Tell], run: Any, clock: list[float]
) -> None:
    first, second = told(Report()), told(Report())
    step = run.steps[0]

    first("run_started", run, position=Position(), resumed=False)
    first("step_started", run, step=step, position=Position())
    clock[0] = 10.0
    first("checkpoint_saved", run, position=Position(0, 0, 3, 3, 3), folder=run.folder)
    clock[0] = 14.0  # lost in a crash
    halfway = json.loads((run.folder / "results.json").read_text())
    second("run_started", run, position=Position(0, 0, 3, 3, 3), resumed=True)
    second("step_started", run, step=step, position=Position(0, 0, 3, 3, 3))
    clock[0] = 15.0
    second("run_ended", run, position=Position(step=2), steps=run.steps)

    assert (halfway["finished"], halfway["seconds"]) == (False, 10.0)
    assert json.loads((run.folder / "results.json").read_text())["steps"]["vae_warmup"]["seconds"] == 11.0


def test_the_console_and_the_table_tell_the_same_time_of_a_step_in_all_sessions(
    told: Callable[..., Tell], run: Any, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    class Drawing:
        """Takes its time when a step ends."""

        @hookimpl
        def step_ended(self) -> None:
            clock[0] += 100.0

    step, ending, begun = run.steps[0], Ending("2 epochs"), Position(0, 0, 3, 3, 3)
    first, second = told(Report(), Console()), told(Report(), Console(), Drawing())

    first("run_started", run, position=Position(), resumed=False)
    first("step_started", run, step=step, position=Position())
    clock[0] += 9.0
    first("checkpoint_saved", run, position=begun, folder=run.folder)
    second("run_started", run, position=begun, resumed=True)
    second("step_started", run, step=step, position=begun)
    clock[0] += 1.0
    second("step_ended", run, step=step, position=Position(0, 2, 0, 8, 8), ending=ending)
    second("run_ended", run, position=Position(step=1), steps=run.steps)

    err = capsys.readouterr().err
    assert "Step vae_warmup (1/2) is over: 2 epochs | 8 batches | 0:00:10, 0:00:01 of it since the run went on\n" in err
    assert "vae_warmup │ 0:00:10 │" in err
    assert f"Done in 0:01:41 since the run went on: {run.folder}\n" in err


@pytest.mark.parametrize(
    ("begun", "told_time"), [(3, "0:00:01 since the run went on"), (0, "0:00:01")], ids=["within a step", "before it"]
)
def test_without_a_report_the_console_does_not_take_one_sessions_time_for_all(
    begun: int, told_time: str, told: Callable[..., Tell], run: Any, clock: list[float], capsys: Any
) -> None:
    at, tell = Position(0, 0, begun, begun, begun), told(Console())

    tell("run_started", run, position=at, resumed=True)
    tell("step_started", run, step=run.steps[0], position=at)
    clock[0] += 1.0
    tell("step_ended", run, step=run.steps[0], position=Position(0, 2, 0, 8, 8), ending=Ending("2 epochs"))

    assert f"Step vae_warmup (1/2) is over: 2 epochs | 8 batches | {told_time}\n" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b'{"steps": {"vae_warmup": 3}}', b'{"steps": []}'])
def test_a_results_file_that_cannot_be_understood_counts_as_no_time(
    content: bytes | None, told: Callable[..., Tell], run: Any, clock: list[float]
) -> None:
    if content is not None:
        (run.folder / "results.json").write_bytes(content)
    tell = told(Report())

    tell("run_started", run, position=Position(0, 0, 3, 3, 3), resumed=True)
    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    assert json.loads((run.folder / "results.json").read_text())["seconds"] == 0.0


def test_a_new_run_does_not_take_over_the_times_of_an_attempt_without_checkpoint(
    told: Callable[..., Tell], run: Any, clock: list[float]
) -> None:
    (run.folder / "results.json").write_text('{"steps": {"vae_warmup": {"seconds": 9.0}}}')
    tell = told(Report())

    tell("run_started", run, position=Position(), resumed=False)
    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    assert json.loads((run.folder / "results.json").read_text())["seconds"] == 0.0


@pytest.mark.parametrize("console_first", [True, False])
def test_the_last_line_of_a_run_is_its_folder(
    console_first: bool, told: Callable[..., Tell], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    observers: list[object] = [Console(), Report()]
    tell = told(*(observers if console_first else observers[::-1]))

    tell("run_ended", run, position=Position(step=2), steps=run.steps)

    told_lines = capsys.readouterr().err.splitlines()
    assert "total" in told_lines[-3]
    assert told_lines[-1].endswith(str(run.folder))


def test_branches_of_one_step_stand_beside_each_other(
    told: Callable[..., Tell], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start = run.steps[0]
    run.steps = [start, *(evolve(start, name=name, index=n, parent="vae_warmup") for n, name in enumerate("abc", 1))]
    run.results = {
        "vae_warmup": {"held_out": {"psnr": 20.0}},
        "a": {"held_out": {"psnr": 30.0, "sharpness": 0.5}, "alone": {"psnr": 1.0}},
        "b": {"held_out": {"psnr": 31.0, "sharpness": 0.25}},
        "c": {"held_out": {"psnr": 32.0}},
    }

    told(Report())("run_ended", run, position=Position(step=4), steps=run.steps)

    err = capsys.readouterr().err
    text = err[err.index("Branches from vae_warmup") :]
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    assert rows == [["held_out", "psnr", "30.00 dB", "31.00 dB", "32.00 dB"], ["", "sharpness", "0.5", "0.25", ""]]
    assert err.count("Branches") == 1


def test_steps_in_a_row_are_no_branches(
    told: Callable[..., Tell], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run.results = {step.name: {"held_out": {"psnr": 20.0}} for step in run.steps}

    told(Report())("run_ended", run, position=Position(step=2), steps=run.steps)

    assert "Branches" not in capsys.readouterr().err
