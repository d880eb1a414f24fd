"""What a component needs of the graph and of the recipe: the parameters of its call, and its fields."""

from __future__ import annotations

import ast
import inspect
import os
import sys
import sysconfig
import textwrap
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from fluxflow_registry.contracts.kind import key_of as key_of
from fluxflow_registry.errors import Place, PluginError

VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

#: What `get_origin` returns for types that are read alike.
SEQUENCES = (list, tuple, Sequence, set, frozenset)
MAPPINGS = (dict, Mapping)
UNIONS = (Union, types.UnionType)


@frozen
class Signature:
    """The needs of one component and the location that declares them."""

    needs: tuple[str, ...]
    #: Those needs whose annotation ends in `Module`: nn.Module, or a protocol of a plugin's own.
    models: frozenset[str]
    where: Place
    text: str


def call_of(component: Any) -> Callable[..., Any]:
    """The function behind a component: itself, or the `__call__` of a class."""
    call = component.__call__ if inspect.isclass(component) else component
    unwrapped: Callable[..., Any] = inspect.unwrap(call)
    return unwrapped


def read(component: Any, what: str = "the component") -> Signature:
    """Read what `component`, called `what` in messages, needs; parameters with defaults are not filled.

    Raises PluginError for `*args`, `**kwargs` and positional-only parameters: values are passed by name.
    """
    call = call_of(component)
    parameters = list(inspect.signature(call).parameters.values())
    if inspect.isclass(component) and inspect.isfunction(inspect.getattr_static(component, "__call__")):
        parameters = parameters[1:]  # self
    where, text = definition(call)
    for parameter in parameters:
        if parameter.kind in VARIADIC:
            stars = "*" if parameter.kind is inspect.Parameter.VAR_POSITIONAL else "**"
            message = f"{what} takes `{stars}{parameter.name}`: declare a parameter for each value that it needs"
        elif parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
            message = f"`{parameter.name}` of {what} is positional-only, but values are passed by name: remove the `/`"
        else:
            continue
        notes = (("defined in", f"{where}  {text}"),)
        raise PluginError(message, where, notes, code="wrong-parameters", subject=parameter.name)
    needed = [parameter for parameter in parameters if parameter.default is inspect.Parameter.empty]
    return Signature(
        needs=tuple(parameter.name for parameter in needed),
        models=frozenset(p.name for p in needed if _is_module(p.annotation)),
        where=where,
        text=text,
    )


def returns_tensor(component: Any) -> bool:
    """Whether the call is annotated to return one tensor rather than a mapping of them."""
    annotation = inspect.signature(call_of(component)).return_annotation
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.strip("'\" ").rpartition(".")[2] == "Tensor"


def definition(call: Callable[..., Any]) -> tuple[Place, str]:
    """Where a function is defined (`file:line`) and its `def` line with the names alone."""
    code = getattr(call, "__code__", getattr(type(call).__call__, "__code__", None))
    try:
        names = ", ".join(str(name) for name in inspect.signature(call).parameters)
    except (TypeError, ValueError):
        names = "..."
    text = f"def {getattr(call, '__name__', type(call).__name__)}({names})"
    if code is None:
        return Place("unknown"), text
    return Place(shorten(code.co_filename), code.co_firstlineno), text


def source_of(cls: type) -> tuple[ast.ClassDef | None, int]:
    """The syntax tree of a class and the line before its first; None where its source is not available."""
    try:
        lines, first = _source_lines(cls)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None, 0
    return (tree if isinstance(tree, ast.ClassDef) else None), first - 1


def place_of(component: Any, member: str | None = None) -> Place | None:
    """File and line of a function or a class, or of one `member` of a class or an object; None where unknown."""
    classes = inspect.getmro(component if inspect.isclass(component) else type(component)) if member else ()
    for cls in classes:
        tree, before = source_of(cls)
        for node in ast.walk(tree) if tree else ():
            if member == _defined(node):
                return Place(shorten(inspect.getfile(cls)), before + node.lineno)  # type: ignore[attr-defined]
    try:
        return Place(shorten(inspect.getfile(component)), _source_lines(component)[1])
    except (OSError, TypeError):
        return None


@cache
def _source_lines(component: Any) -> tuple[list[str], int]:
    """As `inspect.getsourcelines`, which parses the whole file of a class each time."""
    return inspect.getsourcelines(component)


def _defined(node: ast.AST) -> str | None:
    """The name that a part of a class's source defines: a method, an attribute, or an attribute of `self`."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
        return node.id if isinstance(node, ast.Name) else node.attr
    return None


def returned_class(component: Any) -> type | None:
    """The class that a component's call is annotated to return; None where it is unknown, or just a protocol."""
    call = call_of(component)
    try:
        hints = {"return": call.__annotations__["return"]}
        found = get_type_hints(type("", (), {"__annotations__": hints, "__module__": call.__module__}))["return"]
    except Exception:  # no annotation, or one for type checkers alone
        return None
    return found if inspect.isclass(found) and not getattr(found, "_is_protocol", False) else None


def shorten(path: str | Path) -> str:
    """A path as short as possible: relative to the working folder or to an entry of the import path."""
    full = os.path.abspath(path)
    roots = [os.getcwd(), *(entry for entry in sys.path if entry)]
    shortest = full
    for root in roots:
        prefix = os.path.join(os.path.abspath(root), "")
        if full.startswith(prefix) and len(full) - len(prefix) < len(shortest):
            shortest = full[len(prefix) :]
    return shortest


#: What only calls the code of a component is never where that fails: this package, and libraries.
_OURS = str(Path(__file__).parents[1]) + os.sep
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_GENERATED = ("<frozen ", "<attrs generated ", "<string>")
_LIBRARIES = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "pluggy", "attr", "cattrs"))
_INSTALLED = f"{os.sep}site-packages"


def raised_in(error: BaseException) -> Place | None:
    """Where a component or a plugin raised: the last line that is neither ours, nor torch's, nor Python's own."""
    frame = _last_frame(error)
    if isinstance(error, SyntaxError) and error.filename:
        return Place(shorten(error.filename), error.lineno)
    return None if frame is None else Place(shorten(frame.filename), frame.lineno)


def raised_at(error: BaseException) -> tuple[tuple[str, str], ...]:
    """The note on the line of a component that raised, with its code; empty where none is to blame."""
    frame = _last_frame(error)
    if frame is None:
        return ()
    return (("raised at", f"{shorten(frame.filename)}:{frame.lineno}  {frame.line or ''}".rstrip()),)


def _last_frame(error: BaseException) -> traceback.FrameSummary | None:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _only_calls(frame.filename)]
    return frames[-1] if frames and frames[-1].lineno is not None else None


def _only_calls(file: str) -> bool:
    if _INSTALLED in file and not file.startswith(_OURS):
        return any(_INSTALLED + library in file for library in _LIBRARIES)
    return file.startswith((_OURS, _PYTHON, *_GENERATED))


def is_configurable(component: Any) -> bool:
    """Whether the component is a class with attrs fields, which the recipe may set."""
    return inspect.isclass(component) and attrs.has(component)


def fields_of(cls: type) -> tuple[attrs.Attribute[Any], ...]:
    """The fields that a recipe may set, their types resolved; a field without annotation takes anything.

    Keyword-only fields come last: a class lists its own options before those that it inherits. Fields that only the
    component itself sets may have types that exist for type checkers alone. Raises NameError for an option's type that
    does not exist at run time.
    """
    return _fields_of(cls)


def keys_of(cls: type) -> list[str]:
    """The keys of the mapping from which an attrs class is read: one for each field, in their order."""
    return [key_of(attribute) for attribute in fields_of(cls)]


@cache
def _fields_of(cls: Any) -> tuple[attrs.Attribute[Any], ...]:
    options = sorted((each for each in attrs.fields(cls) if each.init), key=lambda attribute: attribute.kw_only)
    names = {attribute.name for attribute in options}
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = {name: hint for name, hint in inspect.get_annotations(base).items() if name in names}
        hints |= get_type_hints(type(base.__name__, (), {"__annotations__": own, "__module__": base.__module__}))
    return tuple(option.evolve(type=hints.get(option.name, option.type or Any)) for option in options)


def _is_module(annotation: Any) -> bool:
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return name.strip("'\" ").endswith("Module")


_WORDS: dict[Any, str] = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
_WORDS |= {type(None): "null", Any: "anything"}
_PLURALS: dict[Any, str] = {int: "integers", float: "numbers", str: "strings"}


def describe_type(kind: Any) -> str:
    """A type in a user's words: `a list of integers` rather than `list[int]`."""
    if kind in _WORDS:
        return _WORDS[kind]
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin in UNIONS:
        return " or ".join(describe_type(member) for member in arguments)
    if origin in SEQUENCES:
        if origin is tuple and arguments and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)} values ({', '.join(describe_type(each) for each in arguments)})"
        return "a list" + (_of(arguments[0]) if arguments else "")
    if origin in MAPPINGS:
        return "a mapping" + (_of(arguments[1]) if arguments else "")
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "one of " + ", ".join(str(member.value) for member in kind)
    return f"{'a mapping' if attrs.has(origin) else 'a value'} ({getattr(kind, '__name__', kind)})"


def _of(kind: Any) -> str:
    return f" of {_PLURALS[kind]}" if kind in _PLURALS else f", each {describe_type(kind)}"
