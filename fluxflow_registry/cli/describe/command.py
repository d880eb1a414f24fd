"""`--describe`: one component in full, with a line of YAML to paste."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import math
import re
import shutil
import sys
import textwrap
from typing import Any

import attrs
from cattrs import unstructure

from fluxflow_registry.cli.list_plugins.command import component_data
from fluxflow_registry.contracts import KINDS
from fluxflow_registry.errors import Problem, RecipeError, choices
from fluxflow_registry.recipe.convert import describe_type
from fluxflow_registry.recipe.schema import DatasetSettings, LossSettings, ModelSettings
from fluxflow_registry.registry.registry import Component, Registry
from fluxflow_registry.registry.signature import fields_of, is_configurable, key_of

#: Letters of a line at most.
WIDTH = 120


def find(registry: Registry, stated: str) -> list[Component]:
    """The components of that name (`name` or `kind:name`); raises RecipeError with the nearest one."""
    kind, _, name = stated.rpartition(":")
    if kind and kind not in KINDS:
        raise RecipeError(Problem(f"`{kind}` is no kind of component", "--describe", choices(kind, KINDS, "kinds")))
    kinds = [kind] if kind else list(KINDS)
    found = [registry.components[k][name] for k in kinds if name in registry.components[k]]
    if not found:
        known = {name for k in kinds for name in registry.components[k]}
        message = f"no component is called `{name}`"
        raise RecipeError(Problem(message, "--describe", choices(name, known)))
    return found


def describe(registry: Registry, stated: str) -> str:
    """Docstring, options with types, defaults and bounds, needs, provenance, and YAML to paste."""
    return "\n\n".join(_describe(component) for component in find(registry, stated))


def description_data(registry: Registry, stated: str) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {**component_data(c), "doc": c.doc, "where": c.where, "options": options(c), "yaml": paste(c)}
        for c in find(registry, stated)
    ]


def options(component: Component) -> list[dict[str, Any]]:
    """The options of a component: name, type, default, bounds, meaning."""
    if not is_configurable(component.factory):
        return []
    meanings = _meanings(component.factory)
    rows = []
    for attribute in fields_of(component.factory):
        row: dict[str, Any] = {"name": key_of(attribute), "type": describe_type(attribute.type)}
        if getattr(attribute.default, "takes_self", False):
            row["computed"] = True
        elif attribute.default is not attrs.NOTHING:
            row["default"] = _default(attribute.default)
        limits = bounds(attribute.validator)
        if limits:
            row["bounds"] = ", ".join(limits)
        if "example" in attribute.metadata:
            row["example"] = attribute.metadata["example"]
        row["meaning"] = meanings.get(attribute.name, "")
        rows.append(row)
    return rows


def bounds(validator: Any) -> list[str]:
    """What attrs' standard validators demand, as `> 0`, `<= 1`, `one of ...`."""
    return [f"{operator} {bound}" for operator, bound in limits_of(validator)]


def limits_of(validator: Any) -> list[tuple[str, Any]]:
    """What attrs' standard validators demand, as (operator, bound)."""
    if validator is None:
        return []
    for part in ("_validators", "validators"):
        inner = getattr(validator, part, None)
        if inner is not None:
            return [limit for each in inner for limit in limits_of(each)]
    if hasattr(validator, "compare_op"):
        return [(validator.compare_op, validator.bound)]
    if hasattr(validator, "options"):
        return [("one of", ", ".join(map(str, validator.options)))]
    if hasattr(validator, "validator"):
        return limits_of(validator.validator)
    return []


def paste(component: Component) -> str:
    """A line of YAML that a recipe can take as it is.

    An option whose default alone makes no component has an `example` in its field's metadata.
    """
    stated = [
        f"{row['name']}: {yaml(row.get('example', row.get('default'))) if 'default' in row else '...'}"
        for row in options(component)
        if "computed" not in row
    ]
    name = component.name
    if component.kind in ("optimizer", "scheduler", "transition", "sampler", "balancer"):
        key = {"transition": "until"}.get(component.kind, component.kind)
        return f"{key}: {{{', '.join([f'type: {name}', *stated])}}}"
    if component.kind in ("model", "dataset"):
        label = "my_" + name if component.kind == "dataset" else name
        return f"{label}: {{{', '.join([f'type: {name}', *stated])}}}"
    return f"{name}: {{{', '.join(stated)}}}"


def loss_keys() -> list[str]:
    """The keys of a loss's entry that belong to the recipe."""
    return [key_of(attribute) for attribute in fields_of(LossSettings)]


def model_keys() -> list[str]:
    """The keys of a model's entry that belong to the recipe."""
    return [key_of(attribute) for attribute in fields_of(ModelSettings)]


def dataset_keys() -> list[str]:
    """The keys of a dataset's entry that belong to the recipe."""
    return [key_of(attribute) for attribute in fields_of(DatasetSettings)]


def weight_of(component: Component) -> float | None:
    """The weight that a loss has where a recipe states none; None for what is no loss."""
    return getattr(component.factory, "default_weight", 1.0) if component.kind == "loss" else None


def _describe(component: Component) -> str:
    kind = KINDS[component.kind]
    lines = [f"{component.kind} `{component.name}`", "", textwrap.indent(component.doc, "  ")]
    rows = options(component)
    if rows:
        lines += ["", "options"]
        for row in rows:
            default = f" = {yaml(row['default'])}" if "default" in row else " (needed)"
            default = " (computed)" if "computed" in row else default
            limits = f", {row['bounds']}" if "bounds" in row else ""
            lines.append(_indented(f"{row['name']}{default}  ({row['type']}{limits})", 2, under=8))
            lines += [_indented(row["meaning"], 6)] if row["meaning"] else []
    weight = weight_of(component)
    if weight is not None:
        lines += ["", f"every loss also takes  {', '.join(loss_keys())}  (weight {weight:g} by default)"]
    if component.kind == "model":
        lines += ["", f"every model also takes  {', '.join(model_keys())}"]
    if component.kind == "dataset":
        lines += ["", f"every dataset also takes  {', '.join(dataset_keys())}, for steps that state none of their own"]
    lines += ["", "needs     " + (", ".join(component.signature.needs) or "nothing")]
    lines.append(f"gives     {kind.returns}")
    lines.append(f"from      {component.plugin}")
    lines.append(f"defined   {component.where}")
    lines += ["", "YAML", f"  {paste(component)}"]
    return "\n".join(lines)


def _indented(text: str, by: int, under: int | None = None) -> str:
    """A text in lines that fit a terminal, or a page where there is none, each of them indented."""
    shown = sys.stdout is not None and sys.stdout.isatty()
    width = min(shutil.get_terminal_size().columns, WIDTH) if shown else WIDTH
    first, others = " " * by, " " * (by if under is None else under)
    filled = textwrap.fill(
        text,
        max(width, 40),
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled or first


def _default(default: Any) -> Any:
    made = default.factory() if isinstance(default, attrs.Factory) else default  # type: ignore[arg-type]
    plain = unstructure(made)
    try:
        json.dumps(plain)
    except TypeError:  # an object that no recipe can name
        return "..."
    return plain


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_TAKEN = {"true", "false", "null", "yes", "no", "on", "off"}


def yaml(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (list, tuple, set, frozenset)):
        return "[" + ", ".join(yaml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml(key)}: {yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    if isinstance(value, str) and value != "...":
        return value if _PLAIN.match(value) and value.lower() not in _TAKEN else json.dumps(value)
    return str(value)


def _meanings(cls: type) -> dict[str, str]:
    """The string literals that stand right after the fields of a class and of what it is derived from."""
    return {name: text for base in reversed(cls.__mro__) for name, text in _own_meanings(base).items()}


def _own_meanings(cls: type) -> dict[str, str]:
    """The string literals that stand right after the fields of a class, read from its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for statement, after in itertools.pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[statement.target.id] = inspect.cleandoc(after.value.value)
    return found
