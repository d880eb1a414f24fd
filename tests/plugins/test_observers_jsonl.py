"""Metrics are lines of JSON, readable after any crash, and no batch appears twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxflow_observers.graphs.metrics import read_run
from fluxflow_observers.graphs.observer import summary
from fluxflow_observers.jsonl import Jsonl
from fluxflow_registry import FluxflowError, Position, Summary

Notify = Callable[..., None]


@pytest.fixture
def notify(notifier: Callable[..., Notify]) -> Notify:
    return notifier(Jsonl())


def lines(folder: Path, step: str = "vae_warmup") -> list[dict[str, Any]]:
    text = (folder / "graph" / f"training_metrics_{step}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def at(batch: int, epoch: int = 0, step: int = 0) -> Position:
    """A position in steps of 4 batches an epoch."""
    done = 4 * epoch + batch
    return Position(step, epoch, batch, done, done + 100 * step)


def test_a_logged_batch_is_one_line_with_its_position_and_its_time(notify: Notify, run: Any) -> None:
    notify("run_started", run, position=Position(), resumed=False)
    notify("epoch_started", run, step=run.steps[0], position=at(0, epoch=1))
    notify(
        "metrics_logged", run, step=run.steps[0], position=at(2, epoch=1), metrics={"vae_loss": 0.5, "vae/kl": 12.25}
    )

    (line,) = lines(run.folder)
    assert datetime.fromisoformat(line.pop("timestamp")) <= datetime.now()
    assert line.pop("seconds_per_batch") > 0
    assert line == {
        "session_id": "20250102_030405",
        "epoch": 2,
        "batch": 2,
        "global_step": 6,
        "step_batch": 6,
        "metrics": {"vae_loss": 0.5, "vae/kl": 12.25},
    }


def test_the_first_line_after_a_run_resumed_has_the_batch_after_which_it_did_and_so_has_the_summary(
    notifier: Callable[..., Notify], run: Any
) -> None:
    first, second = notifier(Jsonl()), notifier(Jsonl())

    first("run_started", run, position=Position(), resumed=False)
    first("metrics_logged", run, step=run.steps[0], position=at(1), metrics={"vae_loss": 0.5})
    second("run_started", run, position=at(3), resumed=True)
    second("metrics_logged", run, step=run.steps[0], position=at(0, epoch=1), metrics={"vae_loss": 0.4})
    second("metrics_logged", run, step=run.steps[0], position=at(2, epoch=1), metrics={"vae_loss": 0.3})

    assert [line.get("resumed_after") for line in lines(run.folder)] == [None, 3, None]
    assert "\nresumed after batch 3\n" in summary(read_run(run.folder))


def test_a_run_that_resumes_at_the_start_of_a_step_did_not_resume_within_it(
    notifier: Callable[..., Notify], run: Any
) -> None:
    notify = notifier(Jsonl())

    notify("run_started", run, position=Position(step=1, run_batch=8), resumed=True)
    notify("metrics_logged", run, step=run.steps[1], position=Position(1, 0, 2, 2, 10), metrics={"flow_loss": 0.4})

    assert "resumed_after" not in lines(run.folder, "flow")[0]


def test_the_time_of_a_batch_excludes_what_happens_between_two_epochs(
    notify: Notify, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([10.0, 14.0, 1000.0, 1002.0, 1003.0])
    monkeypatch.setattr("fluxflow_observers.jsonl.perf_counter", lambda: next(times))
    step = run.steps[0]

    notify("epoch_started", run, step=step, position=at(0))
    notify("metrics_logged", run, step=step, position=at(4), metrics={})
    notify("epoch_started", run, step=step, position=at(0, epoch=1))
    notify("metrics_logged", run, step=step, position=at(1, epoch=1), metrics={})
    notify("metrics_logged", run, step=step, position=at(3, epoch=1), metrics={})

    assert [line["seconds_per_batch"] for line in lines(run.folder)] == [1.0, 2.0, 0.5]


def test_a_value_that_is_not_finite_is_null(notify: Notify, run: Any) -> None:
    metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-320}

    notify("metrics_logged", run, step=run.steps[0], position=at(1), metrics=metrics)

    assert lines(run.folder)[0]["metrics"] == {"a": None, "b": None, "c": None, "d": 1e-320}


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_is_read_back_to_the_last_bit(notify: Notify, run: Any, value: float) -> None:
    notify("metrics_logged", run, step=run.steps[0], position=at(1), metrics={"loss": value})

    assert lines(run.folder)[-1]["metrics"]["loss"] == value


def test_an_evaluation_is_a_line_of_its_own_at_the_end_of_its_epoch(notify: Notify, run: Any) -> None:
    notify("evaluated", run, step=run.steps[0], position=at(0, epoch=2), name="held_out", metrics={"psnr": 30.0})

    (line,) = lines(run.folder)
    assert (line["epoch"], line["batch"], line["global_step"]) == (2, 4, 8)
    assert (line["evaluation"], line["metrics"]) == ("held_out", {"psnr": 30.0})


def test_the_same_metrics_are_not_written_twice(notify: Notify, run: Any) -> None:
    facts = {"step": run.steps[0], "name": "held_out"}
    for position in (at(4, epoch=1), at(0, epoch=2)):
        notify("evaluated", run, position=position, metrics={"psnr": 30.0, "bad": math.nan}, **facts)
    notify("evaluated", run, position=at(0, epoch=2), metrics={"psnr": 31.0}, **facts)

    assert [line["metrics"] for line in lines(run.folder)] == [{"psnr": 30.0, "bad": None}, {"psnr": 31.0}]


def test_each_step_has_a_file(notify: Notify, run: Any) -> None:
    for step in run.steps:
        notify("metrics_logged", run, step=step, position=at(1, step=step.index), metrics={})

    assert lines(run.folder, "vae_warmup")[0]["global_step"] == 1
    assert lines(run.folder, "flow")[0]["global_step"] == 101


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize(
    "torn", [b'{"timestamp": "2025-0', b'{"global_step": 1}', b"\x00\x00\x00\n", b"[1]\n", b"\xff\n"]
)
def test_a_resumed_run_leaves_no_line_beyond_its_checkpoint(
    torn: bytes, resumed: bool, notifier: Callable[..., Notify], run: Any
) -> None:
    before, path = notifier(Jsonl()), run.folder / "graph" / "training_metrics_vae_warmup.jsonl"
    for batch in range(1, 8):
        before("metrics_logged", run, step=run.steps[0], position=at(batch), metrics={"loss": 1.0})
        before("evaluated", run, step=run.steps[0], position=at(batch), name="held_out", metrics={"psnr": 1.0})
    before("metrics_logged", run, step=run.steps[1], position=at(1, step=1), metrics={})
    with path.open("ab") as stream:
        stream.write(torn)

    after = notifier(Jsonl())
    after("run_started", run, position=at(3), resumed=resumed)
    after("evaluated", run, step=run.steps[0], position=at(3), name="held_out", metrics={"psnr": 1.0})
    after("metrics_logged", run, step=run.steps[0], position=at(4), metrics={"loss": 2.0})

    assert [line["global_step"] for line in lines(run.folder)] == [1, 1, 2, 2, 3, 3, 4]
    assert lines(run.folder)[-1]["metrics"] == {"loss": 2.0}
    assert lines(run.folder, "flow") == []
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "training_metrics_flow.jsonl",
        "training_metrics_vae_warmup.jsonl",
    ]


def test_a_file_without_such_lines_is_not_touched_when_a_run_resumes(notify: Notify, run: Any) -> None:
    notify("metrics_logged", run, step=run.steps[0], position=at(3), metrics={})
    path = run.folder / "graph" / "training_metrics_vae_warmup.jsonl"
    before = path.stat().st_ino, path.stat().st_mtime_ns

    notify("run_started", run, position=at(3), resumed=True)

    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before


def test_an_epoch_is_a_line_with_the_mean_and_the_range_of_each_metric(notify: Notify, run: Any) -> None:
    summaries = {"vae_loss": Summary(mean=0.5, minimum=0.25, maximum=1.0, smoothed=0.4)}

    for _ in range(2):  # as in a run that was stopped while other observers were notified
        notify("epoch_ended", run, step=run.steps[0], position=at(0, epoch=2), summaries=summaries)

    (line,) = lines(run.folder)
    assert (line["epoch"], line["batch"], line["global_step"], line["metrics"]) == (2, 4, 8, {"vae_loss": 0.5})
    assert line["epoch_summary"] == {"vae_loss": {"min": 0.25, "mean": 0.5, "max": 1.0}}


def test_an_epoch_that_is_in_the_file_is_not_written_again_when_a_run_resumes(
    notifier: Callable[..., Notify], run: Any
) -> None:
    for _ in range(2):
        notify = notifier(Jsonl())
        notify("run_started", run, position=at(4), resumed=True)
        notify("epoch_ended", run, step=run.steps[0], position=at(0, epoch=1), summaries={})

    assert [line["epoch"] for line in lines(run.folder)] == [1]


def test_metrics_are_written_under_the_names_of_fluxflow_on_request(notifier: Callable[..., Notify], run: Any) -> None:
    notify = notifier(
        Jsonl(names={"vae/kl": "kl_loss", "vae/hinge_generator": "g_loss", "discriminator_loss": "d_loss"})
    )
    metrics = {"vae_loss": 0.5, "vae/kl": 1.0, "vae/hinge_generator": 2.0, "discriminator_loss": 3.0, "vae/lr": 0.1}

    notify("metrics_logged", run, step=run.steps[0], position=at(1), metrics=metrics)
    notify("epoch_ended", run, step=run.steps[0], position=at(0, 1), summaries={"vae/kl": Summary(1, 1, 1, 1)})

    batch, epoch = lines(run.folder)
    assert batch["metrics"] == {"vae_loss": 0.5, "kl_loss": 1.0, "g_loss": 2.0, "d_loss": 3.0, "vae/lr": 0.1}
    assert list(epoch["epoch_summary"]) == ["kl_loss"]


def test_a_name_that_another_metric_has_is_rejected_rather_than_written_twice(
    notifier: Callable[..., Notify], run: Any
) -> None:
    notify = notifier(Jsonl(names={"vae/l1": "vae_loss"}))

    with pytest.raises(FluxflowError, match=r"writes `vae/l1` as `vae_loss`, which is the name of another metric"):
        notify("metrics_logged", run, step=run.steps[0], position=at(1), metrics={"vae_loss": 1.0, "vae/l1": 0.5})


def test_two_metrics_may_swap_their_names(notifier: Callable[..., Notify], run: Any) -> None:
    notify = notifier(Jsonl(names={"vae/l1": "vae_loss", "vae_loss": "vae/total"}))

    notify("metrics_logged", run, step=run.steps[0], position=at(1), metrics={"vae_loss": 1.0, "vae/l1": 0.5})

    assert lines(run.folder)[0]["metrics"] == {"vae/total": 1.0, "vae_loss": 0.5}


@pytest.mark.parametrize(
    ("names", "words"),
    [({"a": "x", "b": "x"}, "`names` writes both `a` and `b` as `x`"), ({"a": ""}, "names"), ({"": "a"}, "names")],
)
def test_invalid_names_are_rejected(names: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Jsonl(names=names)
