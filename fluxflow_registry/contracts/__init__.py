"""What a component of each kind is: the typed protocols that plugins implement and the engine relies on."""

from __future__ import annotations

from collections.abc import Mapping

from fluxflow_registry.contracts.balancer import BALANCER, Balancer, BalancerExtras, Gradients, Weigher, WeigherExtras
from fluxflow_registry.contracts.dataset import (
    DATASET,
    Dataset,
    DatasetExtras,
    DatasetSettings,
    Field,
    Source,
    SourceExtras,
    variants,
)
from fluxflow_registry.contracts.kind import Extras, Kind, NoSettings, Prepared, Product, Stateful
from fluxflow_registry.contracts.lifecycle import Lifecycle, RunView, StepView
from fluxflow_registry.contracts.loss import LOSS, Loss, LossExtras, LossSettings
from fluxflow_registry.contracts.metric import (
    METRIC,
    Better,
    Directed,
    Direction,
    Metric,
    MetricExtras,
    Naming,
    higher_is_better,
)
from fluxflow_registry.contracts.model import MODEL, Compile, Model, ModelExtras, ModelSettings
from fluxflow_registry.contracts.observer import OBSERVER, Draw, Observer, ObserverExtras
from fluxflow_registry.contracts.optimizer import OPTIMIZER, Optimizer
from fluxflow_registry.contracts.position import History, Position, RecentMeans, Summary
from fluxflow_registry.contracts.sampler import SAMPLER, NoisePath, Sampler, SamplerExtras, VelocityField
from fluxflow_registry.contracts.scheduler import SCHEDULER, Scheduler, SchedulerExtras
from fluxflow_registry.contracts.transition import TRANSITION, Ending, Transition, TransitionExtras
from fluxflow_registry.contracts.value import CONTEXT, VALUE, ComputedValue, NeedSettings, Value, ValueExtras
from fluxflow_registry.errors import Location, RecipeError

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        *(LOSS, VALUE, MODEL, OPTIMIZER, SCHEDULER, TRANSITION),
        *(BALANCER, DATASET, SAMPLER, METRIC, OBSERVER),
    )
}


def kind_named(name: str, where: Location) -> Kind:
    """The kind of that name, in the singular or the plural; raises RecipeError for any other."""
    for kind in KINDS.values():
        if name in (kind.name, kind.plural):
            return kind
    message = f"`{name}` is not a kind of component"
    raise RecipeError(message, where, code="unknown-name", subject=name, choices=KINDS)


# fmt: off
__all__ = [
    "CONTEXT", "KINDS", "Balancer", "BalancerExtras", "Better", "Compile", "ComputedValue", "Dataset",
    "DatasetExtras", "DatasetSettings", "Directed", "Direction", "Draw", "Ending", "Extras", "Field", "Gradients",
    "History", "Kind", "Lifecycle", "Loss", "LossExtras", "LossSettings", "Metric", "MetricExtras", "Model",
    "ModelExtras", "ModelSettings", "Naming", "NeedSettings", "NoSettings", "NoisePath", "Observer", "ObserverExtras",
    "Optimizer", "Position", "Prepared", "Product", "RecentMeans", "RunView", "Sampler", "SamplerExtras", "Scheduler",
    "SchedulerExtras", "Source", "SourceExtras", "Stateful", "StepView", "Summary", "Transition", "TransitionExtras",
    "Value", "ValueExtras", "VelocityField", "Weigher", "WeigherExtras", "higher_is_better", "kind_named", "variants",
]
