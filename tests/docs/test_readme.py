"""README shows a loss, the commands with their flags, and a report of problems: all of them are today's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .story import REPOSITORY, Command, agrees, blocks, commands, folder_of, reader, shell

PAGE = REPOSITORY / "README.md"

#: The recipe of the report: what it misspells, README says.
MINE = """\
recipe: 1
name: mine
models:
  compressor: {type: compressor, widht: 8}
  expander: {type: expander}
datasets:
  shapes: {type: shapes}
steps:
  vae:
    dataset: shapes
    updates:
      vae:
        trains: [compressor, expandr]
        losses:
          mse: {}
          kl: {weight: high}
        optimizer: {type: AdamW, lr: 1.0e-3}
"""

SHOWN = [command for block in blocks(PAGE) if block.language == "console" for command in commands(block)]


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.text)
def test_a_command_prints_what_readme_shows(tmp_path: Path, command: Command) -> None:
    folder, environment = folder_of(tmp_path), reader(tmp_path)
    (folder / "mine.yaml").write_text(MINE)

    done = shell(command.text, folder, environment)

    assert done.returncode == 2
    assert agrees(command.output, done.stdout), done.stdout


def test_the_loss_of_readme_is_a_complete_plugin(tmp_path: Path) -> None:
    folder, environment = folder_of(tmp_path), reader(tmp_path)
    (loss,) = (block.text for block in blocks(PAGE) if block.language == "python")
    (folder / "charbonnier.py").write_text(loss)
    (folder / "mine.yaml").write_text(
        MINE.replace("widht", "width")
        .replace("expandr", "expander")
        .replace("kl: {weight: high}", "charbonnier: {eps: 1.0e-2}")
    )

    done = shell("fluxflow-run mine.yaml --plugin ./charbonnier.py --check", folder, environment)

    assert done.returncode == 0, done.stdout


def test_every_flag_of_the_list_of_commands_exists(tmp_path: Path) -> None:
    folder, environment = folder_of(tmp_path), reader(tmp_path)
    (shown,) = (block.text for block in blocks(PAGE) if "fluxflow-run RECIPE  " in block.text)

    names = set(re.findall(r"^fluxflow-\w+", shown, flags=re.MULTILINE))
    help_of = {name: shell(f"{name} --help", folder, environment).stdout for name in sorted(names)}

    assert names == {"fluxflow-run", "fluxflow-generate", "fluxflow-graphs", "fluxflow-train"}
    for line in shown.splitlines():
        name = line.split()[0]
        assert set(re.findall(r"--[\w-]+", line)) <= set(re.findall(r"--[\w-]+", help_of[name])), line
