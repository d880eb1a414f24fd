"""YAML text to a tree of plain values: no tags, no merge keys, no duplicate keys, and limits on its size."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from fluxflow_registry.errors import Location, Place, Problem, RecipeError, one_line
from fluxflow_registry.recipe.node import Node

#: A recipe is a page or two; these limits only stop files that were made to hurt.
MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40
MAX_KEY = 200

#: Whole numbers are those of 64 bits: what files, devices and other languages can hold.
_WHOLE = range(-(2**63), 2**64)

_KINDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"}


def read(path: str | Path) -> Node:
    """Read a YAML file; raises RecipeError when there is none, or nothing in it, or it is no YAML."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError(Problem("there is no such file", name)) from None
    except OSError as error:
        raise RecipeError(Problem(f"cannot be read: {error.strerror}", name)) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(Problem(f"is longer than {MAX_BYTES:,} bytes: this is no recipe", name))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        raise RecipeError(Problem("is not UTF-8 text", _placed(name, before))) from None
    node = parse(text, name)
    if node.value is None:
        raise RecipeError(Problem("the file is empty", name))
    return node


def parse(text: str, name: str) -> Node:
    """Parse YAML 1.2; raises RecipeError with line and column."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _LimitedComposer
    try:
        root = yaml.compose(StringIO(text))
    except _TooMuchError as error:
        raise RecipeError(Problem(str(error.problem), _marked(name, error.problem_mark))) from None
    except MarkedYAMLError as error:
        told = ", ".join(part for part in (error.context, error.problem) if part)
        where = _marked(name, error.problem_mark or error.context_mark)
        raise RecipeError(Problem(f"is no valid YAML: {told}", where)) from None
    except ReaderError as error:
        where = _placed(name, text[: error.position])
        raise RecipeError(Problem(f"is no valid YAML: {str(error).splitlines()[0]}", where)) from None
    except AssertionError:  # how ruamel meets `%YAML 1.3`
        raise RecipeError(Problem("asks for a version of YAML that is not known", Place(name, 1, 1))) from None
    except (YAMLError, ValueError) as error:
        raise RecipeError(Problem(f"is no valid YAML: {one_line(error)}", name)) from None
    if root is None:
        return Node(None, Place(name, 1, 1), {})
    return _Builder(name, yaml).build(root, 0)


def _placed(name: str, before: str) -> Place:
    """The place right after the text `before`."""
    lines = before.split("\n")
    return Place(name, len(lines), len(lines[-1]) + 1)


def _marked(name: str, mark: Any, key: str | None = None) -> Place:
    return Place(name, mark.line + 1, mark.column + 1, key) if mark else Place(name)


class _TooMuchError(MarkedYAMLError):
    """The file is valid, but no recipe looks like this."""


class _LimitedComposer(Composer):
    """ruamel's composer, which stops where there are too many values, or too many in each other."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        # An anchor may be given anew, as YAML says; ruamel would warn on stderr.
        self.warn_double_anchors = False
        self.count = 0
        self.level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.count += 1
        self.level += 1
        mark = self.parser.peek_event().start_mark
        if self.count > MAX_NODES:
            raise _TooMuchError(problem=f"holds more than {MAX_NODES:,} values", problem_mark=mark)
        if self.level > MAX_DEPTH:
            raise _TooMuchError(problem="is nested too deeply", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Builder:
    """Turns ruamel's nodes into ours; what aliases expand to counts as if it were written out."""

    def __init__(self, name: str, yaml: Any) -> None:
        self.name = name
        self.constructor = yaml.constructor
        self.count = 0

    def build(self, node: Any, depth: int, path: str = "", place: Place | None = None) -> Node:
        """The node as ours; an empty value is located at its key: ruamel locates it at the next token."""
        where = _marked(self.name, node.start_mark, path or None)
        if place is not None and node.start_mark.index == node.end_mark.index:
            where = place
        self.count += 1
        if self.count > MAX_NODES:
            raise RecipeError(Problem(f"expands to more than {MAX_NODES:,} values", where))
        if depth > MAX_DEPTH:
            raise RecipeError(Problem("is nested too deeply", where))
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if node.id == "mapping" and tag == "map":
            return self.mapping(node, where, depth, path)
        if node.id == "sequence" and tag == "seq":
            items = [
                self.build(child, depth + 1, f"{path}.{index}".lstrip(".")) for index, child in enumerate(node.value)
            ]
            return Node(items, where, {})
        if node.id == "scalar" and tag in _KINDS:
            return Node(self.scalar(node, tag, where), where, {})
        if tag == "merge":
            return Node("<<", where, {})
        raise RecipeError(Problem(f"a recipe is plain data: the tag `{node.tag}` is refused", where))

    def scalar(self, node: Any, tag: str, where: Place) -> Any:
        if tag == "str":
            text = _whole(node.value)
            if text is None:
                raise RecipeError(Problem("this text holds half a character, which UTF-8 cannot write", where))
            return text
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, ArithmeticError, LookupError):  # LookupError: `!!bool maybe`, `!!int ""`
            raise RecipeError(Problem(f"`{node.value}` cannot be read as {_KINDS[tag]}", where)) from None
        if tag == "int" and value not in _WHOLE:
            raise RecipeError(Problem("this number is too large: whole numbers have 64 bits", where))
        # Plain scalars: ruamel's own classes remember how they were written.
        kinds: dict[str, type] = {"int": int, "float": float, "bool": bool}
        return kinds[tag](value) if tag in kinds else None

    def mapping(self, node: Any, where: Place, depth: int, path: str) -> Node:
        value: dict[str, Node] = {}
        keys: dict[str, Location] = {}
        for key_node, child in node.value:
            key = _whole(key_node.value) if key_node.id == "scalar" else None
            inner = f"{path}.{key}".lstrip(".")
            place = _marked(self.name, key_node.start_mark, inner)
            if key is None or len(key) > MAX_KEY:
                raise RecipeError(Problem("a key is a plain word", place))
            if key == "<<":
                message = "merge keys are not part of the recipe language; shared settings go under `defaults`"
                raise RecipeError(Problem(message, place))
            if key in value:
                raise RecipeError(
                    Problem(f"the key `{key}` stands here a second time", place, (("first", str(keys[key])),))
                )
            keys[key] = place
            value[key] = self.build(child, depth + 1, inner, place)
        return Node(value, where, keys)


def _whole(text: str) -> str | None:
    """The text with pairs of surrogates made one, as JSON writes characters beyond 16 bits; None for half a pair."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
