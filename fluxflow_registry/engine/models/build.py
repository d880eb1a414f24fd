"""Models: built with the options of their entries; which parameters training moves; exponential moving averages."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from fluxflow_registry.contracts import Compile, ModelSettings
from fluxflow_registry.engine.graph.calls import build, tensors
from fluxflow_registry.engine.graph.randomness import derive
from fluxflow_registry.engine.models.checkpointing import blocks_of, checkpoint_blocks
from fluxflow_registry.engine.models.compiling import compile_forward
from fluxflow_registry.errors import Choices, Location, Problem, RecipeError
from fluxflow_registry.plan.component import ConfiguredComponent
from fluxflow_registry.plan.steps import RecipePlan

#: The attribute of a model that names its frozen parameters.
_FROZEN = "_fluxflow_frozen_parameters"


def build_models(
    plan: RecipePlan,
    device: torch.device,
    weights: Mapping[str, Mapping[str, Tensor]] | None = None,
    compiled: bool = True,
) -> dict[str, nn.Module]:
    """New models, each from random numbers that depend on the seed and its own name alone.

    `weights` are those that will be loaded into them, if they are known.
    """
    models = {}
    for name, configured in plan.models.items():
        torch.manual_seed(derive(plan.recipe.seed, "model", name))
        model = build_model(configured, (weights or {}).get(name)).to(device)
        models[name] = apply_options(model, configured, compiled)
    return models


def build_model(configured: ConfiguredComponent, weights: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module that a builder returns; raises RecipeError where it is not an nn.Module."""
    model: object = build(configured, weights=weights)
    if not isinstance(model, nn.Module):
        message = f"the builder of model `{configured.label}` returned {type(model).__name__}, not an nn.Module"
        notes = (("defined in", configured.definition),)
        raise RecipeError(Problem(message, configured.where, notes, code="wrong-return", subject=configured.label))
    if torch.get_default_device().type != "meta" and any(parameter.is_meta for parameter in model.parameters()):
        message = f"the builder of model `{configured.label}` returned a module on the meta device, without weights"
        notes = (("defined in", configured.definition),)
        raise RecipeError(Problem(message, configured.where, notes, code="wrong-return", subject=configured.label))
    remember_frozen(model)
    return model


def build_on_meta(models: Mapping[str, ConfiguredComponent]) -> dict[str, nn.Module]:
    """The models with shapes and no numbers."""
    with torch.device("meta"):
        return {name: build_model(model) for name, model in models.items()}


def apply_options(model: nn.Module, configured: ConfiguredComponent, compiled: bool = True) -> nn.Module:
    """Apply the options of its entry to a model, in place: names in its state dict do not change.

    `compiled=False` does not compile: a few calls are not worth it.
    """
    settings = settings_of(configured)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if settings.checkpointing:
        checkpoint_blocks(model)
    options = compiler_of(configured)
    if options is not None and compiled:
        compile_forward(model, configured.label, options)
    return model


def useless_options(model: nn.Module, configured: ConfiguredComponent) -> Iterator[Problem]:
    """The problems of options that would change nothing in this model, or that torch does not have."""
    settings = settings_of(configured)
    if settings.channels_last and not any(p.ndim == 4 for p in model.parameters()):
        yield useless(configured, "channels_last", "it has no two-dimensional convolutions")
    if settings.checkpointing and not blocks_of(model):
        yield useless(configured, "checkpointing", "it has no repeated blocks in a ModuleList or a Sequential")
    options = compiler_of(configured)
    if options is not None:
        known = torch.compiler.list_backends(exclude_tags=())
        if options.backend not in known:
            message = f"unknown backend `{options.backend}` of torch.compile for model `{configured.label}`"
            where, choices = _place(configured, "compile", "backend"), Choices.of(options.backend, known)
            yield Problem(message, where, code="unknown-name", subject=options.backend, choices=choices)


def settings_of(configured: ConfiguredComponent) -> ModelSettings:
    """The recipe's settings of a model; the defaults for a model that the recipe does not mention."""
    settings = configured.entry.settings if configured.entry else None
    return settings if isinstance(settings, ModelSettings) else ModelSettings()


def compiler_of(configured: ConfiguredComponent) -> Compile | None:
    """The options of the compiler for a model; None for one that is not compiled."""
    settings = settings_of(configured)
    if isinstance(settings.compile, bool):
        return Compile() if settings.compile else None
    return settings.compile


def useless(configured: ConfiguredComponent, key: str, why: str) -> Problem:
    """The problem of an option that has no effect on a model."""
    message = f"`{key}` has no effect on model `{configured.label}`: {why}"
    notes = (("hint", f"remove `{key}`"), ("defined in", configured.definition))
    return Problem(message, _place(configured, key), notes, code="unused", subject=key)


def _place(configured: ConfiguredComponent, *keys: str) -> Location | None:
    return configured.entry.node.at(*keys) if configured.entry else None


def remember_frozen(model: nn.Module) -> None:
    """Record the parameters that require no gradient when the model is built; a copy of the model has them too."""
    setattr(model, _FROZEN, frozenset(name for name, p in model.named_parameters() if not p.requires_grad))


def frozen_parameters(model: nn.Module) -> frozenset[str]:
    """The names of the parameters that no update moves."""
    names: frozenset[str] = getattr(model, _FROZEN, frozenset())
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


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model; tensors that it has computed and kept, as weight normalization does, lose their history."""
    kept = (tensor for module in model.modules() for tensor in tensors(vars(module)) if not tensor.is_leaf)
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept})


class Average:
    """w <- d w + (1 - d) theta after each optimizer step; `module` is a frozen copy of the model with weights w.

    With warm-up d = min(decay, (1 + n) / (10 + n)) after n batches. Buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self.module = copied(model).eval().requires_grad_(False)
        both = zip(self.module.parameters(), model.parameters(), strict=True)
        pairs = [(w, p.detach()) for w, p in both if p.is_floating_point() or p.is_complex()]
        self._w: list[Tensor] = [w for w, _ in pairs]
        self._theta = [theta for _, theta in pairs]
        self._model = model

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Average the weights after batch number `done`, counted from 0."""
        decay = min(self.decay, (1 + done) / (10 + done)) if self.warmup else self.decay
        torch._foreach_lerp_(self._w, self._theta, 1 - decay)
        # Looked up each time: a module may replace a buffer by another tensor instead of changing it in place.
        for averaged, trained in zip(self.module.modules(), self._model.modules(), strict=True):
            for name, buffer in trained._buffers.items():
                averaged._buffers[name] = None if buffer is None else buffer.clone()
