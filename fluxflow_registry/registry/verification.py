"""What is verified when a component is registered: its hook, name, call and options; `members` verifies the rest."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pluggy

from fluxflow_registry import hookspecs
from fluxflow_registry.contracts import KINDS, Kind
from fluxflow_registry.errors import Choices, Place, PluginError, Problem
from fluxflow_registry.registry.members import component_problems, hook_problems
from fluxflow_registry.registry.registry import Plugin
from fluxflow_registry.registry.signature import (
    VARIADIC,
    Signature,
    definition,
    fields_of,
    is_configurable,
    key_of,
    place_of,
    read,
)

#: The hook that identifies a file that is not a recipe; all others register components of a kind.
RECOGNIZE = "fluxflow_recognize_file"

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check_hooks(manager: pluggy.PluginManager, plugin: Plugin, module: Any) -> None:
    """Reject hooks whose name or parameters are wrong: pluggy ignores a misspelled hook."""
    known = {*(kind.hook for kind in KINDS.values()), RECOGNIZE}
    hooks = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
    unmarked = [name for name in sorted(known & set(dir(module))) if name not in hooks]
    problems = []
    for name in hooks:
        where, _ = definition(getattr(module, name))
        if name not in known:
            message = f"unknown hook `{name}` in plugin `{plugin.name}`"
            problems.append(Problem(message, where, code="unknown-hook", subject=name, choices=known))
            continue
        found, expected = (", ".join(inspect.signature(getattr(of, name)).parameters) for of in (module, hookspecs))
        if found != expected:
            message = f"hook `{name}` of plugin `{plugin.name}` takes ({found}), but is called with ({expected})"
            notes = (("instead", f"def {name}({expected})"),)
            problems.append(Problem(message, where, notes, code="wrong-parameters", subject=name))
    for name in unmarked:
        message = f"`{name}` of plugin `{plugin.name}` is not marked as a hook: put `@hookimpl` above it"
        problems.append(Problem(message, definition(getattr(module, name))[0], code="unmarked-hook", subject=name))
    if not hooks and not unmarked:
        message = f"plugin `{plugin.name}` has no hook"
        problems.append(Problem(message, plugin.where or None, code="missing-hook", choices=Choices.of("", known)))
    if problems:
        raise PluginError(problems)


def check_name(kind: Kind, name: Any, component: Any) -> None:
    """Reject a name that recipes cannot use."""
    if not isinstance(name, str) or not NAME.match(name):
        message = f"{kind.name} name `{name}` is not valid: use letters, digits and _"
        raise PluginError(message, place_of(component), code="invalid-name", subject=str(name))
    if name in kind.provided:
        message = f"{kind.name} `{name}` is provided by the engine itself: register it under another name"
        raise PluginError(message, place_of(component), code="duplicate-name", subject=name)


def verified(kind: Kind, name: str, component: Any) -> Signature:
    """The signature of a component that follows the rules of its kind; raises PluginError otherwise."""
    what = f"{kind.name} `{name}`"
    if not callable(component):
        message = f"{what} must be a function or a class, not {type(component).__name__}"
        raise PluginError(message, code="wrong-type", subject=name)
    signature = Signature((), frozenset(), Place(""), "")
    if kind.events is None:
        if inspect.isclass(component) and "__call__" not in dir(component):
            message = f"{what} has no `__call__`"
            raise PluginError(message, place_of(component), code="missing-member", subject="__call__")
        signature = read(component, what)
    problems = [*_parameters(kind, what, signature), *_options(kind, what, component)]
    if kind.events:
        problems += hook_problems(component, what)
    reported = {problem.subject for problem in problems}
    problems += [each for each in component_problems(kind, what, component) if each.subject not in reported]
    if problems:
        raise PluginError(problems)
    return signature


def _parameters(kind: Kind, what: str, signature: Signature) -> Iterator[Problem]:
    """Parameters that nothing fills in a call of this kind."""
    accepted = signature.needs if kind.parameters is None else kind.parameters
    for need in signature.needs:
        if need not in accepted:
            given = ", ".join(f"`{each}`" for each in accepted) or "no argument"
            message = f"{what} requests `{need}`, but a call of this kind is passed {given}"
            notes = (("defined in", f"{signature.where}  {signature.text}"),)
            yield Problem(message, signature.where, notes, code="unknown-name", subject=need, choices=accepted)


def _options(kind: Kind, what: str, component: Any) -> Iterator[Problem]:
    """Options that a recipe could not set, or whose names belong to the recipe's own entry."""
    if is_configurable(component):
        try:
            options = fields_of(component)
        except NameError as error:
            message = f"{what} has an option whose type is unknown at run time: {error}"
            yield Problem(message, place_of(component), code="unknown-type")
            return
        for key, option in ((key_of(option), option) for option in options):
            if key in kind.reserved:
                message = f"option `{key}` of {what} has a name that belongs to the recipe's entry: rename it"
                where = place_of(component, option.name)
                yield Problem(message, where, code="reserved-name", subject=key)
    elif inspect.isclass(component):
        undecorated = (name for name, value in vars(component).items() if type(value).__name__ == "_CountingAttr")
        fields = (each.name for each in getattr(component, "__dataclass_fields__", {}).values() if each.init)
        for name in (*undecorated, *fields):
            message = f"{what} has the field `{name}` but is not an attrs class: put attrs' `@frozen` above it"
            yield Problem(message, place_of(component, name), code="wrong-type", subject=name)
            return
        for parameter in inspect.signature(component).parameters.values():
            # A recipe could not set it; one that is not meant for recipes begins with an underscore.
            private = parameter.name.startswith("_") and parameter.default is not parameter.empty
            if parameter.kind not in VARIADIC and not private:
                message = f"{what} takes `{parameter.name}` but has no fields: make it an attrs class"
                where = place_of(component, "__init__")
                yield Problem(message, where, code="wrong-type", subject=parameter.name)
                return
