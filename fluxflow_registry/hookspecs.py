"""Every extension point: a plugin implements the hooks of the kinds that it brings.

Each hook that registers is called once, when the registry is loaded, and is handed `register(name, component)`.
A component is a function or a class: **its fields are what the recipe says, the parameters of its
call are what the graph gives.**
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Protocol

from pluggy import HookimplMarker, HookspecMarker

from fluxflow_registry.errors import Problem

hookspec = HookspecMarker("fluxflow")
hookimpl = HookimplMarker("fluxflow")


class Register(Protocol):
    """Adds one component to the registry under the name by which recipes ask for it."""

    def __call__(self, name: str, component: Any) -> None:
        """Register `component` as `name`; raises PluginError on a bad name or signature."""


@hookspec
def fluxflow_register_losses(register: Register) -> None:
    """Losses: called with the values that they name, give a 0-d tensor to be minimised.

    One that needs files may have a method `ready()`, which raises FluxflowError where they are missing: it is asked
    before a run begins.
    """


@hookspec
def fluxflow_register_values(register: Register) -> None:
    """Values: the registered name is what they provide, their parameters are what they need."""


@hookspec
def fluxflow_register_models(register: Register) -> None:
    """Model builders: fields are the architecture, the call gives a new nn.Module.

    One whose architecture comes from elsewhere may ask for `weights`: the state dict that will be loaded
    into the model, or None where it is new. Parameters that it freezes stay frozen whatever trains the model.
    """


@hookspec
def fluxflow_register_optimizers(register: Register) -> None:
    """Optimizers: called with `parameters`, give a torch Optimizer."""


@hookspec
def fluxflow_register_schedulers(register: Register) -> None:
    """Schedulers: called with `optimizer` and `total` intervals of the step; field `interval` says which."""


@hookspec
def fluxflow_register_transitions(register: Register) -> None:
    """Transitions: asked after each epoch (`epoch`, `epochs`, `history`), give an Ending or None."""


@hookspec
def fluxflow_register_balancers(register: Register) -> None:
    """Balancers: called with the names of an update's `losses`, and its `gradients`, give a weigher of those losses."""


@hookspec
def fluxflow_register_datasets(register: Register) -> None:
    """Datasets: `fields()` declares a batch, the call opens a Source."""


@hookspec
def fluxflow_register_samplers(register: Register) -> None:
    """Samplers: integrate `velocity` from `noise` at t = 1 to a sample at t = 0, along `path` if they ask for it."""


@hookspec
def fluxflow_register_metrics(register: Register) -> None:
    """Metrics: called with the values that they name, without gradient, on held-out batches.

    One that needs files may have a method `ready()`, which raises where they are missing: it is asked before a
    run begins.
    """


@hookspec
def fluxflow_register_observers(register: Register) -> None:
    """Observers: objects with hooks of `fluxflow_registry.lifecycle`; they hear what a run does."""


@hookspec(firstresult=True)
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """What a file is that was given to `fluxflow-run` and is no recipe, with the command that takes it.

    `content` is the mapping that stands in the file, `arguments` the command line; `trains` says whether training was
    asked for, or to look only: then the command that is told looks only too. None: the plugin does not know the file.
    """
