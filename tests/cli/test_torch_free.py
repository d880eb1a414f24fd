"""What needs no tensor imports no torch, in every form; tests/laws asks it of the plain commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..recipes import DEFAULT

#: Runs the command, then tells which of the heavy packages it has imported.
PROBE = """
import sys
from fluxflow_registry.cli.main import run

try:
    run(sys.argv[1:])
except SystemExit as left:
    heavy = sorted({"torch", "torchvision", "numpy", "PIL", "lpips", "einops", "matplotlib"} & set(sys.modules))
    print(f"code {left.code} imported {heavy}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--describe", "flow_transformer", "--json"],
        ["--validate", str(DEFAULT), "--json", "--set", "steps.flow.epochs=3"],
        ["--mermaid", str(DEFAULT)],
    ],
    ids=" ".join,
)
def test_a_command_that_needs_no_tensor_imports_no_torch(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True)

    assert done.stderr.splitlines()[-1] in ("code 0 imported []", "code None imported []")


def test_a_wrong_recipe_is_refused_without_torch() -> None:
    arguments = [str(DEFAULT), "--set", "steps.flow.epochs=many"]  # no --validate: this would train

    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], capture_output=True, text=True)

    assert done.stderr.splitlines()[-1] == "code 2 imported []"
