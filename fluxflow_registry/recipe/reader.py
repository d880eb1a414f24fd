"""YAML text to a tree of plain values: no tags, no merge keys, no duplicate keys, and limits on its size."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.reader import ReaderError

from fluxflow_registry.errors import Location, Note, Place, RecipeError, one_line
from fluxflow_registry.recipe.node import Node

#: A recipe is a page or two; these limits only stop malicious files.
MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40
MAX_KEY = 200

_DEEP = "the values are nested too deeply"

#: Integers have 64 bits: what files, devices and other languages can hold.
_INTEGERS = range(-(2**63), 2**64)

_KINDS = {"str": "a string", "int": "an integer", "float": "a number", "bool": "true or false", "null": "null"}


def read(path: str | Path) -> Node:
    """Read a YAML file; raises RecipeError where it is missing, empty, or not valid YAML."""
    name = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RecipeError("the file does not exist", name, code="missing-file") from None
    except OSError as error:
        raise _unreadable(f"the file cannot be read: {error.strerror}", name) from None
    if len(data) > MAX_BYTES:
        raise _unreadable(f"the file is longer than {MAX_BYTES:,} bytes: this is not a recipe", name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        raise _unreadable(f"the file is {not_utf8(data)}", _position(name, before)) from None
    if "\0" in text[:4]:
        raise _unreadable(f"the file is {not_utf8(data)}", Place(name, 1, 1))
    node = parse(text, name)
    if node.value is None:
        raise _unreadable("the file is empty", name)
    return node


def not_utf8(data: bytes) -> str:
    """What text is that is not UTF-8, and the fix where that is known."""
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in data[:4]:
        return "UTF-16: save it as UTF-8"
    return "not UTF-8 text"


def parse(text: str, name: str) -> Node:
    """Parse YAML 1.2; raises RecipeError with line and column."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _LimitedComposer
    try:
        root = yaml.compose(StringIO(text))
    except _TooMuchError as error:
        raise _unreadable(str(error.problem), _marked(name, error.problem_mark)) from None
    except MarkedYAMLError as error:
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        tab = mark is not None and text[mark.index : mark.index + 1] == "\t"
        notes = [("hint", "indent with spaces: YAML allows no tabs there")] if tab else []
        raise _unreadable(f"this is not valid YAML: {reason}", _marked(name, mark), notes) from None
    except ReaderError as error:
        first = str(error).splitlines()[0]
        raise _unreadable(f"this is not valid YAML: {first}", _position(name, text[: error.position])) from None
    except AssertionError:  # how ruamel reacts to `%YAML 1.3`
        raise _unreadable("this is not valid YAML: unknown version of YAML", Place(name, 1, 1)) from None
    except (YAMLError, ValueError) as error:
        raise _unreadable(f"this is not valid YAML: {one_line(error)}", name) from None
    if root is None:
        return Node(None, Place(name, 1, 1), {})
    return _Builder(name, yaml).build(root, 0)


def _unreadable(message: str, where: Location | str, notes: Sequence[Note] = ()) -> RecipeError:
    return RecipeError(message, where, notes, code="unreadable-file")


def _position(name: str, before: str) -> Place:
    """The position right after the text `before`."""
    lines = before.split("\n")
    return Place(name, len(lines), len(lines[-1]) + 1)


def _marked(name: str, mark: Any, key: str | None = None) -> Place:
    return Place(name, mark.line + 1, mark.column + 1, key) if mark else Place(name)


class _TooMuchError(MarkedYAMLError):
    """The file is valid YAML, but no recipe looks like this."""


class _LimitedComposer(Composer):
    """ruamel's composer with limits on the number of values and on how deeply they are nested."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        # YAML allows an anchor to be defined again; ruamel would warn on stderr.
        self.warn_double_anchors = False
        self.count = 0
        self.level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.count += 1
        self.level += 1
        mark = self.parser.peek_event().start_mark
        if self.count > MAX_NODES:
            raise _TooMuchError(problem=f"the file has more than {MAX_NODES:,} values", problem_mark=mark)
        if self.level > MAX_DEPTH:
            raise _TooMuchError(problem=_DEEP, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Builder:
    """Turns ruamel's nodes into ours; the values that aliases refer to count as if they were written out."""

    def __init__(self, name: str, yaml: Any) -> None:
        self.name = name
        self.constructor = yaml.constructor
        self.count = 0

    def build(self, node: Any, depth: int, path: str = "", place: Place | None = None) -> Node:
        """Build our node; an empty value is located at its key, where ruamel locates it at the next token."""
        where = _marked(self.name, node.start_mark, path or None)
        if place is not None and node.start_mark.index == node.end_mark.index:
            where = place
        self.count += 1
        if self.count > MAX_NODES:
            raise _unreadable(f"the file expands to more than {MAX_NODES:,} values", where)
        if depth > MAX_DEPTH:
            raise _unreadable(_DEEP, where)
        tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
        if node.id == "mapping" and tag == "map":
            return self.mapping(node, where, depth, path)
        if node.id == "sequence" and tag == "seq":
            children = [(child, f"{path}.{index}".lstrip(".")) for index, child in enumerate(node.value)]
            return Node([self.build(child, depth + 1, inner) for child, inner in children], where, {})
        if node.id == "scalar" and tag in _KINDS:
            return Node(self.scalar(node, tag, where), where, {})
        if tag == "merge":
            return Node("<<", where, {})
        raise _unreadable(f"the tag `{node.tag}` is not allowed: a recipe is plain data", where)

    def scalar(self, node: Any, tag: str, where: Place) -> Any:
        if tag == "str":
            text = _combined(node.value)
            if text is None:
                raise _unreadable("the string contains an unpaired surrogate, which UTF-8 cannot represent", where)
            return text
        try:
            value = self.constructor.construct_object(node)
        except (ValueError, ArithmeticError, LookupError):  # LookupError: `!!bool maybe`, `!!int ""`
            raise RecipeError(f"`{node.value}` is not {_KINDS[tag]}", where, code="wrong-type") from None
        if tag == "int" and value not in _INTEGERS:
            raise RecipeError("the integer is too large: integers have 64 bits", where, code="out-of-range")
        # Plain scalars: ruamel's own classes remember how they were written.
        kinds: dict[str, type] = {"int": int, "float": float, "bool": bool}
        return kinds[tag](value) if tag in kinds else None

    def mapping(self, node: Any, where: Place, depth: int, path: str) -> Node:
        value: dict[str, Node] = {}
        keys: dict[str, Location] = {}
        for key_node, child in node.value:
            key = _combined(key_node.value) if key_node.id == "scalar" else None
            inner = f"{path}.{key}".lstrip(".")
            place = _marked(self.name, key_node.start_mark, inner)
            if key is None or len(key) > MAX_KEY:
                message = f"a key must be a string of at most {MAX_KEY} characters"
                raise RecipeError(message, place, code="invalid-name")
            if key == "<<":
                raise _unreadable("merge keys are not allowed in a recipe: use `defaults` for shared settings", place)
            if key in value:
                first = ("see also", str(keys[key]))
                raise RecipeError(f"duplicate key `{key}`", place, [first], code="duplicate-name", subject=key)
            keys[key] = place
            value[key] = self.build(child, depth + 1, inner, place)
        return Node(value, where, keys)


def _combined(text: str) -> str | None:
    """The text with surrogate pairs combined, as JSON writes characters beyond 16 bits; None for half a pair."""
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError:
        return None
