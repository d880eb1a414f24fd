"""`--replay` repeats a batch that was not finite, and says where the trouble began."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fluxflow_registry.state import store

from .conftest import Answer
from .spoiling import PLUGIN

Call = Callable[..., Answer]
GIVEN = ("--plugin", "spoil.py", "--device", "cpu")


@pytest.fixture
def train(call: Call, spoiling: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Train the small recipe, spoilt as the first argument says; gives the bundles."""

    def trained(spoil: str, *settings: str) -> list[Path]:
        monkeypatch.setenv("SPOIL", spoil)
        done = call("small.yaml", *GIVEN, *(part for setting in settings for part in ("--set", setting)))
        assert done.code in (0, 1), done.err
        (run,) = (spoiling / "runs").iterdir()
        return sorted((run / "not_finite").iterdir())

    return trained


def line_of(code: str) -> int:
    return PLUGIN.splitlines().index(code) + 1


def found(call: Call, bundle: Path) -> dict[str, Any]:
    done = call("--replay", bundle, *GIVEN, "--json")
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out, parse_constant=pytest.fail)
    return answer


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_loss_is_found_with_the_line_that_made_it(
    call: Call, train: Callable[..., list[Path]], spoiling: Path
) -> None:
    (bundle,) = train("loss:9")
    before = contents(spoiling / "runs")

    done = call("--replay", bundle, *GIVEN)

    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "step `vae_gan`, epoch 2, batch 4, update `vae` (batch 10 of the run)"
    assert lines[1].startswith("    samples  picture ")
    assert lines[3] == "reproduced bit by bit"
    (row,) = [line.split() for line in lines if line.startswith("    vae/depth")]
    assert row == ["vae/depth", "nan", "nan", "the", "same"]
    first = lines.index("the first result that is not finite, in order of computation")
    assert lines[first + 1 : first + 4] == [
        "    loss `vae/depth`",
        f"    defined in  spoil.py:{line_of('def depth(reconstruction, step_batch: int):')}",
        "    is          nan",
    ]
    anomaly = lines.index("torch's anomaly detection on the backward pass")
    assert lines[anomaly + 1 :] == [
        "    Function 'SqrtBackward0' returned nan values in its 0th output.",
        f"    {spoiling}/spoil.py:{line_of('        return root(mean - mean.detach() - 1.0)')}, in depth",
        "        return root(mean - mean.detach() - 1.0)",
        f"    {spoiling}/spoil.py:{line_of('    return torch.sqrt(number)')}, in root",
        "        return torch.sqrt(number)",
    ]
    assert contents(spoiling / "runs") == before
    assert "Traceback" not in done.err
    assert "Warning" not in done.err


def test_a_pixel_is_found_as_the_field_it_is_in(call: Call, train: Callable[..., list[Path]]) -> None:
    bundles = train("data:")

    for bundle in bundles[:2]:
        answer = found(call, bundle)

        assert answer["reproduced"] is True
        assert answer["same_losses"] is True
        assert (answer["first"]["kind"], answer["first"]["name"]) == ("field", "image")
        assert answer["first"]["statistics"]["nan"] == 1
        assert "picture 5" in answer["names"]
        assert answer["first"]["samples"] == ["picture 5"]
        update = bundle.name.partition("-")[2]
        made_in = {"discriminator": "fluxflow_gan/networks.py", "vae": "fluxflow_vae/losses.py"}[update]
        assert made_in in answer["anomaly"]["lines"][-1]["where"]
    assert {bundle.name.partition("-")[2] for bundle in bundles[:2]} == {"discriminator", "vae"}


def test_a_value_is_found_before_the_losses_that_it_spoils(call: Call, train: Callable[..., list[Path]]) -> None:
    (bundle,) = train("value:6")

    text = call("--replay", bundle, *GIVEN).out

    assert "    value `brightness`\n    defined in  spoil.py:" in text
    assert "    shape       [4, 3, 16, 16], float32\n    contains    3,072 infinite of 3,072 numbers\n" in text


def test_a_gradient_alone_is_found_by_its_parameter_and_by_the_function_that_gave_it(
    call: Call,
    train: Callable[..., list[Path]],
    spoiling: Path,
) -> None:
    (bundle,) = train("gradient:6")

    answer = found(call, bundle)

    assert answer["same_losses"] is True
    assert not any(isinstance(loss["now"], str) for loss in answer["losses"])
    assert answer["first"]["kind"] == "gradient"
    assert answer["first"]["name"].startswith("compressor.")
    assert answer["anomaly"]["message"] == "Function 'BadBackward' returned nan values in its 0th output."
    assert answer["anomaly"]["lines"][-1] == {
        "where": f"{spoiling}/spoil.py:{line_of('        return Bad.apply(mean)')}, in depth",
        "code": "return Bad.apply(mean)",
    }


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_repeated_bit_by_bit(call: Call, train: Callable[..., list[Path]], precision: str) -> None:
    (bundle,) = train("loss:6", f"steps.vae_gan.precision={precision}")

    answer = found(call, bundle)

    assert (answer["reproduced"], answer["same_losses"]) == (True, True)
    assert answer["first"]["name"] == "vae/depth"


def test_a_window_of_batches_is_repeated_whole(call: Call, train: Callable[..., list[Path]]) -> None:
    (bundle,) = train("loss:7", "steps.vae_gan.accumulate=3")

    answer = found(call, bundle)
    text = call("--replay", bundle, *GIVEN).out

    assert (answer["reproduced"], answer["same_losses"], answer["batch"]) == (True, True, 3)
    assert len(answer["samples"]) == 12
    spoilt = [loss["window"] for loss in answer["losses"] if loss["now"] == "nan"]
    assert spoilt == [1]
    assert answer["first"]["name"] == "vae/depth"
    assert "SqrtBackward0" in answer["anomaly"]["message"]
    assert text.startswith("step `vae_gan`, epoch 2, batches 1 to 3, update `vae` (batch 9 of the run)")
    assert "vae/depth, batch 2 " in text


def test_a_batch_before_the_first_checkpoint_and_after_others_that_were_left_out_is_reached(
    call: Call, train: Callable[..., list[Path]]
) -> None:
    bundles = train("loss:0,2", "defaults.checkpoint_every=1000")

    answers = [found(call, bundle) for bundle in bundles]

    assert [answer["run_batch"] for answer in answers] == [1, 3]
    assert all(answer["reproduced"] and answer["same_losses"] for answer in answers)


def test_a_bundle_without_its_checkpoint_is_reached_from_the_beginning_and_nothing_is_saved(
    call: Call, train: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle,) = train("loss:9")
    shutil.rmtree(bundle / "checkpoints")
    monkeypatch.setattr(store, "commit", pytest.fail)

    answer = found(call, bundle)

    assert (answer["reproduced"], answer["same_losses"], answer["run_batch"]) == (True, True, 10)


def test_a_batch_after_a_roll_back_is_reached_through_it(
    call: Call, train: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluxflow_registry.engine.run import rollback as recovery

    monkeypatch.setattr(recovery, "PATIENCE", 4)
    bundles = train("loss:5,6,7,8,10")

    answers = [found(call, bundle) for bundle in bundles]

    assert [answer["run_batch"] for answer in answers] == [6, 11]
    assert all(answer["reproduced"] and answer["same_losses"] for answer in answers)


def test_a_fixed_plugin_no_longer_reproduces_the_fault(
    call: Call, train: Callable[..., list[Path]], spoiling: Path
) -> None:
    (bundle,) = train("loss:6")
    (spoiling / "spoil.py").write_text(PLUGIN.replace("torch.sqrt(number)", "torch.sqrt(number.abs())"))

    done = call("--replay", bundle, *GIVEN)

    assert done.code == 0
    assert "\nnot reproduced: everything is finite now\n" in done.out
    assert "first result that is not finite" not in done.out
    assert done.err == "note: plugin `spoil` has changed since the bundle was written\n"


def test_other_losses_and_other_data_are_reported(
    call: Call,
    train: Callable[..., list[Path]],
    spoiling: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (bundle,) = train("loss:6")
    reported = json.loads((bundle / "bundle.json").read_text())
    reported["losses"][0]["l1"] = 0.25
    (bundle / "bundle.json").write_text(json.dumps(reported))

    other_losses = call("--replay", bundle, *GIVEN).out
    monkeypatch.delenv("SPOIL")
    reported["samples"][0] = 23 - reported["samples"][0]
    (bundle / "bundle.json").write_text(json.dumps(reported))
    other_data = call("--replay", bundle, *GIVEN).out

    assert "reproduced: not finite again, but finite losses also differ from the recorded ones" in other_losses
    changed = "the batch contains different samples: the data has changed since the run"
    assert f"not reproduced: everything is finite now, but {changed}" in other_data


def damage(bundle: Path) -> None:
    (file,) = bundle.glob("checkpoints/*/model.expander.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)


def pipe(bundle: Path) -> None:
    (bundle / "recipe.yaml").unlink()
    os.mkfifo(bundle / "recipe.yaml")


WRONG: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], str]] = {
    "a recipe besides": (lambda b: None, ("small.yaml",), "`RECIPE` has no effect with `--replay`: remove it"),
    "a setting": (lambda b: None, ("--set", "seed=1"), "`--set` has no effect with `--replay`: remove it"),
    "another flag": (lambda b: None, ("--validate",), "`--validate` cannot be combined with `--replay`"),
    "a device that is not there": (lambda b: None, ("--device", "cuda:9"), "there is no device `cuda:9`"),
    "no bundle.json": (lambda b: (b / "bundle.json").unlink(), (), "there is no bundle here: bundle.json is missing"),
    "no recipe": (lambda b: (b / "recipe.yaml").unlink(), (), "recipe.yaml  the file does not exist"),
    "a pipe for a recipe": (pipe, (), "recipe.yaml  the recipe of the bundle is not a file"),
    "a damaged checkpoint": (damage, (), "model.expander.safetensors  the file is damaged"),
    "a step that is not there": (
        lambda b: (b / "bundle.json").write_text((b / "bundle.json").read_text().replace('"vae_gan"', '"other"')),
        (),
        "this recipe with this data does not reach update `vae` of step `other`",
    ),
    "a batch that never comes": (
        lambda b: (b / "bundle.json").write_text(
            (b / "bundle.json").read_text().replace('"run_batch": 5', '"run_batch": 99')
        ),
        (),
        "this recipe with this data does not reach update `vae`",
    ),
}


def test_wrong_arguments_and_bundles_are_named(call: Call, train: Callable[..., list[Path]], tmp_path: Path) -> None:
    (bundle,) = train("loss:5")
    answers = {}

    for case, (change, arguments, _) in WRONG.items():
        wrong = Path(shutil.copytree(bundle, tmp_path / case.replace(" ", "_")))
        change(wrong)
        answers[case] = call("--replay", wrong, "--plugin", "spoil.py", *arguments)

    assert {case: answer.code for case, answer in answers.items()} == dict.fromkeys(WRONG, 2)
    assert [case for case, answer in answers.items() if WRONG[case][2] not in answer.err] == []
    assert [case for case, answer in answers.items() if "Traceback" in answer.err] == []


def test_the_command_that_the_warning_prints_works_as_printed(
    call: Call, spoiling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPOIL", "loss:5")
    monkeypatch.setenv("FLUXFLOW_PLUGINS", os.environ["FLUXFLOW_PLUGINS"] + ",observers")

    warned = call("small.yaml", *GIVEN).err
    (printed,) = [line.split("command ")[1].strip() for line in warned.splitlines() if "    command " in line]
    environment, *words = shlex.split(printed)
    done = call(*words[1:])

    assert environment == f"FLUXFLOW_PLUGINS={os.environ['FLUXFLOW_PLUGINS']}"
    assert words[-2:] == ["--plugin", "spoil.py"]
    assert done.code == 0, done.err
    assert "reproduced" in done.out
    (run,) = (spoiling / "runs").iterdir()
    assert printed in call("--status", run.relative_to(spoiling)).out


def test_a_missing_plugin_is_named_with_the_command_that_loads_it(call: Call, train: Callable[..., list[Path]]) -> None:
    (bundle,) = train("loss:5")

    named = call("--replay", bundle)
    (bundle / "environment.json").unlink()
    unnamed = call("--replay", bundle)

    assert named.code == unnamed.code == 2
    assert "started with `--plugin spoil.py`, which is not loaded now: add it to this command" in named.err
    assert f"fluxflow-run --replay {bundle} --plugin spoil.py" in named.err
    assert "unknown loss `depth`" in named.err
    assert "if a plugin file provides it, load it with --plugin FILE" in unnamed.err


def test_a_component_that_fails_now_is_a_failure_of_training(
    call: Call, train: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (bundle,) = train("loss:5")
    monkeypatch.setenv("SPOIL", "memory in a loss:5")

    done = call("--replay", bundle, *GIVEN)

    assert done.code == 1
    assert "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB." in done.err
