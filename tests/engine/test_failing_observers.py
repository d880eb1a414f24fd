"""An observer that fails is reported once and dropped, unless it is required; a failed run notifies its observers."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import field, frozen

from fluxflow_registry import FluxflowError, hookimpl
from fluxflow_registry.check.checker import check
from fluxflow_registry.contracts import Lifecycle
from fluxflow_registry.errors import RecipeError, TrainingError
from fluxflow_registry.plan.steps import RecipePlan
from fluxflow_registry.registry.discovery import add_plugin, load
from fluxflow_registry.registry.registry import Plugin, Registry

from ..small import FLOW, PLUGINS, VAE_GAN
from ..synthetic import plugin
from .conftest import start
from .test_resume import Listener, finals

Checker = Callable[..., RecipePlan]

#: Every event of a run that ends well.
EVENTS = [
    name for name in vars(Lifecycle) if name[0] != "_" and name not in ("warned", "run_interrupted", "run_failed")
]

ERRORS: dict[str, Exception] = {
    "an exception": RuntimeError("503"),
    "an error of a server": urllib.error.HTTPError("http://tracker", 503, "Service Unavailable", None, None),  # type: ignore[arg-type]
    "an error of a file": PermissionError(13, "Permission denied"),
    "a problem": FluxflowError("the tracker has no such project"),
    "a missing attribute": AttributeError("step"),
}


def _hook(name: str) -> Any:
    def hook(self: Any) -> None:
        self.called(name)

    hook.__name__ = name
    return hookimpl(hook)


class _Tracker:
    """Fails in one event; counts the calls of all."""

    calls: ClassVar[list[str]] = []

    def called(self, event: str) -> None:
        self.calls.append(event)
        if event == self.event:  # type: ignore[attr-defined]
            raise ERRORS[self.error]  # type: ignore[attr-defined]


for _name in (*EVENTS, "warned", "run_failed"):
    setattr(_Tracker, _name, _hook(_name))


@frozen(eq=False, slots=False)
class Tracker(_Tracker):
    event: str = "metrics_logged"
    error: str = "an exception"
    required: bool = False


@frozen(eq=False, slots=False)
class Strange(_Tracker):
    required: str = field(default="always")


@pytest.fixture(scope="module")
def tracking() -> Registry:
    made = load(PLUGINS)
    add_plugin(made, Plugin("tracking", "test", "1", "here"), plugin(observers={"tracker": Tracker}))
    return made


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    _Tracker.calls.clear()


def test_a_problem_that_an_observer_reports_before_anything_is_trained_ends_the_run(
    checked: Checker, tmp_path: Path, tracking: Registry
) -> None:
    options = "observers.tracker={event: run_started, error: a problem}"

    with pytest.raises(FluxflowError, match="the tracker has no such project"):
        start(checked(VAE_GAN, options, using=tracking), tmp_path)

    assert not list(tmp_path.rglob("checkpoints/0*"))


@pytest.mark.parametrize(
    ("event", "error"), [pair for pair in product(EVENTS, ERRORS) if pair != ("run_started", "a problem")]
)
def test_an_observer_that_fails_is_reported_once_and_dropped(
    checked: Checker, tmp_path: Path, tracking: Registry, uninterrupted: Callable[..., Any], event: str, error: str
) -> None:
    heard: list[str] = []
    options = f"observers.tracker={{event: {event}, error: {error}}}"

    run = start(checked(VAE_GAN + FLOW, options, using=tracking), tmp_path, [Listener(heard)]).run

    assert _Tracker.calls.count(event) == 1
    assert _Tracker.calls[-1] == event
    (warning,) = heard
    assert warning.startswith(f"observer `tracker` failed in `{event}`: ")
    assert "; it is no longer notified, and training continues" in warning
    assert ("raised at" in warning) == (error != "a problem")
    assert finals(run) == finals(uninterrupted(VAE_GAN + FLOW))


@pytest.mark.parametrize("event", EVENTS)
def test_a_required_observer_that_fails_ends_the_run_by_name(
    checked: Checker, tmp_path: Path, tracking: Registry, event: str
) -> None:
    options = f"observers.tracker={{event: {event}, required: true}}"

    with pytest.raises(TrainingError, match=f"observer `tracker` failed in `{event}`: RuntimeError: 503") as caught:
        start(checked(VAE_GAN + FLOW, options, using=tracking), tmp_path)

    assert caught.value.problems[0].subject == "tracker"
    assert _Tracker.calls[-1] == "run_failed"


def test_an_observer_that_fails_in_a_warning_is_dropped_and_the_others_receive_both(
    checked: Checker, tmp_path: Path, tracking: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Warns:
        @hookimpl
        def step_started(self, run: Any, position: Any) -> None:
            run.warn(position, "look")

    heard: list[str] = []
    options = "observers.tracker={event: warned}"

    start(checked(VAE_GAN, options, using=tracking), tmp_path, [Warns(), Listener(heard)])

    assert _Tracker.calls.count("warned") == 1
    assert sorted(message.partition(":")[0] for message in heard) == ["look", "observer `tracker` failed in `warned`"]


def test_the_failure_of_the_only_observer_that_listens_to_warnings_is_printed(
    checked: Checker, tmp_path: Path, tracking: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    start(checked(VAE_GAN, "observers.tracker={event: step_started}", using=tracking), tmp_path)

    assert capsys.readouterr().err.startswith(
        "warning: observer `tracker` failed in `step_started`: RuntimeError: 503;"
    )


class Ended:
    """Collects how a run ends."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, Any]] = []

    @hookimpl
    def run_failed(self, position: Any, error: str) -> None:
        self.ends.append((error, position.run_batch))

    @hookimpl
    def run_interrupted(self) -> None:
        self.ends.append(("interrupted", None))

    @hookimpl
    def run_ended(self) -> None:
        self.ends.append(("ended", None))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("no such sample"), "ValueError: no such sample"),
        (TrainingError("the loss is gone"), "the loss is gone"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_a_run_that_fails_notifies_its_observers_once(
    checked: Checker, tmp_path: Path, tracking: Registry, error: BaseException, words: str
) -> None:
    class Breaks:
        @hookimpl
        def batch_ended(self, run: Any, position: Any) -> None:
            if position.run_batch == 3:
                run.engine.data.report_replaced = self.fail

        def fail(self, *_: Any) -> None:
            raise error

    ended, unharmed = Ended(), "observers.tracker={event: run_failed}"

    with pytest.raises(type(error)):
        start(checked(VAE_GAN, unharmed, using=tracking), tmp_path, [Breaks(), ended])

    assert ended.ends == [(words, 3)]


def test_whether_an_observer_is_required_is_true_or_false(tmp_path: Path) -> None:
    made = load(PLUGINS)
    add_plugin(made, Plugin("strange", "test", "1", "here"), plugin(observers={"strange": Strange}))
    (tmp_path / "recipe.yaml").write_text(VAE_GAN)

    with pytest.raises(RecipeError, match="`required` of observer `strange` must be"):
        check(tmp_path / "recipe.yaml", made, ("observers.strange={}",))
