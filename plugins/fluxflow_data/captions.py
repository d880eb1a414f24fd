"""Captions as bytes: UTF-8, with single spaces between words."""

from __future__ import annotations


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
