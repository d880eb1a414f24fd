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

from fluxflow_observers import command as graphs
from fluxflow_pipeline import command as train
from fluxflow_registry import Default, Problem, __version__
from fluxflow_registry.cli import generate
from fluxflow_registry.cli.output import resume_command

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


def test_a_missing_recipe_is_reported(call: Call) -> None:
    for arguments in ([], ["--validate"], ["--explain"], ["--check"]):
        answer = call(*arguments)

        assert answer == Answer(
            2,
            "",
            "a recipe is required, as in `fluxflow-run recipes/vae_gan_flow.yaml`\n    command  fluxflow-run --help\n",
        )


def test_the_command_that_resumes_loads_the_same_plugins_however_they_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLUXFLOW_PLUGINS", "vae, data")

    command = resume_command("fluxflow-run", ["a b.yaml", "--fresh", "--plugin", "own.py"])

    assert command == "FLUXFLOW_PLUGINS='vae, data' fluxflow-run 'a b.yaml' --plugin own.py"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--valdate", "r.yaml"], "--valdate  fluxflow-run has no flag `--valdate`\n    nearest    --validate\n"),
        (["r.yaml", "--prove_resume"], "has no flag `--prove_resume`\n    nearest    --prove-resume\n"),
        (["--valid=1"], "fluxflow-run has no flag `--valid`\n    nearest"),
        (["--no-such", "--frsh"], "fluxflow-run has no flag `--no-such`\n    available  --check, --describe, "),
        (["--no-such", "--frsh"], "fluxflow-run has no flag `--frsh`\n    nearest    --fresh\n"),
        (["-x"], "fluxflow-run has no flag `-x`\n    available  --check"),
        (["r.yaml", "--resume"], "has no flag `--resume`\n    instead  rerun the same command: it resumes the"),
        (["r.yaml", "--resume-from", "x"], "    instead  rerun the same command: it resumes the unfinished run"),
        (["r.yaml", "--epochs=3"], "fluxflow-run has no flag `--epochs`\n    instead  --set steps.NAME.epochs=...\n"),
        (
            ["r.yaml", "--batch-size", "3"],
            "    instead  --set steps.NAME.batch_size=...\n    command  fluxflow-run --help",
        ),
        (["r.yaml", "--seed", "3"], "fluxflow-run has no flag `--seed`\n    instead  --set seed=...\n"),
        (["a.yaml", "b.yaml"], "unexpected argument `b.yaml`; quote text that contains spaces\n"),
        (["--", "a.yaml", "--validate"], "unexpected argument `--validate`; quote text that contains spaces\n"),
        (["gone.yaml", "--validate", "--"], "gone.yaml  the file does not exist\n"),
        (["-x", "--", "a.yaml"], "fluxflow-run has no flag `-x`\n"),
        (["--validate", "--explain", "r.yaml"], "--explain  `--explain` cannot be combined with `--validate`\n"),
        (["--describe"], "--describe  `--describe` needs a value: `--describe NAME`\n"),
        (["--describe", "--check"], "--check  `--check` cannot be combined with `--describe`\n"),
        (["--set"], "--set  `--set` needs a value: `--set PATH=VALUE`\n    instead  `--set=-...` for a value that"),
        (["--samples", "many"], "--samples  `--samples` must be an integer, got `many`\n"),
        (["r.yaml", "--samples", "5"], "--samples  `--samples` has no effect on training: remove it\n"),
        (["r.yaml", "--check", "--mermaid"], "--mermaid  `--mermaid` has no effect with `--check`: remove it\n"),
        (["r.yaml", "--schema"], "`RECIPE` has no effect with `--schema`: remove it\n"),
        (["--check=3"], "--check  `--check` does not take a value, got `3`\n"),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_names_the_nearest_flag(
    call: Call, arguments: list[str], expected: str
) -> None:
    answer = call(*arguments)

    assert answer.code == 2
    assert expected in answer.err
    assert answer.out == ""


def test_a_wrong_command_line_is_json_where_that_is_requested(call: Call) -> None:
    answer = call("--json", "--describ", "kl")

    (problem,) = json.loads(answer.out)["problems"]
    assert (answer.code, answer.err) == (2, "")
    assert problem["message"] == "fluxflow-run has no flag `--describ`"
    assert problem["notes"] == [{"label": "command", "text": "fluxflow-run --help"}]
    parts = ("code", "flag", "subject", "nearest", "path", "line", "column", "key", "default")
    assert [problem[part] for part in parts] == [
        *("unknown-flag", "--describ", "--describ", "--describe"),
        *(None, None, None, None, None),
    ]
    assert "--list-plugins" in problem["available"]


def test_the_json_of_a_problem_describes_a_default() -> None:
    problem = Problem("`lr` is too small", Default("the default of `AdamW`"), code="out-of-range")

    assert problem.as_json()["default"] == "the default of `AdamW`"
    assert (problem.as_json()["path"], problem.as_json()["flag"]) == (None, None)


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        (generate.run, ["RUN", "--promt", "a"], "fluxflow-generate has no flag `--promt`\n    nearest    --prompt\n"),
        (
            generate.run,
            ["--image_siz", "8"],
            "fluxflow-generate has no flag `--image-siz`\n    nearest    --image-size\n",
        ),
        (generate.run, ["RUN", "--prompt", "a", "star"], "unexpected argument `star`; quote text that contains spaces"),
        (generate.run, ["--guidance", "much"], "--guidance  `--guidance` must be a number, got `much`\n"),
        (graphs.run, ["RUN", "--ouput", "a"], "fluxflow-graphs has no flag `--ouput`\n    nearest    --output\n"),
        (graphs.run, [], "`RUN` is missing: the folder of a run, or FluxFlow's output folder\n"),
        (train.run, ["--config", "c", "--validate-pipline"], "nearest    --validate-pipeline\n"),
        (train.run, [], "`--config FILE` is missing: pass a FluxFlow configuration, or FluxFlow's flags\n"),
    ],
)
def test_every_command_reports_the_same_errors(
    command: Callable[[list[str]], None], arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command(arguments)

    assert left.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_missing_recipe_file_exits_with_2(call: Call) -> None:
    answer = call("--validate", "nothing.yaml")

    assert answer == Answer(2, "", "nothing.yaml  the file does not exist\n")


def test_several_problems_are_counted(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY.replace("name: tiny", "seed: x").replace("l1: {}", "l9: {}"))

    answer = call("--validate", "r.yaml")

    assert answer.code == 2
    assert answer.err.endswith("\n\n2 problems\n")


def test_problems_as_json_are_on_stdout_in_their_parts(call: Call, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY.replace("l1: {}", "l11: {}"))

    answer = call("--validate", "r.yaml", "--json")

    assert answer.code == 2
    assert answer.err == ""
    (problem,) = json.loads(answer.out)["problems"]
    assert problem["message"] == "unknown loss `l11` in step `vae`, update `vae`"
    assert (problem["code"], problem["subject"], problem["nearest"]) == ("unknown-component", "l11", "l1")
    assert (problem["path"], problem["line"], problem["column"]) == ("r.yaml", 15, 11)


def test_notes_with_one_label_are_all_in_the_json(call: Call, site: Site, tmp_path: Path) -> None:
    for name in ("json_a", "json_b"):
        site.distribution(name, {name: name}, **{name: LOSS.format(name="contested")})
    (tmp_path / "r.yaml").write_text(TINY.replace("l1: {}", "contested: {}"))

    answer = call("--validate", "r.yaml", "--json")

    (problem,) = json.loads(answer.out)["problems"]
    assert problem["notes"] == [
        {"label": "defined in", "text": "json_a.py:4   (json_a, json_a 1.0)"},
        {"label": "defined in", "text": "json_b.py:4   (json_b, json_b 1.0)"},
    ]


@pytest.mark.parametrize("arguments", RESULTS, ids=lambda arguments: arguments[0])
def test_a_reader_that_has_gone_away_is_not_an_error(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    done = start(arguments, stdout=writer)
    os.close(writer)

    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", RESULTS[:2], ids=lambda arguments: arguments[0])
def test_a_closed_stdout_is_not_an_error(arguments: list[str]) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m fluxflow_registry "$@" >&-', sys.executable, *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )

    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = start(["--list-plugins"], stdout=full.fileno())

    assert done.stderr == "the result cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_characters_that_the_output_cannot_encode_are_escaped(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("--validate", "ä.yaml", PYTHONIOENCODING="ascii")
    listed = command("--describe", "kl", PYTHONIOENCODING="ascii", PYTHONUTF8="0")

    assert done.stderr == "\\xe4.yaml  the file does not exist\n"
    assert listed.returncode == 0


def start(arguments: list[str], stdout: int) -> CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fluxflow_registry", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
