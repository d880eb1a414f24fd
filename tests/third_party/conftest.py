"""A distribution of somebody else's, installed by pip and run once: what `docs/write-a-loss.md` holds, and an echo."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from ..docs.story import REPOSITORY, blocks, folder_of, reader, shell

#: The files of the page that are plugins of their own.
MODULES = ("edges", "linear_expander", "stripes", "stalled", "journal")

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "fluxflow-own"
version = "2.3"
dependencies = ["fluxflow-registry"]

[project.entry-points.fluxflow]
{entry_points}

[tool.hatch.build.targets.wheel]
only-include = {files}
"""

#: Tells what a batch holds: the mean square of its images is logged as a loss that moves nothing.
ECHO = '''
"""Loss `echo`: what the batch that is trained on looks like."""

from fluxflow_registry import hookimpl


def echo(image, reconstruction):
    """The mean square of the images."""
    return image.square().mean() + 0 * reconstruction.mean()


@hookimpl
def fluxflow_register_losses(register):
    register("echo", echo)
'''

#: Every gradient comes through the third-party value; half of every epoch is saved.
RECIPE = """
recipe: 1
name: own
models:
  compressor: {type: compressor, latent_channels: 4, width: 8}
  expander: {type: linear_expander, latent_channels: 4}
datasets:
  stripes: {type: stripes, length: 64}
values:
  edges_of_reconstruction: {type: edges, with: {image: reconstruction}}
observers:
  journal: {file: reported.txt}
steps:
  vae:
    dataset: stripes
    batch_size: 8
    epochs: 20
    log_every: 1
    checkpoint_every: 4
    until: {type: stalled, metric: vae/edge_l1, patience: 2, margin: 0.9}
    updates:
      vae:
        trains: [compressor, expander]
        losses:
          edge_l1: {type: l1, with: {reconstruction: edges_of_reconstruction, image: edges}}
          echo: {weight: 1.0e-6}
        optimizer: {type: AdamW, lr: 2.0e-3}
    evaluate:
      stripes: {dataset: stripes, samples: 16, metrics: {psnr: {}}}
"""


@frozen
class Installed:
    """The distribution, installed into a folder of its own, and the run that was made with it."""

    target: Path
    run: Path
    printed: str
    ask: Callable[[str], Any]

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The figures of every batch."""
        lines = (self.run / "graph" / "training_metrics_vae.jsonl").read_text().splitlines()
        return [line["metrics"] for line in map(json.loads, lines) if "seconds_per_batch" in line]


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Built and installed outside the repository, listed and trained with by the command."""
    home = tmp_path_factory.mktemp("third_party")
    folder, environment = folder_of(home), reader(home)
    write_package(folder / "package")
    (folder / "own.yaml").write_text(RECIPE)

    def run(command: str) -> str:
        done = shell(command, folder, environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    run("pip install --quiet ./package")
    printed = run("fluxflow-run own.yaml")
    (made,) = (folder / "runs").iterdir()
    return Installed(home / "target", made, printed, lambda command: json.loads(run(f"{command} --json")))


def write_package(folder: Path) -> None:
    """The plugins of the page as modules of one distribution, an entry point each."""
    folder.mkdir()
    texts = {block.file: block.text for block in blocks(REPOSITORY / "docs" / "write-a-loss.md") if block.file}
    files = {f"own_{name}.py": texts[f"{name}.py"] for name in MODULES} | {"own_echo.py": ECHO}
    points = [f'{file[4:-3]} = "{file[:-3]}"' for file in files]
    for file, text in files.items():
        (folder / file).write_text(text)
    pyproject = PYPROJECT.format(entry_points="\n".join(points), files=json.dumps(sorted(files)))
    (folder / "pyproject.toml").write_text(pyproject)
