"""How shards are named: by paths and URLs, and in problems."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit, urlunsplit

from fluxflow_registry import Problem


def is_remote(path: str) -> bool:
    """Whether a shard is on a server."""
    return path.startswith(("http://", "https://"))


def public(path: str) -> str:
    """A path as it is; a URL without its query, which may hold a signature."""
    if not is_remote(path):
        return path
    parts = urlsplit(path)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def check_url(url: str) -> None:
    """Raise ValueError for a URL that cannot be read, without repeating a password in it."""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError(
            "`shards` contains a URL with a user name or password: "
            "put a token into an environment variable and name it in `token_env`"
        )
    if not parts.hostname:
        raise ValueError(f"`shards` names the URL `{public(url)}`, which has no host")


def is_this_machine(url: str) -> bool:
    """Whether the host of a URL is the local machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shard_problem(path: str, predicate: str, code: str, notes: Sequence[tuple[str, str]] = ()) -> Problem:
    """A problem with one shard; the message is `shard`, its base name, and the predicate."""
    name = os.path.basename(public(path))
    return Problem(f"shard `{name}` {predicate}", public(path), notes, code=code, subject=name)
