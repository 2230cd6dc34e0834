"""What a storage root has of one account: the table files of each partition, and whose the root is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from akool_dagster.ledger import AccountLedger
from akool_dagster.operations.partitions import GRIDS, Window
from akool_dagster.storage import StorageRoot
from akool_dagster.storage.marker import Mark, OwnershipError, ledger_command, read_mark
from akool_dagster.tables.files import TableFile, table_files


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFiles:
    """The table files of one account, and whether the root is the ledger's."""

    files: Sequence[TableFile]
    mark: Mark | None
    """What ``ledger.json`` says; None when the file is missing or cannot be understood."""
    reason: str | None
    """Why the root is not this ledger's; None when the marker names this ledger."""
    foreign: str | None
    """A sentence without its stop for a root that is not this ledger's; None also where root and ledger are new."""
    account: str

    def by_window(self) -> dict[Window, list[TableFile]]:
        """Return the files of each partition, the partitions by time."""
        found: dict[Window, list[TableFile]] = {}
        for file in sorted(self.files, key=lambda file: (file.start, file.end)):
            found.setdefault((file.start, file.end), []).append(file)
        return found

    def granularities(self) -> list[str]:
        """Return the granularities that the names of the files show, each once, in order."""
        return sorted({GRIDS[file.end - file.start].granularity.value for file in self.files})

    def require_own(self, outcome: str) -> None:
        """Raise `OwnershipError` when the root is not this ledger's; ``outcome`` ends the message."""
        if self.foreign is not None:
            raise OwnershipError(
                f"{self.foreign}. Check AKOOL_STORAGE, or run {ledger_command('adopt', self.account)} first. {outcome}"
            )


def account_files(account: AccountLedger, root: StorageRoot) -> AccountFiles:
    """Look at the account's folder. Raises `StorageError` when the root cannot be reached."""
    files = table_files(root, account.name)
    mark, is_new = None, False
    reason: str | None = "it has no ledger.json"
    try:
        mark = read_mark(root, account.name)
        is_new = mark is None and not files and not account.landings.root_is_marked()
    except OwnershipError as error:
        reason = str(error)
    if mark is not None:
        is_own = mark.ledger_id == account.ledger_id
        reason = None if is_own else f"its ledger.json names ledger {mark.ledger_id}"
    is_foreign = reason is not None and not is_new
    return AccountFiles(
        files=files,
        mark=mark,
        reason=reason,
        foreign=f"{root.uri(account.name)} is not the storage root of ledger {account.ledger_id}: {reason}"
        if is_foreign
        else None,
        account=account.name,
    )
