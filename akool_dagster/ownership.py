"""``ledger.json``: which ledger a folder of the storage root belongs to, and how long its partitions are.

One ledger = one Dagster deployment = one storage root.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from akool_dagster.errors import AkoolDagsterError
from akool_dagster.storage import StorageRoot

MARKER = "ledger.json"


class OwnershipError(AkoolDagsterError):
    """This ledger must not write here: the files belong to another ledger, or are not where they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose a folder of the storage root is: the content of its ``ledger.json``."""

    ledger: str
    """The ledger's id."""
    granularity: str
    """How long the partitions of its tables are."""


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
        texts = {name: written[name] for name in Mark.__dataclass_fields__}
        if all(isinstance(text, str) for text in texts.values()):
            return Mark(**texts)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise OwnershipError(
        f"{root.uri(marker)} cannot be read. Restore it from a backup, or make it anew with "
        f"{ledger_command('adopt', account)}. Nothing was written."
    )


def write_mark(root: StorageRoot, account: str, mark: Mark) -> None:
    """Write whose an account's folder is, in one step, whatever was written there before.

    Raises `StorageError` when the root cannot be written.
    """
    marker = f"{account}/{MARKER}"
    with root.temporary(marker) as file:
        file.write_bytes(_content(mark))
        root.publish(file, marker)


def ensure_owner(root: StorageRoot, account: str, ledger_id: str, granularity: str, *, first: bool) -> None:
    """Mark an account's folder as this ledger's, or raise `OwnershipError` when it is another's.

    A missing mark is made only at the ledger's ``first`` landing: later it means that the storage is not mounted, or
    gone, and what is written now would vanish. Raises `StorageError` when the root cannot be read or written.
    """
    mark = read_mark(root, account)
    if mark is None and first:
        root.create(f"{account}/{MARKER}", _content(Mark(ledger=ledger_id, granularity=granularity)))
        mark = read_mark(root, account)  # of whichever run was faster
    adopt = ledger_command("adopt", account)
    if mark is None:
        raise OwnershipError(
            f"{root.uri(f'{account}/{MARKER}')} is missing, though this ledger has landed here before: mount the "
            f"storage, or correct AKOOL_STORAGE, or, if this is the right place, run {adopt}. Nothing was written."
        )
    if mark.ledger != ledger_id:
        raise OwnershipError(
            f"{root.uri(account)} belongs to ledger {mark.ledger}, and this is ledger {ledger_id}: correct "
            f"AKOOL_LEDGER_URL or AKOOL_STORAGE, or, if this ledger replaces the other, run {adopt}. Nothing was "
            "written."
        )
    if mark.granularity != granularity:
        raise OwnershipError(
            f"The tables in {root.uri(account)} have {mark.granularity} partitions, but the definitions say "
            f"{granularity}. Set granularity={mark.granularity!r} again, or give the {granularity} partitions a prefix "
            "of their own. Nothing was written."
        )


def _content(mark: Mark) -> bytes:
    return json.dumps(asdict(mark)).encode()
