"""Every extension point: a plugin implements the hooks of the kinds that it registers.

Each hook that registers is called once, when the registry is loaded, with `register(name, component)`.
A component is a function or a class: **its fields are what the recipe sets, the parameters of its
call are what the graph provides.**
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Protocol

from pluggy import HookimplMarker
from typing_extensions import TypeVar

from fluxflow_registry.contracts import (
    Balancer,
    Dataset,
    Loss,
    Metric,
    Model,
    Observer,
    Optimizer,
    Sampler,
    Scheduler,
    Transition,
    Value,
)
from fluxflow_registry.contracts.lifecycle import hookspec
from fluxflow_registry.errors import Problem

hookimpl = HookimplMarker("fluxflow")

#: The protocol of a kind; without one, `Register` takes any component.
K_contra = TypeVar("K_contra", contravariant=True, default=Any)


class Register(Protocol[K_contra]):
    """Adds one component to the registry under the name that recipes use: `Register[Loss]` adds losses."""

    def __call__(self, name: str, component: type[K_contra] | K_contra) -> None:
        """Register a class, whose instances are `K`, or a function; raises PluginError where it breaks a rule."""


@hookspec
def fluxflow_register_losses(register: Register[Loss]) -> None:
    """Losses: a loss is called with the values that its parameters name, and returns a 0-d tensor to be minimized."""


@hookspec
def fluxflow_register_values(register: Register[Value]) -> None:
    """Values: a value is registered under the name that it provides; its parameters name what it needs."""


@hookspec
def fluxflow_register_models(register: Register[Model]) -> None:
    """Models: the fields of a model builder are the architecture, and its call returns a new nn.Module.

    A builder whose architecture comes from elsewhere may request `weights`: the state dict that will be loaded
    into the model, or None if the model is new. Parameters that it freezes stay frozen, even if an update trains the
    model.
    """


@hookspec
def fluxflow_register_optimizers(register: Register[Optimizer]) -> None:
    """Optimizers: an optimizer is called with `parameters`, and returns a torch Optimizer."""


@hookspec
def fluxflow_register_schedulers(register: Register[Scheduler]) -> None:
    """Schedulers: called with `optimizer` and `total`, the number of intervals; the result is a torch LRScheduler."""


@hookspec
def fluxflow_register_transitions(register: Register[Transition]) -> None:
    """Transitions: called after each epoch with `epoch`, `epochs` and `history`; the result is an Ending or None."""


@hookspec
def fluxflow_register_balancers(register: Register[Balancer]) -> None:
    """Balancers: called with the labels of an update's `losses`, and its `gradients`; the result weighs the losses."""


@hookspec
def fluxflow_register_datasets(register: Register[Dataset]) -> None:
    """Datasets: the method `fields()` describes a batch, and the call opens the data and returns a Source."""


@hookspec
def fluxflow_register_samplers(register: Register[Sampler]) -> None:
    """Samplers: a sampler integrates `velocity` from `noise` at t = 1 to a sample at t = 0; it may request `path`."""


@hookspec
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Metrics: a metric is called with the values that its parameters name, without gradient, in evaluations."""


@hookspec
def fluxflow_register_observers(register: Register[Observer]) -> None:
    """Observers: classes with methods for the events of a run, which `fluxflow_registry.lifecycle` lists."""


@hookspec(firstresult=True)
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """Identify a file passed to `fluxflow-run` that is not a recipe: return a Problem with the command that reads it.

    `content` is the mapping in the file, `arguments` the command line; `trains` is whether the command would
    train, as the suggested command should then. None: the plugin does not know the file.
    """
