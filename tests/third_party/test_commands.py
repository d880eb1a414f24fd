"""A plugin outside the repository adds a command and another form of recipe through the public door alone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from attrs import frozen

from fluxflow_registry.cli import main as fluxflow_run

from ..synthetic import Site

SOURCE = Path(__file__).parent / "fluxflow_cards.py"
CARD = '{\n  "card": "small",\n  "latent_channels": 4,\n  "rate": 1.0e-3\n}\n'

#: Stops every run after its first batch, as a preempted machine does; a resumed run is left alone.
STOP = '''
import os
import signal

from attrs import define
from fluxflow_registry import hookimpl


@define
class Stop:
    """Sends SIGTERM after the first batch."""

    default = True

    @hookimpl
    def batch_ended(self, position):
        if position.run_batch == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@hookimpl
def fluxflow_register_observers(register):
    register("stop", Stop)
'''


@frozen
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def cards(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plugin, installed, and a card in the working folder."""
    site.distribution("cards", {"cards": "fluxflow_cards"}, fluxflow_cards=SOURCE.read_text())
    monkeypatch.chdir(tmp_path)
    Path("card.json").write_text(CARD)
    return importlib.import_module("fluxflow_cards")


@pytest.fixture
def train_card(cards: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command `train-card`."""

    def run(*argv: str) -> Result:
        with pytest.raises(SystemExit) as left:
            cards.run(argv)
        return Result(int(left.value.code or 0), *capsys.readouterr())

    return run


def test_a_card_is_trained_and_the_same_command_resumes_it(train_card: Run) -> None:
    Path("stop.py").write_text(STOP)
    command = ["card.json", "--plugin", "stop.py", "--device", "cpu", "--json"]

    stopped = train_card(*command)
    resumed = train_card(*command)

    assert (stopped.code, resumed.code) == (75, 0), resumed.err
    (run,) = Path("runs").iterdir()
    assert json.loads(resumed.out)["run"] == str(run)
    metrics = (run / "graph" / "training_metrics_only.jsonl").read_text().splitlines()
    assert [line["global_step"] for line in map(json.loads, metrics) if "seconds_per_batch" in line] == [1, 2]
    assert (run / "final" / "expander" / "model.safetensors").is_file()


def test_every_mistake_on_the_card_is_reported_at_its_own_line(train_card: Run) -> None:
    Path("card.json").write_text(CARD.replace('"rate": 1.0e-3', '"rate": 0.0,\n  "optimiser": "SGD"'))

    result = train_card("card.json")

    assert result.code == 2
    problems = [line for line in result.err.splitlines() if line.startswith("card.json")]
    assert [line.split()[0] for line in problems] == ["card.json:4:11", "card.json:5:3"]
    assert "unknown key `optimiser` in the card" in problems[1]


def test_a_mistake_that_only_the_recipe_shows_is_reported_at_the_value_of_the_card(train_card: Run) -> None:
    Path("card.json").write_text(CARD.replace('"rate"', '"optimizer": "AdmaW",\n  "rate"'))

    result = train_card("card.json", "--check-only")

    assert result.code == 2
    assert result.err.startswith("card.json:4:16  unknown optimizer `AdmaW`")
    assert "nearest    AdamW" in result.err


def test_a_valid_card_is_checked_with_the_settings_of_the_command_line(train_card: Run) -> None:
    valid = train_card("card.json", "--check-only", "--set", "steps.only.epochs=2")
    wrong = train_card("card.json", "--check-only", "--set", "steps.only.epoch=2")

    assert (valid.code, valid.out) == (0, "the card is valid\n")
    assert wrong.code == 2
    assert "--set steps.only.epoch=2" in wrong.err


@pytest.mark.parametrize(("flags", "command"), [([], "train-card card.json"), (["--validate"], "--check-only")])
def test_fluxflow_run_names_the_command_that_trains_the_card(
    cards: ModuleType, capsys: pytest.CaptureFixture[str], flags: list[str], command: str
) -> None:
    with pytest.raises(SystemExit) as left:
        fluxflow_run.run(["card.json", *flags])

    assert left.value.code == 2
    err = capsys.readouterr().err
    assert "`card.json` is a card, not a recipe" in err
    assert command in err
