"""Captions from bytes: UTF-8 text, a string in JSON, or the number of a class, with single spaces between words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from fluxflow_registry import DataError

from .files import TABLE_BYTES, read_limited, why_missing


class CaptionError(ValueError):
    """What is wrong with the bytes of a caption, as the predicate of a sentence: `is not UTF-8`."""


def decode_caption(content: bytes) -> str:
    """The caption in the bytes of a text file; raises CaptionError."""
    return " ".join(decode_utf8(without_byte_order_mark(content)).split())


def decode_utf8(content: bytes) -> str:
    """The bytes as text; raises CaptionError."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CaptionError(f"is not UTF-8 (first invalid byte: {error.start + 1})") from None


def without_byte_order_mark(content: bytes) -> bytes:
    """The bytes after UTF-8's byte order mark; raises CaptionError for UTF-16's."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CaptionError("is UTF-16: save it as UTF-8")
    return content.removeprefix(b"\xef\xbb\xbf")


def read_class_names(path: Path) -> list[str]:
    """The names of classes in a file, one on each line; raises DataError."""
    what, code = f"class names file `{path.name}`", "unreadable-file"
    try:
        lines = decode_utf8(without_byte_order_mark(read_limited(path, TABLE_BYTES))).splitlines()
        if lines:
            return [" ".join(line.split()) for line in lines]
        message = f"{what} is empty"
    except FileNotFoundError:
        code, message = "missing-file", f"{what} {why_missing(path)}"
    except CaptionError as error:
        message = f"{what} {error}"
    except OSError as error:
        message = f"{what} cannot be read: {error.strerror}"
    raise DataError(message, str(path), code=code)


def class_name(number: str, names: Sequence[str]) -> str:
    """The name of the class with a number; raises CaptionError."""
    if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < len(names)):
        raise CaptionError(f"is not the number of a class, 0 to {len(names) - 1}")
    return names[int(number)]


@frozen
class CaptionMember:
    """The member with the captions, by extension, and the keys that lead to a caption if it is JSON."""

    extension: str
    keys: tuple[str, ...] = ()

    @classmethod
    def parse(cls, written: str) -> CaptionMember:
        """The member that `caption_key` names: `json.a.b` is `b` in `a` in the member `json`."""
        parts = written.strip(" .").split(".")
        lower = [part.lower() for part in parts]
        end = lower.index("json") + 1 if "json" in lower else len(parts)
        return cls(".".join(lower[:end]), tuple(parts[end:]))

    @property
    def is_json(self) -> bool:
        """Whether the member holds JSON, by its extension."""
        return self.extension.rpartition(".")[2] == "json"

    def caption(self, content: bytes) -> str:
        """The caption in the bytes of the member; raises CaptionError."""
        if not self.keys:
            return decode_caption(content)
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise CaptionError("is not JSON" if content else "is empty (0 bytes)") from None
        for depth, key in enumerate(self.keys):
            path = ".".join(self.keys[: depth + 1])
            if not isinstance(value, dict) or key not in value:
                others = ", ".join(list(value)[:8]) if isinstance(value, dict) else ""
                raise CaptionError(f"has no key `{path}`" + (f", only {others}" if others else ""))
            value = value[key]
        if not isinstance(value, str):
            raise CaptionError(f"has no string under `{path}`")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise CaptionError(f"has an unpaired surrogate under `{path}`")
        return " ".join(value.split())
