"""Results go to stdout, messages to stderr, and the exit code says which of them counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from fluxflow_registry import __version__

from ..recipes import DEFAULT, TINY
from ..synthetic import LOSS, Site
from .conftest import Answer

Call = Callable[..., Answer]
RESULTS = [
    ["--list-plugins"],
    ["--schema"],
    ["--describe", "kl"],
    ["--explain", str(DEFAULT)],
    ["--help"],
    ["--version"],
]


@pytest.mark.parametrize("arguments", RESULTS, ids=lambda arguments: arguments[0])
def test_a_result_is_on_stdout_and_nothing_else_is(call: Call, arguments: list[str]) -> None:
    answer = call(*arguments)

    assert answer.code == 0
    assert answer.out.strip()
    assert answer.err == ""


def test_the_version_is_that_of_the_distribution(call: Call) -> None:
    assert call("--version").out == f"fluxflow-registry {__version__}\n"


def test_a_recipe_is_needed_and_the_usage_is_shown(call: Call) -> None:
    for arguments in ([], ["--validate"], ["--explain"], ["--check"], ["--json"][:0]):
        answer = call(*arguments)

        assert answer.code == 2
        assert answer.out == ""
        assert answer.err.startswith(
            "a recipe is needed, as in `fluxflow-run recipes/vae_gan_flow.yaml`\n    usage  usage"
        )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nothing"], "error: unrecognized arguments: --nothing"),
        (["--valid", "r.yaml"], "error: unrecognized arguments: --valid"),
        (["a.yaml", "b.yaml"], "error: unrecognized arguments: b.yaml"),
        (["--validate", "--explain", "r.yaml"], "error: argument --explain: not allowed with argument --validate"),
        (["--describe"], "error: argument --describe: expected one argument"),
        (["--set"], "error: argument --set: expected one argument"),
    ],
)
def test_a_wrong_command_line_leaves_with_2(call: Call, arguments: list[str], told: str) -> None:
    answer = call(*arguments)

    assert answer.code == 2
    assert answer.out == ""
    assert told in answer.err


def test_a_recipe_that_is_not_there_leaves_with_2(call: Call) -> None:
    answer = call("--validate", "nothing.yaml")

    assert answer == Answer(2, "", "nothing.yaml  there is no such file\n")


def test_several_problems_are_counted(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY.replace("name: tiny", "seed: x").replace("l1: {}", "l9: {}"))

    answer = call("--validate", "r.yaml")

    assert answer.code == 2
    assert answer.err.endswith("\n\n2 problems\n")


def test_problems_as_json_are_on_stdout_with_place_and_notes(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY.replace("l1: {}", "l9: {}"))

    answer = call("--validate", "r.yaml", "--json")

    assert answer.code == 2
    assert answer.err == ""
    (problem,) = json.loads(answer.out)["problems"]
    assert problem["message"] == "unknown loss `l9` in step `vae`, update `vae`"
    assert problem["where"] == "r.yaml:15:11"
    assert problem["notes"]["nearest"].startswith("l1   (vae, fluxflow-registry")


def test_notes_with_one_label_are_all_in_the_json(call: Call, site: Site, tmp_path: Path) -> None:
    for name in ("json_a", "json_b"):
        site.distribution(name, {name: name}, **{name: LOSS.format(name="contested")})
    (tmp_path / "r.yaml").write_text(TINY.replace("l1: {}", "contested: {}"))

    answer = call("--validate", "r.yaml", "--json")

    (problem,) = json.loads(answer.out)["problems"]
    assert problem["notes"]["claimed by"].splitlines() == [
        "json_a, json_a 1.0 at json_a.py:4",
        "json_b, json_b 1.0 at json_b.py:4",
    ]


@pytest.mark.parametrize("arguments", RESULTS, ids=lambda arguments: arguments[0])
def test_a_reader_that_has_gone_away_is_no_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = start(arguments, stdout=writer)
    os.close(writer)

    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", RESULTS[:2], ids=lambda arguments: arguments[0])
def test_a_closed_stdout_is_no_error(arguments: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m fluxflow_registry "$@" >&-', sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = start(["--list-plugins"], stdout=full.fileno())

    assert done.stderr == "the result cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_an_output_without_the_letters_gets_their_codes(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("--validate", "ä.yaml", PYTHONIOENCODING="ascii")
    listed = command("--describe", "kl", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert done.stderr == "\\xe4.yaml  there is no such file\n"
    assert listed.returncode == 0


def start(arguments: list[str], stdout: int) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fluxflow_registry", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
