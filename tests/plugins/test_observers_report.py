"""The report has every result and the time of every step, over all sessions of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve

from fluxflow_observers import timing
from fluxflow_observers.console import observer as console
from fluxflow_observers.console.observer import Console
from fluxflow_observers.report import Report
from fluxflow_registry import Ending, Position, hookimpl

Notify = Callable[..., None]

RESULTS = {
    "vae_warmup": {"held_out": {"psnr": 29.876, "sharpness": 0.9123}},
    "flow": {"seen": {"everything": 0.9512, "top_accuracy": 1.0}, "unseen": {"everything": math.nan}},
}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [0.0]
    for module in (timing, console):
        monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    return now


def test_a_run_ends_with_a_table_of_all_results_and_times(
    notifier: Callable[..., Notify], run: Any, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    notify, run.results = notifier(Report()), RESULTS

    notify("run_started", run, position=Position(), resumed=False)
    notify("step_started", run, step=run.steps[0], position=Position())
    clock[0] = 62.0
    notify("step_started", run, step=run.steps[1], position=Position(step=1))
    clock[0] = 3662.4
    notify("run_ended", run, position=Position(step=2), steps=run.steps)

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


def test_the_file_has_the_same_results_with_all_their_digits(
    notifier: Callable[..., Notify], run: Any, clock: list[float]
) -> None:
    notify, run.results = notifier(Report()), RESULTS

    notify("run_started", run, position=Position(), resumed=False)
    notify("step_started", run, step=run.steps[0], position=Position())
    clock[0] = 1.5
    notify("run_ended", run, position=Position(step=2), steps=run.steps)

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
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    notify = notifier(Report())

    notify("run_ended", run, position=Position(step=2), steps=run.steps)

    assert "vae_warmup │ 0:00:00 │" in capsys.readouterr().err


def test_the_time_up_to_the_last_checkpoint_counts_in_the_next_session(
    notifier: Callable[..., Notify], run: Any, clock: list[float]
) -> None:
    first, second = notifier(Report()), notifier(Report())
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


def test_the_console_and_the_table_print_the_same_time_of_a_step_in_all_sessions(
    notifier: Callable[..., Notify], run: Any, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    class SlowObserver:
        """Takes a long time when a step ends."""

        @hookimpl
        def step_ended(self) -> None:
            clock[0] += 100.0

    step, ending, middle = run.steps[0], Ending("2 epochs"), Position(0, 0, 3, 3, 3)
    first, second = notifier(Report(), Console()), notifier(Report(), Console(), SlowObserver())

    first("run_started", run, position=Position(), resumed=False)
    first("step_started", run, step=step, position=Position())
    clock[0] += 9.0
    first("checkpoint_saved", run, position=middle, folder=run.folder)
    second("run_started", run, position=middle, resumed=True)
    second("step_started", run, step=step, position=middle)
    clock[0] += 1.0
    second("step_ended", run, step=step, position=Position(0, 2, 0, 8, 8), ending=ending)
    second("run_ended", run, position=Position(step=1), steps=run.steps)

    err = capsys.readouterr().err
    assert (
        "Step vae_warmup (1/2) finished: 2 epochs | 8 batches | 0:00:10, 0:00:01 of it since the run resumed\n" in err
    )
    assert "vae_warmup │ 0:00:10 │" in err
    assert f"Done in 0:01:41 since the run resumed: {run.folder}\n" in err


@pytest.mark.parametrize(
    ("batches", "expected"), [(3, "0:00:01 since the run resumed"), (0, "0:00:01")], ids=["within a step", "before it"]
)
def test_without_a_report_the_console_does_not_mistake_the_time_of_one_session_for_that_of_all(
    batches: int, expected: str, notifier: Callable[..., Notify], run: Any, clock: list[float], capsys: Any
) -> None:
    at, notify = Position(0, 0, batches, batches, batches), notifier(Console())

    notify("run_started", run, position=at, resumed=True)
    notify("step_started", run, step=run.steps[0], position=at)
    clock[0] += 1.0
    notify("step_ended", run, step=run.steps[0], position=Position(0, 2, 0, 8, 8), ending=Ending("2 epochs"))

    assert f"Step vae_warmup (1/2) finished: 2 epochs | 8 batches | {expected}\n" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[]", b'{"steps": {"vae_warmup": 3}}', b'{"steps": []}'])
def test_an_invalid_results_file_counts_as_no_time(
    content: bytes | None, notifier: Callable[..., Notify], run: Any, clock: list[float]
) -> None:
    if content is not None:
        (run.folder / "results.json").write_bytes(content)
    notify = notifier(Report())

    notify("run_started", run, position=Position(0, 0, 3, 3, 3), resumed=True)
    notify("run_ended", run, position=Position(step=2), steps=run.steps)

    assert json.loads((run.folder / "results.json").read_text())["seconds"] == 0.0


def test_a_new_run_ignores_the_times_of_an_attempt_without_a_checkpoint(
    notifier: Callable[..., Notify], run: Any, clock: list[float]
) -> None:
    (run.folder / "results.json").write_text('{"steps": {"vae_warmup": {"seconds": 9.0}}}')
    notify = notifier(Report())

    notify("run_started", run, position=Position(), resumed=False)
    notify("run_ended", run, position=Position(step=2), steps=run.steps)

    assert json.loads((run.folder / "results.json").read_text())["seconds"] == 0.0


@pytest.mark.parametrize("console_first", [True, False])
def test_the_last_line_of_a_run_is_its_folder(
    console_first: bool, notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    observers: list[object] = [Console(), Report()]
    notify = notifier(*(observers if console_first else observers[::-1]))

    notify("run_ended", run, position=Position(step=2), steps=run.steps)

    printed = capsys.readouterr().err.splitlines()
    assert "total" in printed[-3]
    assert printed[-1].endswith(str(run.folder))


def test_branches_of_one_step_are_columns_of_one_table(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start = run.steps[0]
    run.steps = [start, *(evolve(start, name=name, index=n, parent="vae_warmup") for n, name in enumerate("abc", 1))]
    run.results = {
        "vae_warmup": {"held_out": {"psnr": 20.0}},
        "a": {"held_out": {"psnr": 30.0, "sharpness": 0.5}, "alone": {"psnr": 1.0}},
        "b": {"held_out": {"psnr": 31.0, "sharpness": 0.25}},
        "c": {"held_out": {"psnr": 32.0}},
    }

    notifier(Report())("run_ended", run, position=Position(step=4), steps=run.steps)

    err = capsys.readouterr().err
    text = err[err.index("Branches from vae_warmup") :]
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if "│" in line]
    assert rows == [["held_out", "psnr", "30.00 dB", "31.00 dB", "32.00 dB"], ["", "sharpness", "0.5", "0.25", ""]]
    assert err.count("Branches") == 1


def test_consecutive_steps_are_not_branches(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run.results = {step.name: {"held_out": {"psnr": 20.0}} for step in run.steps}

    notifier(Report())("run_ended", run, position=Position(step=2), steps=run.steps)

    assert "Branches" not in capsys.readouterr().err
