"""Charts show every logged metric, whatever a crash or a clock has done to the log."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from fluxflow_observers.command import run as command
from fluxflow_observers.graphs.charts import POINTS, chart, charts, decimated, smoothed, step_names
from fluxflow_observers.graphs.metrics import LINES, Series, StepLog, kind_of, panels_of, read_run
from fluxflow_observers.graphs.observer import Graphs, summary, write_graphs
from fluxflow_observers.jsonl import Jsonl
from fluxflow_registry import Position, Summary

pytestmark = pytest.mark.charts

#: What FluxFlow wrote.
OLD = {"vae_loss": 0.0234, "kl_loss": 12.45, "g_loss": 0.156, "d_loss": 0.089, "lpips_loss": 0.0812}


def write(folder: Path, step: str, lines: Sequence[dict[str, Any]], tail: str = "") -> None:
    """A file of metrics: a line every two seconds, unless a line has its own timestamp."""
    path = folder / "graph" / (f"training_metrics_{step}.jsonl" if step else "training_metrics.jsonl")
    path.parent.mkdir(exist_ok=True)
    start = datetime(2025, 12, 9, 17, 30)
    whole = [
        {"timestamp": (start + timedelta(seconds=2 * n)).isoformat(), "session_id": "20251209_173000", **line}
        for n, line in enumerate(lines)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in whole) + tail)


def old_lines(count: int, first: int = 10, **more: Any) -> list[dict[str, Any]]:
    """Lines as FluxFlow wrote them, one every ten batches."""
    at = range(first, first + 10 * count, 10)
    return [{"epoch": 1, "batch": n, "global_step": n, "metrics": OLD, **more} for n in at]


def labels(figure: Figure) -> dict[str, int]:
    """The metrics that a chart shows, by name, and how many points the first stretch of each has."""
    lines = [line for axes in figure.axes for line in axes.lines]
    return {
        str(line.get_label()).strip(): len(np.asarray(line.get_xdata()))
        for line in lines
        if not str(line.get_label()).startswith("_")
    }


def charts_of(folder: Path) -> dict[str, Figure]:
    return dict(charts(read_run(folder)))


def test_every_logged_metric_is_in_the_overview_whatever_its_name(tmp_path: Path) -> None:
    metrics = {
        "vae_loss": 1.0, "vae/kl": 1.0, "vae/kl/weight": 0.1, "vae/lr": 1e-3, "vae/grad_norm": 1.0,
        "made_up": 3.0, "of/my/own": -1.0, "loss": 2.0, "_hidden": 1.0,
    }  # fmt: skip
    write(tmp_path, "vae", [{"global_step": 1, "metrics": metrics, "seconds_per_batch": 0.1}])
    write(tmp_path, "flow", [{"global_step": 9, "evaluation": "held_out", "metrics": {"psnr": 30.0}}])

    shown = labels(charts_of(tmp_path)["training_overview"])

    assert set(shown) == {*metrics, "seconds_per_batch", "held_out/psnr"}
    assert set(shown.values()) == {1}


@given(st.sets(st.text(st.characters(codec="utf-8", categories=("L", "N")), min_size=1, max_size=8), max_size=30))
def test_each_metric_is_in_exactly_one_panel_and_no_panel_is_crowded(names: set[str]) -> None:
    log = StepLog("vae", {name: Series() for name in names})

    panels = panels_of([log])

    assert sorted(line.name for panel in panels for line in panel.lines) == sorted(names)
    assert all(len(panel.lines) <= LINES for panel in panels)


def test_each_chart_shows_its_own_metrics(tmp_path: Path) -> None:
    metrics = {
        "vae_loss": 1.0,
        "vae/l1": 1.0,
        "vae/kl": 1.0,
        "vae/kl/weight": 0.1,
        "vae/l1/weight": 1.0,
        "vae/lr": 1e-3,
    }
    write(tmp_path, "vae", [{"global_step": n, "metrics": metrics, "seconds_per_batch": 0.1} for n in (1, 2)])

    found = {name: set(labels(figure)) for name, figure in charts_of(tmp_path).items()}

    assert found == {
        "training_losses": {"vae_loss", "vae/l1"},
        "kl_loss": {"vae/kl", "vae/kl/weight"},
        "learning_rates": {"vae/lr"},
        "batch_times": {"seconds_per_batch"},
        "training_overview": {*metrics, "seconds_per_batch"},
    }


def test_the_outputs_of_fluxflow_are_read_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "vae_warmup", old_lines(3))
    write(tmp_path, "vae_gan", [{**line, "metrics": {**line["metrics"], "lr_vae": 1e-4}} for line in old_lines(3, 40)])

    with pytest.raises(SystemExit) as left:
        command([str(tmp_path)])

    assert left.value.code == 0
    names = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert names == [
        "training_losses.png",
        "kl_loss.png",
        "learning_rates.png",
        "batch_times.png",
        "training_overview.png",
        "training_summary.txt",
    ]
    for name in names[:-1]:
        with Image.open(tmp_path / "graph" / name) as image:
            assert min(image.size) > 300
    figures = charts_of(tmp_path)
    assert labels(figures["training_losses"]) == {name: 3 for name in OLD if name != "kl_loss"}
    times = next(log.batch_times for log in read_run(tmp_path))
    assert list(times.values) == [0.2, 0.2], "two seconds for ten batches"
    assert "vae_gan: batches 40 to 60" in (tmp_path / "graph" / "training_summary.txt").read_text()


def test_learning_rates_and_times_of_fluxflow_are_charted(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "learning_rates": {"flow_lr": 1e-4, "vae": 5e-5},
        "extras": {"batch_time": 0.5, "eta_seconds": 9, "gpu": "x"},
    }
    write(tmp_path, "", old_lines(3, **more))

    (log,) = read_run(tmp_path)

    figures = charts_of(tmp_path)
    assert labels(figures["learning_rates"]) == {"flow_lr": 3, "lr_vae": 3}
    assert list(log.batch_times.values) == [0.5, 0.5, 0.5]
    assert "eta_seconds" in log.metrics
    assert "gpu" not in log.metrics


@pytest.mark.parametrize(("first", "count"), [(0, 3), (1, 3)])
def test_epochs_that_are_counted_from_zero_are_counted_too(first: int, count: int, tmp_path: Path) -> None:
    lines = [{**line, "epoch": first + number} for number, line in enumerate(old_lines(3))]
    write(tmp_path, "vae", lines)

    (log,) = read_run(tmp_path)

    assert log.epoch_count == count
    assert f"vae: batches 10 to 30, {count} epochs" in summary([log])


def test_steps_are_in_the_order_of_time_if_each_counts_its_batches_from_the_start(tmp_path: Path) -> None:
    for hour, step in enumerate(("warmup", "gan", "flow")):
        write(tmp_path, step, [{**line, "timestamp": f"2025-12-09T{hour:02}:00:00"} for line in old_lines(2)])

    assert [log.name for log in read_run(tmp_path)] == ["warmup", "gan", "flow"]


def test_charts_of_fluxflow_stay_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "vae", old_lines(2))
    (tmp_path / "graph" / "session_vae.json").write_text("{}")
    own = tmp_path / "graph" / "training_losses.png"
    own.write_bytes(b"its own")

    with pytest.raises(SystemExit) as left:
        command([str(tmp_path)])

    assert left.value.code == 0
    assert {str(Path(line).parent) for line in capsys.readouterr().out.splitlines()} == {str(tmp_path / "charts")}
    assert own.read_bytes() == b"its own"


def test_a_name_that_leaves_no_room_for_its_chart_prints_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    write(tmp_path, "vae", [{"epoch": 1, "global_step": 1, "metrics": {"vae/" + "x" * 150: 0.5}}])

    write_graphs(read_run(tmp_path), tmp_path)

    assert [str(each.message) for each in recwarn] == []


def test_the_line_of_an_epoch_adds_no_point(tmp_path: Path) -> None:
    epoch = {"epoch": 1, "global_step": 20, "metrics": {"vae_loss": 9.0}, "epoch_summary": {"vae_loss": {"mean": 9.0}}}
    write(tmp_path, "vae", [*old_lines(2), epoch])

    (log,) = read_run(tmp_path)

    assert list(log.metrics["vae_loss"].values) == [OLD["vae_loss"]] * 2


def test_a_flat_run_of_fluxflow_has_one_file_without_a_step(tmp_path: Path) -> None:
    write(tmp_path, "", old_lines(2))

    (log,) = read_run(tmp_path)

    assert log.name == "training"
    assert list(log.metrics["kl_loss"].values) == [12.45, 12.45]


@pytest.mark.parametrize("tail", ['{"timestamp": "2025', "\x00\x00\n", "[1, 2]\n", '"text"\n'])
def test_a_truncated_line_is_skipped_and_counted(tmp_path: Path, tail: str) -> None:
    write(tmp_path, "vae", old_lines(2), tail)

    (log,) = read_run(tmp_path)

    assert (len(log.metrics["vae_loss"].at), log.unreadable) == (2, 1)
    assert "1 line could not be read" in summary([log])


@pytest.mark.parametrize("spoiled", [None, "text", True, [1], 10**400])
def test_a_value_that_is_not_finite_is_a_gap_in_a_line(tmp_path: Path, spoiled: Any) -> None:
    write(tmp_path, "vae", [{"global_step": n, "metrics": {"vae_loss": spoiled if n == 2 else 1.0}} for n in (1, 2, 3)])

    (axes,) = charts_of(tmp_path)["training_losses"].axes

    (line,) = [line for line in axes.lines if line.get_label() == "vae_loss"]
    assert np.isnan(np.asarray(line.get_ydata(), dtype=float)).tolist() == [False, True, False]


def test_a_metric_that_was_never_finite_is_labeled_so(tmp_path: Path) -> None:
    write(tmp_path, "vae", [{"global_step": 1, "metrics": {"vae_loss": math.nan, "vae/l1": None}}])

    assert set(labels(charts_of(tmp_path)["training_losses"])) == {"vae_loss (not finite)", "vae/l1 (not finite)"}


def test_a_batch_that_was_trained_again_counts_once(tmp_path: Path) -> None:
    lines = [*old_lines(4), *old_lines(3, 30, session_id="later", metrics={"vae_loss": 9.0})]
    write(tmp_path, "vae", lines)

    (log,) = read_run(tmp_path)

    assert list(log.metrics["vae_loss"].at) == [10, 20, 30, 40, 50]
    assert list(log.metrics["vae_loss"].values)[-3:] == [9.0, 9.0, 9.0]
    assert log.resumed == [40]
    assert log.seconds == 10.0, "the time between two sessions is not one of training"
    (axes,) = charts_of(tmp_path)["training_losses"].axes
    assert [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_label() == "_session"] == [40]


def test_steps_are_marked_where_they_begin_and_named(tmp_path: Path) -> None:
    for number, step in enumerate(("vae", "gan", "flow")):
        write(tmp_path, step, old_lines(10, 10 + 100 * number))

    (axes,) = charts_of(tmp_path)["training_losses"].axes

    assert [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_label() == "_step"] == [100, 200]
    assert [text.get_text() for text in axes.texts] == ["vae", "gan", "flow"]


def test_short_steps_are_named_too_in_rows_above_each_other_and_within_the_chart(tmp_path: Path) -> None:
    first = 10
    for step, count in {"vae_warmup": 400, "vae_gan": 600, "flow_pretraining": 300, "finish": 2, "polish": 2}.items():
        write(tmp_path, step, old_lines(count, first))
        first += 10 * count

    logs = read_run(tmp_path)
    names = step_names(logs, letters=90)
    (axes,) = charts_of(tmp_path)["training_losses"].axes

    assert [(name, row) for name, _, row in names] == [
        ("vae_warmup", 0), ("vae_gan", 0), ("flow_pretraining", 0), ("finish", 1), ("polish", 2),
    ]  # fmt: skip
    assert max(middle + len(name) / 90 / 2 for name, middle, _ in names) <= 1.0
    assert [text.get_text() for text in axes.texts] == [name for name, _, _ in names]
    assert [text.xy[0] for text in axes.texts][:3] == [2005, 7000, 11500]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("values", "scale"), [([1.0, 100.0], "log"), ([1.0, 2.0], "linear"), ([-1.0, 100.0], "linear")]
)
def test_a_wide_range_of_positive_losses_is_shown_on_a_logarithmic_scale(
    tmp_path: Path, values: list[float], scale: str
) -> None:
    write(tmp_path, "vae", [{"global_step": n, "metrics": {"vae_loss": v}} for n, v in enumerate(values)])

    assert charts_of(tmp_path)["training_losses"].axes[0].get_yscale() == scale


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=50), st.integers(1, 200))
def test_a_long_line_keeps_its_peaks_when_it_is_thinned_out(values: list[float], repeat: int) -> None:
    long = np.tile(np.array(values), repeat)

    at, kept = decimated(np.arange(len(long), dtype=float), long)

    assert len(at) <= POINTS
    assert np.isnan(long).all() or (np.nanmax(kept), np.nanmin(kept)) == (np.nanmax(long), np.nanmin(long))
    assert (np.diff(at) > 0).all()
    assert np.array_equal(kept, long[at.astype(int)], equal_nan=True)


def test_smoothing_keeps_a_constant_and_a_gap() -> None:
    values = np.full(200, 3.0)
    values[50:60] = math.nan

    _, found = smoothed(np.arange(200.0), values)

    assert np.array_equal(np.isnan(found), np.isnan(values))
    assert np.allclose(found[~np.isnan(found)], 3.0)


def test_a_million_logged_batches_become_few_points(tmp_path: Path) -> None:
    log = StepLog("flow", first=0, last=1e6)
    log.metrics["flow_loss"] = Series()
    log.metrics["flow_loss"].at.extend(range(1_000_000))
    log.metrics["flow_loss"].values.extend(math.sin(n) for n in range(1_000_000))

    figure = chart(panels_of([log]), [log], columns=1)

    assert labels(figure)["flow_loss"] <= POINTS


def test_the_summary_has_the_range_of_each_metric_and_each_epoch(notifier: Callable[..., Any], run: Any) -> None:
    notify = notifier(Jsonl())
    for epoch in range(2):
        notify("epoch_started", run, step=run.steps[0], position=Position(0, epoch, 0, 4 * epoch, 4 * epoch))
        for batch in range(1, 5):
            at = 4 * epoch + batch
            place = Position(0, epoch, batch, at, at)
            notify("metrics_logged", run, step=run.steps[0], position=place, metrics={"vae_loss": 1.0 / at})
        summaries = {"vae_loss": Summary(0.5, 0.25 / (epoch + 1), 1.0, 0.5)}
        place = Position(0, epoch + 1, 0, at, at)
        notify("epoch_ended", run, step=run.steps[0], position=place, summaries=summaries)

    text = summary(read_run(run.folder))

    assert re.search(r"vae_warmup: batches 1 to 8, 2 epochs, 0:00:0\d", text)
    assert re.search(r"vae_loss +1 +0\.125 +0\.125 +1 +0\.33973 +8\n", text)
    assert re.search(r"vae_loss +1 +0\.25 +0\.5 +1\n +2 +0\.125 +0\.5 +1\n", text)


def test_the_observer_writes_charts_at_the_end_of_a_run_and_joins_every_run(
    notifier: Callable[..., Any], run: Any
) -> None:
    write(run.folder, "vae", old_lines(2))
    (run.folder / "graph" / "learning_rates.png").write_bytes(b"outdated")

    notifier(Graphs())("run_ended", run, position=Position(), steps=run.steps)

    assert Graphs.default
    assert {path.name for path in (run.folder / "graph").glob("*.png")} == {
        "training_losses.png",
        "kl_loss.png",
        "batch_times.png",
        "training_overview.png",
    }


def test_a_failing_chart_does_not_fail_the_run(
    notifier: Callable[..., Any], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(logs: Any, folder: Path) -> list[Path]:
        raise ValueError("no font")

    monkeypatch.setattr("fluxflow_observers.graphs.observer.write_graphs", broken)

    notifier(Graphs())("run_ended", run, position=Position(), steps=run.steps)

    (message,) = run.warnings
    assert message.splitlines()[0] == "cannot write the charts: ValueError: no font"


#: What no run writes, and no chart can hold: names, counts and values.
NAMES = [r"$\bad$", "$", "\ud800", "a\nb", ""]
COUNTS: list[Any] = [1e308, 10**400, -5, [1], "x", 1e15]
EPOCHS: list[Any] = [1e300, -1, [], {}]
VALUES: list[Any] = [1e308, -1e308, 10**400, [1], None, True, "x", {}]
EDITED: list[dict[str, Any]] = [
    *({"global_step": 2, "epoch": 1, "metrics": {name: 1.0}} for name in NAMES),
    *({"global_step": count, "metrics": {"loss": 1.0}} for count in COUNTS),
    *({"global_step": 3, "epoch": epoch, "metrics": {"loss": 1.0}} for epoch in EPOCHS),
    *({"global_step": 4, "metrics": {"loss": value}} for value in VALUES),
    {"global_step": 5, "metrics": [1], "evaluation": {"a": 1}, "epoch_summary": {"a": 3, "b": {"min": 1e308}}},
    {"global_step": 6, "metrics": {"loss": 1.0}, "resumed_after": 1e300, "seconds_per_batch": 1e308},
]


def test_charts_of_an_edited_log_show_what_can_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [{"global_step": at, "epoch": 1, "metrics": {"vae_loss": 1.0 / at}} for at in (1, 2, 7)]
    write(tmp_path, "vae", [*good[:2], *EDITED, good[2]], tail="[" * 100_000 + '\n{"global_step": NaN}\n[1]\n')

    with pytest.raises(SystemExit) as left:
        command([str(tmp_path)])

    assert not left.value.code, capsys.readouterr().err
    text = (tmp_path / "graph" / "training_summary.txt").read_text()
    assert re.search(r"vae: batches 1 to 7, 1 epoch,", text)
    assert "14 lines could not be read" in text
    assert "vae_loss" in labels(charts_of(tmp_path)["training_overview"])


def test_a_run_that_has_logged_nothing_has_no_charts(tmp_path: Path) -> None:
    assert write_graphs(read_run(tmp_path), tmp_path / "graph") == []
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize(
    ("metric", "kind"),
    [
        ("vae_loss", "loss"), ("d_loss", "loss"), ("vae/l1", "loss"), ("kl_loss", "kl"), ("vae/kl", "kl"),
        ("vae/kl/weight", "weight"), ("kl_beta", "weight"), ("vae/lr", "rate"), ("lr_vae", "rate"),
        ("vae/grad_norm", "norm"), ("made_up", "other"),
    ],
)  # fmt: skip
def test_the_name_of_a_metric_determines_its_kind(metric: str, kind: str) -> None:
    assert kind_of(metric) == kind


def test_a_folder_without_metrics_is_an_error_that_names_the_runs_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small-20260101-000000" / "graph").mkdir(parents=True)

    with pytest.raises(SystemExit) as left:
        command([str(tmp_path)])

    err = capsys.readouterr().err
    assert left.value.code == 2
    assert "has no metrics: there is no line in graph/training_metrics*.jsonl" in err
    assert "small-20260101-000000" in err
