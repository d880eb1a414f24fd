"""Captions of samples in shards: the text of one member, or a string in a JSON member."""

from __future__ import annotations

import json

from attrs import frozen

from ..captions import CaptionError, decode_caption


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
            raise CaptionError(f"has half of a surrogate pair under `{path}`")
        return " ".join(value.split())
