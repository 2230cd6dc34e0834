"""What an account may be called: one rule for the definitions, the ledger and the command line."""

from __future__ import annotations

import keyword
import re

from akool_dagster.errors import AkoolDagsterError

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
