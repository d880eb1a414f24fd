"""The pages show what the commands print, and the package of `docs/write-a-loss.md` is found and trains.

Everything that executes a page is in this file, so that one process executes it once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxflow_registry.check.checker import check
from fluxflow_registry.engine.models.build import build_models
from fluxflow_registry.registry.discovery import load

from .conftest import PAGES, Reading
from .story import REPOSITORY, Command, agrees, blocks, commands, shell

DOCS = [
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *(REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
]

#: All commands of a page run before its first test, and some of them train.
pytestmark = pytest.mark.timeout(1200)

#: Commands that show a mistake.
MISTAKEN = re.compile(r"typo|eps=0|warmup=soon")

#: Commands that show a proof that fails.
DISPROVED = re.compile(r"jitter\.py --prove-resume")


def shown() -> Iterator[tuple[str, Command]]:
    for page in PAGES:
        for block in blocks(REPOSITORY / "docs" / f"{page}.md"):
            if block.language == "console":
                yield from ((page, command) for command in commands(block))


@pytest.mark.parametrize(("page", "command"), [pytest.param(p, c, id=f"{p}:{c.line}") for p, c in shown()])
def test_a_command_prints_what_the_page_shows(readings: dict[str, Reading], page: str, command: Command) -> None:
    played = readings[page].played[command.line]

    if not agrees(command.output, played.output):
        pytest.fail(f"docs/{page}.md:{command.line}  {command.text}\nnow prints\n{played.output}", pytrace=False)


@pytest.mark.parametrize(("page", "command"), [pytest.param(p, c, id=f"{p}:{c.line}") for p, c in shown()])
def test_mistakes_exit_with_2_failures_with_1_and_everything_else_with_0(
    readings: dict[str, Reading], page: str, command: Command
) -> None:
    mistaken = command.text.startswith(("fluxflow-run", "fluxflow-train")) and MISTAKEN.search(command.text) is not None

    code = 2 if mistaken else 1 if DISPROVED.search(command.text) else 0
    assert readings[page].played[command.line].code == code


@pytest.mark.parametrize(
    ("shown_", "printed", "same"),
    [
        ("a\n...\nd", "a\nb\nc\nd", True),
        ("a\n...\nd", "a\nd\n", True),
        ("a\n...", "a\nb", True),
        ("a\n...\nd", "a\nb\nc", False),
        ("a", "a\nb", False),
        ("", "", True),
        ("", "warning", False),
        ("eps = 0.001", "eps = 0.002", False),
        ("[03:56:14] vae_loss: 0.3982", "[11:00:00] vae_loss: 0.4017", True),
        ("[03:56:14] vae_loss: 0.3982", "[11:00:00] vae_l1: 0.3982", False),
    ],
)
def test_an_output_agrees_up_to_elisions_and_the_numbers_of_a_run(shown_: str, printed: str, same: bool) -> None:
    assert agrees(shown_, printed) is same


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.stem)
def test_every_link_between_pages_has_a_target(page: Path) -> None:
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text())

    for target in targets:
        file, _, heading = target.partition("#")
        other = page.parent / file if file else page
        assert target.startswith("http") or other.exists(), target
        assert not heading or heading in _anchors(other.read_text()), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.fixture
def reading(readings: dict[str, Reading]) -> Reading:
    """The page, executed to its end."""
    return readings["write-a-loss"]


def run_json(reading: Reading, command: str) -> Any:
    done = shell(f"{command} --json", reading.folder, reading.environment)
    assert done.returncode == 0, done.stdout
    return json.loads(done.stdout)


def lines(run: Path, step: str) -> list[dict[str, Any]]:
    file = run / "graph" / f"training_metrics_{step}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def run_of(reading: Reading, name: str) -> Path:
    (found,) = (reading.folder / "runs").glob(f"{name}-*")
    return found


def test_the_package_installs_its_module_and_nothing_else(reading: Reading) -> None:
    (folder,) = (reading.home / "target").glob("*.dist-info")

    files = {str(file) for file in PathDistribution(folder).files or ()}

    own = {file for file in files if ".dist-info/" not in file and not file.endswith(".pyc")}
    assert own == {"fluxflow_charbonnier.py"}


def test_the_installed_loss_is_listed_with_its_distribution_and_version(reading: Reading) -> None:
    listed = run_json(reading, "fluxflow-run --list-plugins loss")

    (row,) = [row for row in listed["components"] if row["name"] == "charbonnier"]
    assert (row["plugin"], row["distribution"], row["version"]) == ("charbonnier", "fluxflow-charbonnier", "1.0")
    assert row["needs"] == ["reconstruction", "image"]


def test_the_installed_loss_is_described_with_the_file_and_line_of_its_class(reading: Reading) -> None:
    (described,) = run_json(reading, "fluxflow-run --describe charbonnier")

    file, _, line = described["where"].rpartition(":")
    source = (reading.home / "target" / file).read_text().splitlines()
    assert "class Charbonnier:" in source[int(line) - 1 : int(line) + 1]


def test_the_loss_alone_moves_the_decoder_of_the_small_recipe(reading: Reading) -> None:
    file = reading.home / "target" / "fluxflow_charbonnier.py"
    checked = check(reading.folder / "try.yaml", load(("shapes", "torch", "vae"), [file]))
    (update,) = checked.steps[0].updates.values()
    reach = {label: loss.reaches for label, loss in update.losses.items()}
    before = build_models(checked, torch.device("cpu"))["expander"].state_dict()

    after = load_file(run_of(reading, "try") / "final" / "expander" / "model.safetensors")

    assert [label for label, models in reach.items() if "expander" in models] == ["charbonnier"]
    assert all(not torch.equal(after[key], weight) for key, weight in before.items() if weight.is_floating_point())


def test_a_copy_of_the_default_recipe_trains_with_it_under_its_own_name(reading: Reading) -> None:
    run = run_of(reading, "vae_gan_flow")

    for step in ("vae_warmup", "vae_gan"):
        batches = [line["metrics"] for line in lines(run, step) if "seconds_per_batch" in line]
        assert batches
        assert all(metrics["vae/charbonnier"] > 0 for metrics in batches)
        assert not any("vae/mse" in metrics for metrics in batches)


def test_the_copy_moves_the_autoencoder_from_step_to_step(reading: Reading) -> None:
    checkpoints = run_of(reading, "vae_gan_flow") / "checkpoints"
    warmup, gan, flow = sorted(path for path in checkpoints.iterdir() if path.name.endswith("-end"))

    for name, first, second, moves in [
        ("compressor", warmup, gan, True),
        ("expander", warmup, gan, True),
        ("expander", gan, flow, False),
        ("flow_processor", gan, flow, True),
    ]:
        a, b = (load_file(folder / f"model.{name}.safetensors") for folder in (first, second))
        assert any(not torch.equal(a[key], b[key]) for key in a) is moves, name


def test_the_run_records_the_package_of_its_loss(reading: Reading) -> None:
    facts = json.loads((run_of(reading, "vae_gan_flow") / "environment.json").read_text())

    (plugin,) = [plugin for plugin in facts["plugins"] if plugin["name"] == "charbonnier"]
    assert (plugin["distribution"], plugin["version"]) == ("fluxflow-charbonnier", "1.0")
