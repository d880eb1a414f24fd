"""Out of memory, whenever it comes: a message with sizes, exit code 1, and whole checkpoints to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fluxflow_registry.cli.run_status import read_status
from fluxflow_registry.state import checkpoints

from .conftest import Answer

Call = Callable[..., Answer]
GIVEN = ("hungry.yaml", "--plugin", "spoil.py", "--device", "cpu")

#: When it happens, and the newest checkpoint that is there then.
PHASES = {
    "memory in a value:9": "000000008-vae_gan",
    "memory in a loss:9": "000000008-vae_gan",
    "memory in the walk back:9": "000000008-vae_gan",
    "memory in the optimizer:9": "000000008-vae_gan",
    "memory in an evaluation:": "000000016-flow",
}


def finals(root: Path) -> dict[str, bytes]:
    (run,) = root.iterdir()
    return {str(path.relative_to(run)): path.read_bytes() for path in run.glob("final/**/*.safetensors")}


@pytest.fixture(scope="module")
def kept() -> dict[str, bytes]:
    """Room for the final weights of a run whose memory suffices."""
    return {}


@pytest.fixture
def whole(call: Call, spoiling: Path, kept: dict[str, bytes]) -> dict[str, bytes]:
    """The final weights of a run whose memory suffices, trained by the first test that needs them."""
    if not kept:
        done = call(*GIVEN, "--output", "whole")
        assert done.code == 0, done.err
        kept.update(finals(spoiling / "whole"))
    return kept


@pytest.mark.parametrize("phase", PHASES)
def test_the_command_ends_with_the_sizes_and_goes_on_to_the_same_weights(
    call: Call, spoiling: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    monkeypatch.setenv("SPOIL", phase)

    ended = call(*GIVEN, "--output", "cut")

    assert ended.code == 1
    assert "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB." in ended.err
    assert "received  step `vae_gan`: batch_size 4, images 16 x 16" in ended.err
    assert "Traceback" not in ended.err
    (run,) = (spoiling / "cut").iterdir()
    left = checkpoints.listing(run / "checkpoints")
    assert left[0].folder.name == PHASES[phase]
    assert all(checkpoints.verify(found.folder)["not_finite"] == [] for found in left)
    assert list((run / "checkpoints").glob(".*")) == []
    standing = read_status(run, [])
    assert standing.state == "failed"
    assert f"{standing.record.failed}\n" in ended.err
    monkeypatch.delenv("SPOIL")
    again = call(*GIVEN, "--output", "cut")
    assert again.code == 0, again.err
    assert read_status(run, []).record.failed is None
    assert finals(spoiling / "cut") == whole
