"""Side effects: what a component changes beside what it returns, in the values and models that others use too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow_registry.errors import Parts, Problem, TrainingError, listed
from fluxflow_registry.plan.component import ConfiguredComponent

#: What a component may not change in a model: how messages call that, and what to do instead.
_OF_MODELS = {
    "flags": ("sets `requires_grad` of", "detach values instead: `x.detach()`, or `detach` in the entry of a loss"),
    "gradients": ("adds gradients to", "return the loss: the engine calls `backward()`"),
    "weights": ("changes the weights of", "leave weights to the optimizers"),
    "modes": ("calls `train()` or `eval()` of", "leave the mode to the engine, which sets it for each step"),
}

#: For each model and each key of `_OF_MODELS`, the state of its parts by their names.
_States = dict[str, dict[str, dict[str, Any]]]


@contextmanager
def unchanged(
    who: str,
    component: ConfiguredComponent,
    values: Mapping[str, Any],
    models: Mapping[str, nn.Module],
    training: bool = True,
) -> Iterator[None]:
    """Require that a component leaves values and models as they are; raises TrainingError with each change.

    In `training` models may change their own weights within their forward. Changes through `.data` are not found.
    """
    versions, states, enabled = _versions(values), _states(models), torch.is_grad_enabled()
    with ExitStack() as hooks:
        for name, model in models.items() if training else ():
            _allow_own_changes(hooks, model, states[name])
        try:
            yield
        except BaseException:
            _restore(models, states)
            raise
    problems = [
        Problem(message, component.where, (("instead", instead), ("defined in", component.definition)), **parts)
        for message, instead, parts in (
            *_changed_values(who, component, versions, _versions(values)),
            *_changed_models(who, states, _states(models)),
        )
    ]
    if torch.is_grad_enabled() != enabled:
        torch.set_grad_enabled(enabled)
        notes = (("instead", "with torch.no_grad():"), ("defined in", component.definition))
        message = f"{who} switches gradients off or on and does not restore them"
        problems.append(Problem(message, component.where, notes, code="changed-in-place"))
    if problems:
        _restore(models, states)
        raise TrainingError(problems)


def _changed_values(
    who: str, component: ConfiguredComponent, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, str, Parts]]:
    changed = [f"`{name}`" for name, version in before.items() if after[name] != version]
    if changed:
        message = f"{who} changes {', '.join(changed)} in place, but other components receive the same tensors"
        instead = "make a new tensor: `x = x * 2`, not `x *= 2` or `x.mul_(2)`"
        yield message, instead, {"code": "changed-in-place", "subject": component.label}


def _changed_models(who: str, before: _States, after: _States) -> Iterator[tuple[str, str, Parts]]:
    for model, states in before.items():
        for what, (changes, instead) in _OF_MODELS.items():
            then, now = states[what], after[model][what]
            names = [f"{model}.{name}".rstrip(".") for name in {**then, **now} if then.get(name) != now.get(name)]
            if names:
                message = f"{who} {changes} {listed((f'`{name}`' for name in names), 3)}"
                yield message, instead, {"code": "changed-model", "subject": names[0]}


def _restore(models: Mapping[str, nn.Module], states: _States) -> None:
    """Undo what would only lead to more problems: other components are proven with the same models."""
    for name, model in models.items():
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(states[name]["flags"].get(key, parameter.requires_grad))
            parameter.grad = None if states[name]["gradients"].get(key) is None else parameter.grad
        for key, module in model.named_modules():
            module.training = states[name]["modes"].get(key, module.training)


def _versions(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _content(value) for name, value in values.items()}


def _content(value: Any) -> Any:
    """What differs once a value, or a part of it, is another one or was changed in place."""
    if isinstance(value, Tensor):
        return id(value), 0 if value.is_inference() else value._version
    if isinstance(value, (list, tuple)):
        return [_content(part) for part in value]
    if isinstance(value, dict):
        return {key: _content(part) for key, part in value.items()}
    return value if isinstance(value, str) else id(value)


def _states(models: Mapping[str, nn.Module]) -> _States:
    return {
        name: {
            "flags": {key: parameter.requires_grad for key, parameter in model.named_parameters()},
            "gradients": {key: _state(parameter.grad) for key, parameter in model.named_parameters()},
            "weights": _weights(model),
            "modes": {key: module.training for key, module in model.named_modules()},
        }
        for name, model in models.items()
    }


def _weights(model: nn.Module) -> dict[str, Any]:
    return {name: _state(parameter) for name, parameter in model.named_parameters()}


def _state(tensor: Tensor | None) -> Any:
    """What differs once a tensor is another one, or has other numbers; None for no tensor."""
    return None if tensor is None else (tensor.untyped_storage()._cdata, tensor._version)


def _allow_own_changes(hooks: ExitStack, model: nn.Module, state: dict[str, dict[str, Any]]) -> None:
    """Take what a model changes in its own weights within its forward for unchanged: a codebook may do so."""
    before: list[dict[str, Any]] = []

    def enter(*_: Any) -> None:
        before.append(_weights(model))

    def leave(*_: Any) -> None:
        old, now = before.pop(), _weights(model)
        state["weights"] |= {name: now[name] for name in now if now[name] != old.get(name)}

    hooks.callback(model.register_forward_pre_hook(enter).remove)
    hooks.callback(model.register_forward_hook(leave).remove)
