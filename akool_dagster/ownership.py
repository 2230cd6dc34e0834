"""``ledger.json``: which ledger an account's folder in the storage root belongs to."""

from __future__ import annotations

import json
from dataclasses import dataclass

from akool_dagster.errors import AkoolDagsterError
from akool_dagster.storage import StorageRoot

MARKER = "ledger.json"


class OwnershipError(AkoolDagsterError):
    """This ledger must not write here: the folder belongs to another ledger, or to none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose a folder of the storage root is: the content of its ``ledger.json``."""

    ledger_id: str
    granularity: str | None = None
    """How much time a partition covers; None where that is not written down yet."""


def ledger_command(name: str, account: str) -> str:
    """Return a command that looks after the ledger, to be named in a message."""
    return f"`akool-dagster ledger {name}" + ("`" if account == "akool" else f" --account {account}`")


def read_mark(root: StorageRoot, account: str) -> Mark | None:
    """Return whose an account's folder is; None where that is not written.

    Raises `OwnershipError` for a mark that cannot be understood, `StorageError` when the root cannot be read.
    """
    marker = f"{account}/{MARKER}"
    content = root.read_if_there(marker)
    if content is None:
        return None
    try:
        written = json.loads(content)
        mark = Mark(ledger_id=written["ledger"], granularity=written.get("granularity"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        mark = None
    if mark is None or not isinstance(mark.ledger_id, str) or not isinstance(mark.granularity, str | None):
        raise OwnershipError(
            f'{root.uri(marker)} cannot be read. It should hold {{"ledger": "<id>"}}: restore it from a backup, or '
            f"make it anew with {ledger_command('adopt', account)}. Nothing was written."
        )
    return mark


def write_mark(root: StorageRoot, account: str, mark: Mark) -> None:
    """Write whose an account's folder is, in one step. Raises `StorageError` when the root cannot be written."""
    marker = f"{account}/{MARKER}"
    content = {"ledger": mark.ledger_id}
    if mark.granularity is not None:
        content["granularity"] = mark.granularity
    with root.temporary(marker) as file:
        file.write_text(json.dumps(content))
        root.publish(file, marker)
