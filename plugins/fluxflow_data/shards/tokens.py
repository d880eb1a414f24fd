"""Tokens: which environment variable may be sent to which server, as the user allows it, and never the recipe."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

from fluxflow_registry import DataError, Variable

from .hub import ENDPOINT, ENDPOINT_VARIABLE
from .paths import is_this_machine, public

#: What a user allows: servers and the names of variables, as in `example.org=MY_TOKEN other.org:8443=OTHER_TOKEN`.
ALLOWED = "FLUXFLOW_TOKENS"

#: The variables that hold a token for the Hugging Face hub.
HUB_VARIABLES = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN")

#: The name of an environment variable.
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

#: A name that may be shown although no variable has it: in capitals, as names of variables are and tokens are not.
_SHOWN = re.compile(r"[A-Z0-9_]+\Z")

_PORTS = {"https": 443, "http": 80}


def require_variable(token_env: str | None) -> None:
    """Raise DataError where `token_env` names no variable that is set or allowed: it may be the token itself."""
    if token_env is None or token_env in os.environ:
        return
    name = _shown(token_env)
    if name != token_env or all(variable != name for _, variable in _permissions()):
        message = f"`token_env` is `{name}`, but no environment variable with that name is set"
        hint = "set a variable to the token and write the name of the variable, or leave `token_env` out"
        raise DataError(message, None, [("hint", hint)], code="missing-variable", subject=name)


def _shown(variable: str) -> str:
    """The name of a variable for a message; hidden where it may be a token that was written in its place."""
    return variable if variable in os.environ or _SHOWN.match(variable) else "***"


def find_token(url: str, token_env: str | None) -> str | None:
    """The token for a URL, or None; `token_env` is the variable that the recipe names, if it names one.

    Raises DataError where the user has not allowed that variable for the server, or rather than send it unencrypted.
    """
    variables = _allowed(url)
    if token_env in variables:
        variables = [token_env, *variables]
    elif token_env is not None and os.environ.get(token_env):
        raise _not_allowed(token_env, url)
    for variable in variables:
        token = os.environ.get(variable, "").strip()
        if not token:
            continue
        if not token.isascii() or not token.isprintable() or " " in token:
            raise _unusable(variable, url, "it contains characters that no token has", "invalid-token")
        if urlsplit(url).scheme != "https" and not is_this_machine(url):
            cause = "it would be sent unencrypted: use https, or unset the variable"
            raise _unusable(variable, url, cause, "unencrypted-token")
        return token
    return None


def token_notes(url: str, token_env: str | None) -> tuple[tuple[str, str], ...]:
    """Which token was sent to a server that refused a request, or how to send one; never the token itself."""
    variables = _allowed(url)
    variables = [token_env, *variables] if token_env in variables else variables
    if used := [variable for variable in variables if os.environ.get(variable)]:
        return (("status", f"the token in {used[0]} was sent"),)
    if variables:
        return (("hint", f"set {' or '.join(dict.fromkeys(map(_shown, variables)))} to a token: none was sent"),)
    hint = "no token was sent: if the server requires one, put it into a variable and allow the variable for the server"
    return ("hint", hint), ("command", _command(url, token_env or "MY_TOKEN"))


def _allowed(url: str) -> list[str]:
    """The variables whose token the user allows a server to receive; the hub's own are for the hub alone."""
    server = _server(url)
    variables = [variable for host, variable in _permissions() if host.lower() == server]
    hubs = [ENDPOINT, os.environ.get(ENDPOINT_VARIABLE, "")]
    return [*variables, *(HUB_VARIABLES if server in map(_server, filter(None, hubs)) else ())]


def _permissions() -> Iterator[tuple[str, str]]:
    """The servers and variables that the user allows; raises DataError for an entry that is neither."""
    for number, entry in enumerate(re.split(r"[\s,]+", os.environ.get(ALLOWED, "").strip(" ,\t\n")), 1):
        host, sign, variable = entry.rpartition("=")
        if entry and (not sign or not host or not NAME.match(variable)):
            # The entry is not repeated: it may be a token.
            message = (
                f"entry {number} of {ALLOWED} must have the form `host=VARIABLE`: the host of a server, and the name"
            )
            raise DataError(f"{message} of the variable with its token", Variable(ALLOWED), code="malformed-setting")
        yield host, variable


def _server(url: str) -> str:
    """The host of a URL, and its port unless that is the usual one."""
    try:
        parts = urlsplit(url)
        port = "" if parts.port in (None, _PORTS.get(parts.scheme)) else f":{parts.port}"
    except ValueError:
        return ""
    host = parts.hostname or ""
    return (f"[{host}]" if ":" in host else host) + port


def _command(url: str, variable: str) -> str:
    """The shell command that allows a variable for the server of a URL."""
    before = f'"${ALLOWED} "' if os.environ.get(ALLOWED) else ""
    entry = shlex.quote(f"{_server(url)}={variable}")
    return f"export {ALLOWED}={before}{entry}"


def _not_allowed(variable: str, url: str) -> DataError:
    server = _server(url)
    message = f"the recipe requests the variable {variable} for {server}, and {ALLOWED} does not allow it"
    hint = "allow it only if this server may know what the variable contains: a recipe can name any variable"
    notes = (("hint", hint), ("command", _command(url, variable)))
    return DataError(message, Variable(variable), notes, code="token-not-allowed", subject=server)


def _unusable(variable: str, url: str, cause: str, code: str) -> DataError:
    message = f"cannot send the token in {variable} to {public(url)}: {cause}"
    return DataError(message, Variable(variable), code=code, subject=variable)
