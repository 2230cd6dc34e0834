"""``ledger.json``, the marker that says which ledger a folder of the storage root belongs to.

One ledger = one Dagster deployment = one storage root.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from akool_dagster.base.accounts import shown_command
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.storage.errors import UnsupportedStorageError, unconditional
from akool_dagster.storage.root import StorageRoot

MARKER = "ledger.json"


class OwnershipError(AkoolDagsterError):
    """This ledger must not write here: the files belong to another ledger, or are not where they were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Whose a folder of the storage root is: the content of its ``ledger.json``."""

    ledger_id: str
    granularity: str | None = None
    """How long the partitions of its tables are, where it has been written down."""


def ledger_command(name: str, account: str) -> str:
    """Return a command that looks after the ledger, to be named in a message."""
    return shown_command(f"ledger {name}", account)


def read_mark(root: StorageRoot, account: str) -> Mark | None:
    """Return whose an account's folder is; None where that is not written.

    Raises `OwnershipError` for a mark that cannot be understood, `StorageError` when the root cannot be read.
    """
    marker = f"{account}/{MARKER}"
    content = root.read_bytes(marker)
    if content is None:
        return None
    try:
        written = json.loads(content)
        mark = Mark(ledger_id=written["ledger"], granularity=written.get("granularity"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        mark = None
    if mark is None or not (isinstance(mark.ledger_id, str) and isinstance(mark.granularity, str | None)):
        raise OwnershipError(
            f'{root.uri(marker)} cannot be read. It should hold {{"ledger": "<id>"}}: restore it from a backup, or '
            f"make it anew with {ledger_command('adopt', account)}. Nothing was written."
        )
    return mark


def write_mark(root: StorageRoot, account: str, mark: Mark) -> None:
    """Write whose an account's folder is, in one step, whatever was written there before.

    Raises `StorageError` when the root cannot be written, `UnsupportedStorageError` for a store without conditional
    writes.
    """
    marker = f"{account}/{MARKER}"
    with root.temporary(marker) as file:
        file.write_bytes(_content(mark))
        root.publish(file, marker)
    _refuse_unconditional(root, account, mark)


def ensure_owner(root: StorageRoot, account: str, ledger_id: str, granularity: str, *, first: bool) -> None:
    """Mark an account's folder as this ledger's, or raise `OwnershipError` when it is another's.

    A missing mark is made only at the ledger's ``first`` landing: later it means that the storage is not mounted, or
    gone, and what is written now would vanish. Raises `StorageError` when the root cannot be read or written,
    `UnsupportedStorageError` for a store without conditional writes, where ``first``.
    """
    mark = read_mark(root, account)
    adopt = ledger_command("adopt", account)
    marker = f"{account}/{MARKER}"
    if mark is None and first:
        root.create(marker, _content(Mark(ledger_id=ledger_id, granularity=granularity)))  # or another run was faster
        mark = read_mark(root, account)
    if mark is None:
        raise OwnershipError(
            f"{root.uri(marker)} is missing, though this ledger has landed here before: mount the storage, or correct "
            f"AKOOL_STORAGE, or, if this is the right place, run {adopt}. Nothing was written."
        )
    if mark.ledger_id != ledger_id:
        raise OwnershipError(
            f"{root.uri(account)} belongs to ledger {mark.ledger_id}, and this is ledger {ledger_id}: correct "
            f"AKOOL_LEDGER_URL or AKOOL_STORAGE, or, if this ledger replaces the other, run {adopt}. Nothing was "
            "written."
        )
    if mark.granularity not in (None, granularity):
        raise OwnershipError(
            f"The tables in {root.uri(account)} have {mark.granularity} partitions, but the definitions say "
            f"{granularity}. Set granularity={mark.granularity!r} again, or give the {granularity} partitions a prefix "
            "of their own. Nothing was written."
        )
    if first:
        _refuse_unconditional(root, account, mark)


def _refuse_unconditional(root: StorageRoot, account: str, mark: Mark) -> None:
    """Raise `UnsupportedStorageError`, and take the mark back, where a store accepts the second of two creations."""
    marker = f"{account}/{MARKER}"
    try:
        if root.is_local or not root.create(marker, _content(mark)):
            return
    except UnsupportedStorageError:
        root.remove(marker)
        raise
    root.remove(marker)
    raise unconditional(root.uri())


def _content(mark: Mark) -> bytes:
    content = {"ledger": mark.ledger_id} | ({} if mark.granularity is None else {"granularity": mark.granularity})
    return json.dumps(content).encode()
