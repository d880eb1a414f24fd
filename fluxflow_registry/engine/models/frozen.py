"""Parameters that a model's builder has frozen: they stay as they were built, whatever trains the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

_NAME = "_fluxflow_frozen_parameters"


def remember_frozen(model: nn.Module) -> None:
    """Record the parameters that require no gradient when the model is built; a copy of the model has them too."""
    setattr(model, _NAME, frozenset(name for name, p in model.named_parameters() if not p.requires_grad))


def frozen_parameters(model: nn.Module) -> frozenset[str]:
    """The names of the parameters that no update moves."""
    names: frozenset[str] = getattr(model, _NAME, frozenset())
    return names


def require_gradients(model: nn.Module, trained: bool) -> None:
    """Let all parameters but the frozen ones require gradients if the step trains the model, else none."""
    frozen = frozen_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained and name not in frozen)


def trained_parameters(models: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named models that require gradients, each as `<model>.<its name in the model>`."""
    parameters = {f"{name}.{key}": p for name in names for key, p in models[name].named_parameters()}
    return {key: p for key, p in parameters.items() if p.requires_grad}
