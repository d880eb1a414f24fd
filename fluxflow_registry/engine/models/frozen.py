"""Parts of a model that its builder has frozen: they stay as they were built, whatever trains the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

_NAME = "_fluxflow_held"


def remember_held(model: nn.Module) -> None:
    """Note the parameters that carry no gradient when the model is built; a copy of the model knows them too."""
    setattr(model, _NAME, frozenset(name for name, p in model.named_parameters() if not p.requires_grad))


def held(model: nn.Module) -> frozenset[str]:
    """The names of the parameters that no update moves."""
    found: frozenset[str] = getattr(model, _NAME, frozenset())
    return found


def let_train(model: nn.Module, trained: bool) -> None:
    """Let the model's parameters carry gradient where the step trains it, but for those that are held."""
    kept = held(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained and name not in kept)


def trained_parameters(models: Mapping[str, nn.Module], names: Iterable[str]) -> dict[str, nn.Parameter]:
    """The parameters of the named models that carry gradient, each as `<model>.<its name in the model>`."""
    found = {f"{name}.{key}": p for name in names for key, p in models[name].named_parameters()}
    return {key: p for key, p in found.items() if p.requires_grad}
