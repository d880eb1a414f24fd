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
    """Losses: called with the values that their parameters name, return a 0-d tensor to be minimized."""


@hookspec
def fluxflow_register_values(register: Register[Value]) -> None:
    """Values: the registered name is what they provide, their parameters are what they need."""


@hookspec
def fluxflow_register_models(register: Register[Model]) -> None:
    """Model builders: their fields are the architecture, their call returns a new nn.Module.

    A builder whose architecture comes from elsewhere may request `weights`: the state dict that will be loaded
    into the model, or None where it is new. Parameters that it freezes stay frozen whatever trains the model.
    """


@hookspec
def fluxflow_register_optimizers(register: Register[Optimizer]) -> None:
    """Optimizers: called with `parameters`, return a torch Optimizer."""


@hookspec
def fluxflow_register_schedulers(register: Register[Scheduler]) -> None:
    """Schedulers: called with `optimizer` and `total`, the intervals of the step, return a torch LRScheduler."""


@hookspec
def fluxflow_register_transitions(register: Register[Transition]) -> None:
    """Transitions: called after each epoch with `epoch`, `epochs` and `history`, return an Ending or None."""


@hookspec
def fluxflow_register_balancers(register: Register[Balancer]) -> None:
    """Balancers: called with the labels of an update's `losses` and with its `gradients`, return a weigher of them."""


@hookspec
def fluxflow_register_datasets(register: Register[Dataset]) -> None:
    """Datasets: `fields()` describes a batch, the call opens a Source."""


@hookspec
def fluxflow_register_samplers(register: Register[Sampler]) -> None:
    """Samplers: integrate `velocity` from `noise` at t = 1 to a sample at t = 0, along `path` if they request it."""


@hookspec
def fluxflow_register_metrics(register: Register[Metric]) -> None:
    """Metrics: called with the values that their parameters name, without gradient, on held-out batches."""


@hookspec
def fluxflow_register_observers(register: Register[Observer]) -> None:
    """Observers: classes with hooks of `fluxflow_registry.lifecycle`, which are called as a run proceeds."""


@hookspec(firstresult=True)
def fluxflow_recognize_file(
    path: str, content: Mapping[str, Any], arguments: Namespace, trains: bool
) -> Problem | None:
    """Identify a file passed to `fluxflow-run` that is not a recipe: return a Problem with the command that reads it.

    `content` is the mapping in the file, `arguments` the command line; `trains` is whether the command would
    train, as the suggested command should then. None: the plugin does not know the file.
    """
