"""The console shows the progress of a run: as plain lines, or as bars that leave the terminal as it was."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from attrs import evolve
from rich.console import Console as Rich

from fluxflow_observers.console import observer as console_module
from fluxflow_observers.console.observer import Console
from fluxflow_observers.console.progress import LiveBars, PlainLines, Progress
from fluxflow_observers.terminal import TolerantStream, is_live, open_console
from fluxflow_registry import Ending, Position, Summary

Notify = Callable[..., None]

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Terminal(StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that requests nothing about colors or terminals."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 100 columns instead of standard error."""
    stream = Terminal()

    def open_console() -> Rich:
        return Rich(file=stream, force_terminal=True, width=100, height=30, highlight=False, markup=False)

    monkeypatch.setattr(console_module, "open_console", open_console)
    return stream


def play(notify: Notify, run: Any, until: str = "") -> None:
    """A run of 2 epochs of 4 batches in its first step, up to the event `until`."""
    step, metrics = run.steps[0], {"vae_loss": 0.0234, "vae/kl": 12.45, "vae/lr": 0.001}
    place = Position()
    notify("run_started", run, position=place, resumed=False)
    notify("step_started", run, step=step, position=place)
    for epoch in range(2):
        notify("epoch_started", run, step=step, position=Position(0, epoch, 0, 4 * epoch, 4 * epoch))
        for batch in range(1, 5):
            place = Position(0, epoch, batch, 4 * epoch + batch, 4 * epoch + batch)
            notify("batch_ended", run, step=step, position=place)
            notify("metrics_logged", run, step=step, position=place, metrics=metrics)
            if until == "batch":
                return
        notify("evaluated", run, step=step, position=place, name="held_out", metrics={"psnr": 30.0, "accuracy": 0.5})
        place = Position(0, epoch + 1, 0, 4 * epoch + 4, 4 * epoch + 4)
        summaries = {"vae_loss": Summary(0.5, 0.1, 0.9, 0.2)}
        notify("epoch_ended", run, step=step, position=place, summaries=summaries)
    notify("evaluated", run, step=step, position=place, name="held_out", metrics={"psnr": 30.0, "accuracy": 0.5})
    notify("step_ended", run, step=step, position=place, ending=Ending("2 epochs"))
    notify("run_ended", run, position=Position(1, run_batch=8), steps=run.steps)


def lines(text: str) -> list[str]:
    """The lines of an output, with placeholders for times."""
    text = re.sub(r"\[\d\d:\d\d:\d\d\]", "[TIME]", text)
    return re.sub(r"[\d.e-]+s/batch", "Xs/batch", re.sub(r"\d+:\d\d:\d\d", "SPAN", text)).splitlines()


def test_in_a_pipe_progress_is_printed_as_plain_lines_on_standard_error(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    play(notifier(Console()), run)

    out, err = capsys.readouterr()
    head = "[TIME] Step vae_warmup (1/2)"
    assert out == ""
    assert lines(err) == [
        f"Run small: 2 steps, in {run.folder}",
        "STEP 1/2: vae_warmup, 2 epochs of 4 batches, trains compressor",
        f"{head} | Epoch 1/2 | Evaluation held_out | psnr: 30.00 dB | accuracy: 50.0%",
        f"{head} | Epoch 1/2 | Batch 4/4 | Epoch means | VAE: 0.5 | Xs/batch",
        f"{head} | Epoch 2/2 | Batch 4/4 | Epoch means | VAE: 0.5 | Xs/batch",
        "Step vae_warmup (1/2) finished: 2 epochs | 8 batches | SPAN",
        f"Done in SPAN: {run.folder}",
    ]


def test_a_line_is_printed_every_so_many_seconds(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    play(notifier(Console(every_seconds=1e-9)), run)

    found = [line for line in lines(capsys.readouterr().err) if "Batch 3/4" in line]
    assert found == [
        f"[TIME] Step vae_warmup (1/2) | Epoch {epoch}/2 | Batch 3/4 | VAE: 0.0234 | KL: 12.45 | Xs/batch"
        for epoch in (1, 2)
    ]


def test_a_long_line_is_not_wrapped_in_a_pipe(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    notify = notifier(Console())

    notify("warned", run, position=Position(), message="[bold] " + "word " * 500)

    assert capsys.readouterr().err == "warning: [bold] " + "word " * 500 + "\n"


def test_a_warning_before_the_run_starts_is_not_lost(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    notify = notifier(Console())

    notify("warned", run, position=Position(), message="a damaged checkpoint is skipped")
    notify("run_started", run, position=Position(), resumed=False)

    assert capsys.readouterr().err.splitlines()[0] == "warning: a damaged checkpoint is skipped"


@pytest.mark.parametrize(
    ("position", "expected"),
    [
        (Position(1, 2, 3, 13, 21), "Resuming at step flow (2/2), epoch 3/3, after batch 3/5"),
        (Position(1, 0, 0, 0, 8), "Resuming at step flow (2/2), before its first batch"),
        (Position(2, run_batch=23), "Resuming: all steps are done; writing what is missing"),
    ],
)
def test_a_resumed_run_prints_where_it_resumes(
    position: Position,
    expected: str,
    notifier: Callable[..., Notify],
    run: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notifier(Console())("run_started", run, position=position, resumed=True)

    assert capsys.readouterr().err.splitlines()[1:] == [expected]


@pytest.mark.parametrize(
    ("position", "reason", "expected"),
    [
        (
            Position(0, 1, 2, 6, 6),
            "SIGINT",
            "stopped by SIGINT in step vae_warmup (1/2), epoch 2/2, after batch 2/4; "
            "checkpoint saved; rerun the same command to resume",
        ),
        (Position(2, run_batch=23), "", "stopped; checkpoint saved; rerun the same command to resume"),
    ],
)
def test_an_interrupted_run_prints_how_to_resume_it(
    position: Position,
    reason: str,
    expected: str,
    notifier: Callable[..., Notify],
    run: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    notifier(Console())("run_interrupted", run, position=position, reason=reason)

    assert capsys.readouterr().err == expected + "\n"


def test_colors_are_used_in_a_pipe_only_if_the_environment_requests_them(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {}
    for variable in ("", "FORCE_COLOR", "NO_COLOR"):
        stream = StringIO()
        with monkeypatch.context() as environment:
            if variable:
                environment.setenv(variable, "1")
            console = open_console(stream)
            PlainLines(console, 10.0).message("warning", "yellow")
            assert not is_live(console)
        written[variable] = stream.getvalue()

    assert written == {"": "warning\n", "FORCE_COLOR": "\x1b[33mwarning\x1b[0m\n", "NO_COLOR": "warning\n"}


def test_no_color_is_honored_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    console = open_console(stream)

    PlainLines(console, 10.0).message("warning", "yellow")

    assert stream.getvalue() == "warning\n"
    assert is_live(console)


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert not is_live(open_console(Terminal()))


def test_on_a_terminal_three_bars_show_what_is_done_and_what_is_left(
    notifier: Callable[..., Notify], run: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "open_display", lambda console, _: LiveBars(console))
    monkeypatch.setattr("fluxflow_observers.console.progress.REFRESH", 0.0)
    notify = notifier(observer := Console())

    play(notify, run, until="batch")
    notify("batch_ended", run, step=run.steps[0], position=Position(0, 0, 2, 2, 2))
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue())
    assert observer._state.display is not None
    observer._state.display.close()

    last = shown[shown.rindex("Run small") :]
    assert re.search(r"Run small +[━╸╺ ]+ +9% +2/23 +~0:00:0\d left", last)
    assert re.search(r"Step vae_warmup \(1/2\) +[━╸╺ ]+ +25% +2/8 +0:00:0\d left", last)
    assert re.search(r"Epoch 1/2 +[━╸╺ ]+ +50% +2/4 +0:00:0\d left", last)
    assert re.search(r"VAE: 0.0234 \| KL: 12.45 \| [\d.e-]+s/batch", last)


def test_messages_stay_above_the_bars_and_the_cursor_is_shown_again(
    notifier: Callable[..., Notify], run: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "open_display", lambda console, _: LiveBars(console))
    stderr = sys.stderr

    play(notifier(Console()), run)

    written = terminal.getvalue()
    assert written.count(HIDE_CURSOR) == written.count(SHOW_CURSOR) == 1
    assert written.rindex(SHOW_CURSOR) > written.rindex(HIDE_CURSOR)
    assert "STEP 1/2: vae_warmup" in written
    assert "Done in" in written
    assert sys.stderr is stderr


def test_a_run_that_is_garbage_collected_restores_the_terminal(
    notifier: Callable[..., Notify], run: Any, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc

    monkeypatch.setattr(console_module, "open_display", lambda console, _: LiveBars(console))
    play(notifier(Console()), run, until="batch")

    gc.collect()

    assert terminal.getvalue().count(SHOW_CURSOR) == 1


DYING = """
import pluggy, sys
from pathlib import Path
from types import SimpleNamespace
from fluxflow_observers.console.observer import Console
from fluxflow_registry import Position, lifecycle

manager = pluggy.PluginManager("fluxflow")
manager.add_hookspecs(lifecycle.Lifecycle)
manager.register(Console())
step = SimpleNamespace(name="vae", index=0, epochs=1, batches=4, trains={"vae"})
run = SimpleNamespace(name="small", folder=Path("runs/small"), steps=[step], session="", results={})
manager.hook.run_started(run=run, position=Position(), resumed=False)
manager.hook.step_started(run=run, step=step, position=Position())
manager.hook.epoch_started(run=run, step=step, position=Position())
raise SystemExit("the device is gone")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_run_that_fails_restores_the_terminal() -> None:
    import pty

    controller, worker = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", DYING], stdin=worker, stdout=worker, stderr=worker, env=environment
    )
    os.close(worker)
    written = b""
    try:
        while part := os.read(controller, 4096):
            written += part
    except OSError:  # Linux reports this when the last writer is gone
        pass
    finally:
        os.close(controller)

    assert process.wait(30) == 1
    text = written.decode()
    assert text.count(HIDE_CURSOR) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
    assert "the device is gone" in text
    assert "Epoch 1/1" in text


def test_training_continues_when_the_reader_of_its_messages_is_gone(
    notifier: Callable[..., Notify], run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", broken)

    play(notifier(Console(every_seconds=1e-9)), run)

    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        broken.close()


def test_a_closed_stream_is_not_a_terminal_and_not_an_error() -> None:
    stream = StringIO()
    stream.close()
    tolerant = TolerantStream(stream)

    tolerant.write("text")
    tolerant.flush()

    assert tolerant.gone
    assert not tolerant.isatty()


def test_a_batch_costs_microseconds(notifier: Callable[..., Notify], run: Any) -> None:
    observer = Console(every_seconds=1000.0)
    notify = notifier(observer)
    place = Position(0, 0, 1, 1, 1)
    notify("run_started", run, position=place, resumed=False)
    notify("step_started", run, step=run.steps[0], position=place)

    costs = []
    for _ in range(20):
        started = time.thread_time()
        for _ in range(1000):
            observer.batch_ended(run, place)
        costs.append((time.thread_time() - started) / 1000)

    assert min(costs) < 20e-6


def test_a_metric_is_smoothed_over_its_last_twenty_values_unless_it_is_not_finite(run: Any) -> None:
    progress = Progress(run)

    for value in range(30):
        progress.log({"loss": float(value), "bad": float("nan") if value == 29 else 1.0})

    assert progress.smoothed()["loss"] == sum(range(10, 30)) / 20
    assert str(progress.smoothed()["bad"]) == "nan"


def test_the_line_of_a_gan_step_is_that_of_fluxflow(run: Any, steps: list[Any]) -> None:
    progress = Progress(run)
    progress.timer.seconds = 3.2
    metrics = {
        "discriminator_loss": 0.089,
        "vae_loss": 0.0234,
        "vae/kl": 12.45,
        "vae/hinge_generator": 0.156,
        "vae/lpips": 0.0812,
    }

    line = progress.line(evolve(steps[1], name="vae_gan", epochs=20, batches=500), Position(1, 4, 127), metrics)

    assert re.fullmatch(
        r"\[\d\d:\d\d:\d\d\] Step vae_gan \(2/2\) \| Epoch 5/20 \| Batch 127/500 \| "
        r"VAE: 0\.0234 \| KL: 12\.45 \| G: 0\.156 \| D: 0\.089 \| LPIPS: 0\.0812 \| 3\.2s/batch",
        line,
    )


def test_the_time_left_is_an_estimate_only_for_a_run_with_later_steps(run: Any) -> None:
    progress = Progress(run)

    progress.enter(run.steps[0], Position())
    first = [bar.estimated for bar in progress.bars()]
    progress.enter(run.steps[1], Position(1))

    assert first == [True, False, False]
    assert not any(bar.estimated for bar in progress.bars())


def test_a_recipe_may_name_metrics_for_the_console(
    notifier: Callable[..., Notify], run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    play(notifier(Console(every_seconds=1e-9, names={"vae/kl": "divergence"})), run)

    assert "| VAE: 0.0234 | divergence: 12.45 |" in capsys.readouterr().err


def test_steps_that_end_early_or_late_keep_the_bars_in_range(run: Any) -> None:
    progress = Progress(run)
    progress.enter(run.steps[0], Position())
    progress.position = Position(0, 3, 2, 14, 14)

    whole, step, epoch = progress.bars()
    assert (epoch.label, epoch.done, epoch.total) == ("Epoch 4/4", 2, 4)
    assert (step.done, step.total) == (14, 16)
    assert (whole.done, whole.total) == (14, 31)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_the_interval_between_lines_must_be_positive(seconds: float) -> None:
    with pytest.raises(ValueError, match="every_seconds"):
        Console(every_seconds=seconds)
