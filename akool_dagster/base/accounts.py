"""What an account may be called, and how a command for an account is written in a message."""

from __future__ import annotations

import keyword
import re

from akool_dagster.errors import AkoolDagsterError

DEFAULT_ACCOUNT = "akool"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class InvalidAccountError(AkoolDagsterError, ValueError):
    """A name that no account can have."""


def check_account(account: object) -> None:
    """Raise `InvalidAccountError` for what cannot be the prefix that a deployment's names begin with."""
    if not isinstance(account, str) or not _NAME.fullmatch(account) or keyword.iskeyword(account):
        shown = repr(account)
        raise InvalidAccountError(
            f"{shown if len(shown) <= 80 else shown[:77] + '...'} cannot be an account: it is the prefix of Dagster's "
            "names, 1 to 64 letters, digits or '_', begins with a letter and is no keyword of Python."
        )


def shown_command(words: str, account: str) -> str:
    """Return a command of ``akool-dagster`` for an account, to be named in a message."""
    return f"`akool-dagster {words}" + ("`" if account == DEFAULT_ACCOUNT else f" --account {account}`")
