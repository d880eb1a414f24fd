"""The token for a server: it comes from an environment variable alone, and goes to the host of the URL alone."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from fluxflow_registry import DataError, Problem, Variable

from ..names import is_this_machine, public

#: Whose token is used where the recipe names no variable, and the variables that may hold it.
HUB = "huggingface.co"
HUB_VARIABLES = ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def find_token(url: str, token_env: str | None) -> str | None:
    """The token for a URL; raises DataError rather than send it unencrypted."""
    for variable in _variables(url, token_env):
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


def token_note(url: str, token_env: str | None) -> tuple[str, str]:
    """A note on which token was sent to a server that refused a request; never the token itself."""
    variables = _variables(url, token_env)
    used = [variable for variable in variables if os.environ.get(variable)]
    if used:
        return "status", f"the token in {used[0]} was sent"
    if variables:
        return "hint", f"set {' or '.join(variables)} to a token: none was sent"
    return "hint", "set `token_env` to the name of the environment variable that holds a token: none was sent"


def _variables(url: str, token_env: str | None) -> tuple[str, ...]:
    """The variables that may hold the token for a host: the recipe's, or the Hub's own for the Hub alone."""
    if token_env is not None:
        return (token_env,)
    host = urlsplit(url).hostname or ""
    return HUB_VARIABLES if host == HUB or host.endswith(f".{HUB}") else ()


def _unusable(variable: str, url: str, cause: str, code: str) -> DataError:
    message = f"cannot send the token in {variable} to {public(url)}: {cause}"
    return DataError(Problem(message, Variable(variable), code=code, subject=variable))
