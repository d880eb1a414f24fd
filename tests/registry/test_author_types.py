"""A type checker reports a component that is not of the kind that it is registered as."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from fluxflow_registry.contracts import KINDS

from ..docs.story import REPOSITORY, blocks

#: What the plugins below need of torch and numpy, in place of their own types, which take a minute to read.
STUBS = {
    "torch/__init__.pyi": """
from collections.abc import Callable, Iterator
from typing import Any
from torch import nn as nn, optim as optim
class device: ...
Device = device
class Tensor:
    device: Device
    def __iter__(self) -> Iterator[Tensor]: ...
    def __truediv__(self, other: Any) -> Tensor: ...
    def __rsub__(self, other: Any) -> Tensor: ...
    def __getattr__(self, name: str) -> Callable[..., Tensor]: ...
    def __add__(self, other: Any) -> Tensor: ...
    def __radd__(self, other: Any) -> Tensor: ...
    def __sub__(self, other: Any) -> Tensor: ...
    def __mul__(self, other: Any) -> Tensor: ...
    def __rmul__(self, other: Any) -> Tensor: ...
    def __lt__(self, other: Any) -> Tensor: ...
    def __getitem__(self, index: Any) -> Tensor: ...
    def __float__(self) -> float: ...
def cat(*tensors: Any, **options: Any) -> Tensor: ...
def __getattr__(name: str) -> Any: ...
""",
    "torch/nn.pyi": """
from typing import Any
from torch import Tensor
class Module:
    def __call__(self, *arguments: Any) -> Any: ...
class Parameter(Tensor): ...
class ConvTranspose2d(Module):
    def __init__(self, *arguments: int, **options: int) -> None: ...
""",
    "torch/optim/__init__.pyi": """
from typing import Any
from torch.optim import lr_scheduler as lr_scheduler
class Optimizer: ...
class SGD(Optimizer):
    def __init__(self, *arguments: Any, **options: Any) -> None: ...
""",
    "torch/optim/lr_scheduler.pyi": """
from typing import Any
class LRScheduler: ...
class LambdaLR(LRScheduler):
    def __init__(self, *arguments: Any) -> None: ...
""",
    "numpy/__init__.pyi": "from typing import Any\ndef __getattr__(name: str) -> Any: ...\n",
    "numpy/typing.pyi": "from typing import Any\nNDArray = list[Any] | dict[Any, Any]\n",
}

#: A plugin as one was written before `Register` knew kinds.
UNTYPED = """
from fluxflow_registry import Register, hookimpl
from torch import Tensor

def loss(image: Tensor) -> Tensor:
    return image

@hookimpl
def fluxflow_register_losses(register: Register) -> None:
    register("loss", loss)
"""

#: Every mistake, each on a line that a comment marks.
WRONG = """
from collections.abc import Mapping, Sequence
from typing import Any
from attrs import frozen
from fluxflow_registry import (
    Balancer, Dataset, Ending, Field, Loss, Metric, Model, Optimizer, Register, Sampler, Scheduler, Source, Transition
)
from torch import Tensor, nn, optim

def metric(image: Tensor) -> dict[str, Tensor]:
    return {"image": image}

def loss(image: Tensor) -> Tensor:
    return image

@frozen
class Uncalled:
    scale: float = 1.0

@frozen
class Fieldless:
    def __call__(self) -> Source:
        raise NotImplementedError

@frozen
class Batchless:
    def fields(self) -> Mapping[str, Field]:
        return {}
    def __call__(self) -> list[int]:
        return []

@frozen
class Deciding:
    def __call__(self, epoch: int) -> bool:
        return epoch > 3

@frozen
class Naming:
    def __call__(self) -> str:
        return "model"

def weights(losses: Sequence[str]) -> dict[str, float]:
    return {}

def rates(optimizer: optim.Optimizer) -> optim.Optimizer:
    return optimizer

def steps(velocity: Any) -> float:
    return 0.0

def module(weights: Any) -> nn.Module:
    return nn.Module()

def ending(epoch: int) -> Ending | None:
    return None

def register_all(
    losses: Register[Loss], metrics: Register[Metric], models: Register[Model], optimizers: Register[Optimizer],
    schedulers: Register[Scheduler], transitions: Register[Transition], balancers: Register[Balancer],
    datasets: Register[Dataset], samplers: Register[Sampler],
) -> None:
    losses("right", loss)
    metrics("right", metric)
    metrics("right", loss)
    models("right", module)
    transitions("right", ending)
    losses("a metric", metric)  # error
    losses("a class without a call", Uncalled)  # error
    losses("an instance without a call", Uncalled())  # error
    losses("a model", module)  # error
    losses("a number", 3)  # error
    losses(loss, "the wrong order")  # error
    metrics("a transition", ending)  # error
    models("a string", Naming)  # error
    optimizers("a loss", loss)  # error
    schedulers("an optimizer", rates)  # error
    transitions("a bool", Deciding)  # error
    balancers("no weigher", weights)  # error
    datasets("without fields", Fieldless)  # error
    datasets("without a source", Batchless)  # error
    samplers("a float", steps)  # error
"""


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """The lines of each file on which mypy reports an error: one run for all of them."""
    folder = tmp_path_factory.mktemp("author")
    page = {block.file: block.text for block in blocks(REPOSITORY / "docs" / "write-a-loss.md") if block.file}
    sources = {name: text for name, text in page.items() if name.endswith(".py") and "hookimpl" in text}
    sources |= {"untyped.py": UNTYPED, "wrong.py": WRONG}
    for name, text in {**sources, **{f"stubs/{name}": text for name, text in STUBS.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", *sources],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{folder / 'stubs'}{os.pathsep}{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    print(done.stdout)  # shown where a test fails
    errors = re.findall(r"^(\S+?):(\d+): error:", done.stdout, re.MULTILINE)
    return {name: [int(line) for file, line in errors if file == name] for name in sources}


def test_a_plugin_of_every_kind_is_correct_to_a_strict_type_checker(reported: dict[str, list[int]]) -> None:
    page = (REPOSITORY / "docs" / "write-a-loss.md").read_text()

    assert all(f"def {kind.hook}(register: Register[{kind.protocol.__name__}])" in page for kind in KINDS.values())
    assert {name for name, lines in reported.items() if lines} == {"wrong.py"}


def test_a_plugin_that_does_not_name_the_kind_is_correct_too(reported: dict[str, list[int]]) -> None:
    assert reported["untyped.py"] == []


@pytest.mark.parametrize("line", [n for n, text in enumerate(WRONG.splitlines(), 1) if "# error" in text])
def test_a_component_of_another_kind_is_reported_where_it_is_registered(
    reported: dict[str, list[int]], line: int
) -> None:
    assert line in reported["wrong.py"]


def test_nothing_else_is_reported(reported: dict[str, list[int]]) -> None:
    assert {line for line in reported["wrong.py"] if "# error" not in WRONG.splitlines()[line - 1]} == set()
