"""Shards in a repository of the Hugging Face hub: `hf://datasets/OWNER/NAME/data/*.tar` as the URLs of its files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from glob import has_magic
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from attrs import frozen

from fluxflow_registry import DataError, redact

SCHEME = "hf://"

#: Where the hub is, unless this variable of the hub's own library says otherwise.
ENDPOINT, ENDPOINT_VARIABLE = "https://huggingface.co", "HF_ENDPOINT"

#: Bytes of a page of a listing, and pages, that no repository of shards exceeds.
PAGE, PAGES = 1 << 25, 1000

#: Folders within each other that no path of a repository has.
DEEPEST = 64

_FORM = re.compile(r"hf://datasets/(?P<repository>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<path>[^/].*)")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')


@frozen
class HubPath:
    """A path, or a pattern of paths, in a repository of datasets."""

    written: str
    repository: str
    revision: str
    path: str

    @classmethod
    def parse(cls, entry: str) -> HubPath:
        """The path that an entry names; raises ValueError."""
        match = _FORM.fullmatch(entry)
        if match is None:
            form = f"{SCHEME}datasets/OWNER/NAME/data/*.tar"
            raise ValueError(f"`shards` names `{redact(entry)}`: on the hub, a path has the form `{form}`")
        return cls(entry, match["repository"], match["revision"] or "main", match["path"])

    def urls(self, token_env: str | None) -> list[str]:
        """The URL of each file that the path names, sorted by name; raises DataError if a pattern cannot be listed."""
        names = self._matching(token_env) if has_magic(self.path) else [self.path]
        return [f"{self._root()}/datasets/{self._quoted('resolve')}/{quote(name)}" for name in names]

    def _matching(self, token_env: str | None) -> list[str]:
        pattern = self.path.split("/")
        fixed = next(number for number, part in enumerate(pattern) if has_magic(part))
        deep = fixed < len(pattern) - 1
        folder = "".join(f"/{quote(part)}" for part in pattern[:fixed])
        url = f"{self._root()}/api/datasets/{self._quoted('tree')}{folder}?recursive={str(deep).lower()}"
        found = [
            name
            for name in self._listed(url, token_env)
            if name.count("/") < DEEPEST and matches(name.split("/"), pattern)
        ]
        if not found:
            raise DataError(
                f"no file matches `{self.written}`", self.written, code="missing-file", subject=self.written
            )
        return sorted(found)

    def _listed(self, url: str, token_env: str | None) -> Iterator[str]:
        """The files of a listing, page by page."""
        for _ in range(PAGES):
            content, link = _page(url, token_env)
            try:
                rows: Any = json.loads(content) if len(content) <= PAGE else None
            except (ValueError, RecursionError):
                rows = None
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise self._unlisted("the server did not return a list of files")
            yield from (row["path"] for row in rows if row.get("type") == "file" and isinstance(row.get("path"), str))
            following = _NEXT.search(link)
            if following is None:
                return
            try:
                url = urljoin(url, following[1])
                elsewhere = urlsplit(url)[:2] != urlsplit(self._root())[:2]
            except ValueError:
                raise self._unlisted("the list continues at an address that is not valid") from None
            if elsewhere:
                raise self._unlisted("the list continues on another server")
        raise self._unlisted(f"the list has more than {PAGES:,} pages")

    def _unlisted(self, cause: str) -> DataError:
        message = f"the files of `{self.written}` cannot be listed: {cause}"
        return DataError(message, self.written, code="unreachable-server", subject=self.written)

    def _quoted(self, kind: str) -> str:
        return f"{self.repository}/{kind}/{quote(self.revision, safe='')}"

    @staticmethod
    def _root() -> str:
        return os.environ.get(ENDPOINT_VARIABLE, "").strip().rstrip("/") or ENDPOINT


def _page(url: str, token_env: str | None) -> tuple[bytes, str]:
    """The content of a page of a listing, and its header `Link`; raises DataError."""
    from .requests import TemporaryError, failure_of, repeated, response

    def attempt() -> tuple[bytes, str]:
        with response(url, token_env, None, PAGE) as answer:
            try:
                return answer.read(PAGE + 1), answer.headers.get("Link", "")
            except (OSError, HTTPException, ValueError) as error:
                raise TemporaryError(failure_of(error)) from None

    return repeated(url, attempt)


def matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern; `**` stands for any number of folders."""
    if not pattern or not name:
        return not pattern and not name
    if pattern[0] == "**":
        return matches(name, pattern[1:]) or matches(name[1:], pattern)
    return fnmatchcase(name[0], pattern[0]) and matches(name[1:], pattern[1:])
