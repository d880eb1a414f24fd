"""Interrupted runs of an older version resume where they are, end in the same weights and generate the same images.

`vae`: an autoencoder with batch normalization on the pictures of a folder, flipped at random. Windows of two batches, a
    KL warm-up, a scheduler that counts batches, clipping, and a plugin file with a loss that keeps state and is not
    finite on one batch. Stopped by SIGTERM within the second of three epochs, with a bundle of that batch in
    `not_finite/`.
`vae_gan`: an autoencoder against a discriminator with spectral norms. Averages, the balancer `inverse`, a lazy `r1`,
    a late start by batch and one by a condition, a scheduler that watches the loss, evaluations and the best
    checkpoint. Killed after its newest checkpoint in the second of four epochs, so that its log goes beyond that.
`flow`: an autoencoder for one epoch, then a flow with its text encoder. A sampler, averages, emptied captions, a
    scheduler that counts epochs, and a plateau that ends the step after three of six epochs, of which one was over.
    Stopped by SIGTERM within the second.

`write.py` shows how they were written. Everything runs with the arithmetic of `pinned.py`. Where its probe computes the
same bits as on the machine on which the runs were written, everything has to be the same bit by bit; elsewhere (another
processor family, another torch) it has to be close. The runs are made for that: they are a dozen batches long, and
Adam's epsilon is far above rounding errors of gradients, so that their signs do not move a weight without a gradient.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from PIL import Image
from safetensors.numpy import load, save

from .write import HERE, RUNS, Answer, Call, Golden, commands, copied, newest, outcome, read, run_in

#: How far apart weights and logged numbers may be where the probe computes other bits. On one processor, other vector
#: instructions, threads and libraries for convolutions come to 3e-6 and 1e-6; another order of samples to over 1e-3.
WEIGHTS, LOGGED = 1e-4, 1e-4


@frozen
class Resumed:
    """A golden run that this version has resumed in a copy of its folder."""

    golden: Golden
    answer: Answer
    run: Path
    #: Whether this machine computes the bits of the one on which the run was written.
    exact: bool

    @property
    def expected(self) -> Path:
        return HERE / self.golden.name / "expected"


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    with commands(sys.executable) as each:
        yield each


@pytest.fixture(scope="module")
def probe(call: Call) -> str:
    """The digest of what this machine computes."""
    return str(json.loads(call(["probe"], HERE).out)["digest"])


@pytest.fixture(scope="module", params=RUNS)
def resumed(
    request: pytest.FixtureRequest, call: Call, probe: str, tmp_path_factory: pytest.TempPathFactory
) -> Resumed:
    golden = RUNS[request.param]
    exact = read(HERE / golden.name / "expected" / "machine.json")["digest"] == probe
    folder = copied(golden.name, tmp_path_factory.mktemp("golden"))
    before = run_in(folder)

    answer = call(golden.command, folder)

    return Resumed(golden, answer, before, exact)


def differences(found: Any, expected: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Where numbers differ by more than the tolerance (relative, for large ones), and where anything else differs.

    A newer version may log more than was expected.
    """
    if isinstance(expected, Mapping):
        for name, value in expected.items():
            yield from differences(found.get(name, "missing"), value, tolerance, f"{where}/{name}")
    elif isinstance(expected, list) and len(found) == len(expected):
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            yield from differences(one, other, tolerance, f"{where}/{number}")
    elif isinstance(expected, np.ndarray):
        if found.shape != expected.shape or found.dtype != expected.dtype:
            yield f"{where}: {found.dtype} {found.shape} instead of {expected.dtype} {expected.shape}"
        elif not np.allclose(found, expected, rtol=tolerance, atol=tolerance):
            yield f"{where}: up to {np.abs(found - expected).max()}"
    elif isinstance(expected, float) and isinstance(found, float):
        if not math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {found} instead of {expected}"
    elif found != expected:
        yield f"{where}: {found} instead of {expected}"


def different_files(found: Mapping[str, bytes], expected: Mapping[str, bytes], exact: bool) -> list[str]:
    """Which final files differ: bit by bit, or in weights that are not close. Newer ones may have a description."""
    found = {name: without_description(found[name]) if name.endswith(".safetensors") else found[name] for name in found}
    if exact or found.keys() != expected.keys():
        return [name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)]
    weights, others = [
        [name for name in expected if name.endswith(".safetensors") == tensors] for tensors in (True, False)
    ]
    wrong = [name for name in others if found[name] != expected[name]]
    return wrong + [each for n in weights for each in differences(load(found[n]), load(expected[n]), WEIGHTS, n)]


def without_description(content: bytes) -> bytes:
    """A file of tensors as it would be without `__metadata__` in its header."""
    stop = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:stop])
    if header.pop("__metadata__", None) is None:
        return content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[stop:]


def final_of(expected: Path) -> dict[str, bytes]:
    final = expected / "final"
    return {str(path.relative_to(final)): path.read_bytes() for path in final.rglob("*.*")}


def lines_of(expected: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (expected / "logged.jsonl").read_text().splitlines()]


def with_rates_of_their_batches(lines: list[dict[str, Any]], name: str, since: int) -> list[dict[str, Any]]:
    """The lines as this version logs them after a batch: with each learning rate beside the batch that it was used for.

    An older version logged the rate of the next batch, which is therefore that of the line before.
    """
    before, rates = math.nan, list[float]()
    for line in lines:
        if name in line["metrics"]:
            next_rate = line["metrics"][name]
            if line["global_step"] > since:
                line["metrics"][name] = before
            before = next_rate
            rates.append(line["metrics"][name])
        if "epoch_summary" in line:
            line["epoch_summary"][name] = {"min": min(rates), "mean": sum(rates) / len(rates), "max": max(rates)}
            rates.clear()
    return lines


def test_a_run_resumes_within_an_epoch_in_its_own_folder(resumed: Resumed) -> None:
    interrupted = HERE / resumed.golden.name / "out" / resumed.run.name
    name, position = newest(interrupted)

    lines = [json.loads(line) for path in resumed.run.glob("graph/*.jsonl") for line in path.read_text().splitlines()]
    before, after = (
        read(run / "checkpoints" / newest(run)[0] / "state.json")["meta"]["data"] for run in (interrupted, resumed.run)
    )

    assert position["batch"] > 0
    assert position["epoch"] > 0
    assert resumed.answer.code == 0, resumed.answer.err
    assert [run.name for run in resumed.run.parent.iterdir()] == [interrupted.name]
    assert [line["resumed_after"] for line in lines if "resumed_after" in line] == [position["run_batch"]]
    assert list((resumed.run / "checkpoints").glob(".*")) == [], f"{name} was quarantined"
    assert after == before
    assert read(resumed.run / "run.json")["finished"] is True


def test_a_resumed_run_ends_with_the_same_weights(resumed: Resumed) -> None:
    assert different_files(outcome(resumed.run)["final"], final_of(resumed.expected), resumed.exact) == []


def test_a_resumed_run_logs_and_measures_the_same(resumed: Resumed) -> None:
    tolerance = 0.0 if resumed.exact else LOGGED
    end, expected = outcome(resumed.run), lines_of(resumed.expected)
    if resumed.golden.name == "vae":  # the run whose scheduler counts batches
        position = newest(HERE / "vae" / "out" / resumed.run.name)[1]
        expected = with_rates_of_their_batches(expected, "vae/lr", since=position["run_batch"])

    assert list(differences(end["logged"], expected, tolerance)) == []
    assert list(differences(end["results"], read(resumed.expected / "results.json"), tolerance)) == []


def test_the_status_of_an_interrupted_run_is_readable(call: Call, resumed: Resumed) -> None:
    golden = HERE / resumed.golden.name
    interrupted = run_in(golden)
    name, position = newest(interrupted)

    answer = call(["fluxflow-run", "--status", str(interrupted), "--json"], golden)

    assert answer.code == 0, answer.err
    status = json.loads(answer.out)
    assert status["record"]["name"] == read(interrupted / "run.json")["name"]
    assert status["checkpoint"]["name"] == status["resume"]["checkpoint"] == name
    assert status["checkpoint"]["problem"] is None
    assert status["saved"] == position
    bundles = [Path(bundle["folder"]).name for bundle in status["bundles"]]
    assert bundles == [path.name for path in interrupted.glob("not_finite/*")]


@pytest.mark.parametrize("state", RUNS["flow"].images)
@pytest.mark.parametrize("resumed", ["flow"], indirect=True)
def test_an_interrupted_and_a_finished_run_generate_the_same_images(
    call: Call, resumed: Resumed, state: str, tmp_path: Path
) -> None:
    folder = copied("flow", tmp_path)
    run = resumed.run if state == "finished" else run_in(folder)

    answer = call(resumed.golden.generate(run, state), folder)

    assert answer.code == 0, answer.err
    found = [pixels(folder / image["file"]) for image in json.loads(answer.out)]
    expected = [pixels(path) for path in sorted((resumed.expected / state).glob("*.png"))]
    assert len(found) == len(expected) > 1
    levels = 0 if resumed.exact else 1
    assert [np.abs(one - other).max() <= levels for one, other in zip(found, expected, strict=True)] == [True] * len(
        found
    )


def pixels(path: Path) -> Any:
    with Image.open(path) as image:
        return np.asarray(image, dtype=np.int16)


@pytest.mark.parametrize("resumed", ["vae"], indirect=True)
def test_a_batch_that_was_not_finite_is_replayed(call: Call, resumed: Resumed, tmp_path: Path) -> None:
    folder = copied("vae", tmp_path)
    (bundle,) = run_in(folder).glob("not_finite/*")

    answer = call(
        ["fluxflow-run", "--replay", str(bundle), "--plugin", "outside.py", "--device", "cpu", "--json"], folder
    )

    assert answer.code == 0, answer.err
    replayed = json.loads(answer.out)
    assert (replayed["reproduced"], replayed["same_samples"]) == (True, True)
    assert replayed["same_losses"] or not resumed.exact
    assert (replayed["first"]["kind"], replayed["first"]["name"]) == ("loss", "vae/running_l1")


@pytest.mark.parametrize("name", RUNS)
def test_one_bit_is_a_difference_on_the_same_machine_and_a_thousandth_is_one_elsewhere(name: str) -> None:
    expected = final_of(HERE / name / "expected")
    file = "expander/model.safetensors"
    weights = load(expected[file])
    key = next(iter(weights))

    def moved(by: float) -> dict[str, bytes]:
        nudged = weights[key] + np.float32(by) if by else np.nextafter(weights[key], np.float32(1))
        return {**expected, file: save({**weights, key: nudged})}

    assert different_files(expected, expected, exact=True) == []
    assert different_files(moved(0), expected, exact=True) == [file]
    assert different_files(moved(0), expected, exact=False) == []
    assert different_files(moved(1e-3), expected, exact=False) != []
