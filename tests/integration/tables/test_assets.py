from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from akool_dagster.assets import build_tables_asset
from akool_dagster.base.clock import SystemClock
from akool_dagster.base.names import AccountNames
from akool_dagster.base.partitions import Granularity
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.ledger import AccountLedger, JobLedger, LandingKind
from akool_dagster.resources import JobLedgerResource
from akool_dagster.storage import StorageRoot
from akool_dagster.tables import RESULT_TABLES, TABLES
from akool_dagster.tables.files import land
from tests.clock import FakeClock
from tests.integration.tables.helpers import ACCOUNT, DAY, create_ledger, job_id, settle, table_of
from tests.landed_tables import grid_of, rows_of

NAMES = AccountNames(prefix=ACCOUNT)


class Warehouse(dg.IOManager):
    """Keeps each table in memory, and fails at one if told to."""

    def __init__(self, fails_at: str | None = None) -> None:
        self.tables: dict[str, pd.DataFrame] = {}
        self._fails_at = fails_at

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        name = context.asset_key.path[-1]
        if name == self._fails_at:
            raise OSError("the warehouse is closed")
        self.tables[name] = obj

    def load_input(self, context: dg.InputContext) -> object:
        raise NotImplementedError


@dataclass(frozen=True)
class Home:
    """A ledger with a completed and a failed job, and where its tables go."""

    folder: Path
    clock: FakeClock
    ledger: AccountLedger
    instance: dg.DagsterInstance

    @property
    def root(self) -> Path:
        return self.folder / "storage"

    def land(self, io_manager: Any = None, granularity: Granularity = Granularity.DAILY, **options: Any) -> Any:
        hourly = granularity == Granularity.HOURLY
        asset = build_tables_asset(NAMES, grid_of(granularity), list(RESULT_TABLES), SystemClock())
        definitions = dg.Definitions(
            assets=[asset],
            jobs=[dg.define_asset_job("land", dg.AssetSelection.all(), executor_def=dg.in_process_executor)],
            resources={
                NAMES.ledger: JobLedgerResource(url=f"sqlite:///{self.folder}/ledger.sqlite"),
                NAMES.tables: io_manager or ParquetIOManager(storage_root=str(self.root)),
            },
        )
        return definitions.resolve_job_def("land").execute_in_process(
            instance=self.instance,
            partition_key=f"{DAY}-01:00" if hourly else DAY,
            raise_on_error=False,
            **options,
        )

    @property
    def landed(self) -> dict[str, int]:
        """The version that each table has landed."""
        return {name: version for (_, name), version in self.ledger.landings.landed(0).items()}

    def is_held(self) -> bool:
        facts = self.ledger.leases.facts(LandingKind.TABLES)
        return DAY in facts and facts[DAY].expires_at > 0


@pytest.fixture
def home(tmp_path: Path, clock: FakeClock, instance: dg.DagsterInstance) -> Iterator[Home]:
    with create_ledger(tmp_path, clock) as ledger:
        home = Home(tmp_path, clock, ledger.account(ACCOUNT), instance)
        settle(home.ledger, clock, job_id(1))
        settle(home.ledger, clock, job_id(2), status=4)
        yield home


def failure_of(result: Any) -> str:
    """Return why a run failed, in the words that the UI shows."""
    assert not result.success
    texts = []
    for event in result.all_events:
        data = event.event_specific_data
        failure, error = getattr(data, "user_failure_data", None), getattr(data, "error", None)
        texts += [getattr(failure, "description", None) or "", getattr(error, "message", None) or ""]
    return " ".join(texts)


def metadata_of(result: Any, name: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(f"{ACCOUNT}_results_tables")[list(RESULT_TABLES).index(name) :][
        :1
    ]
    return {key: value.value for key, value in event.metadata.items()}


def test_a_landing_writes_the_tables_and_records_the_version_that_each_has_landed(home: Home) -> None:
    assert home.land().success
    for name in RESULT_TABLES:
        assert [row["_id"] for row in rows_of(home.root)[name]] == [job_id(1), job_id(2)]
    assert home.ledger.landings.dirty(86_400_000, list(RESULT_TABLES), videos=False) == []
    assert set(home.landed) == set(RESULT_TABLES)
    assert not home.is_held()


def test_only_the_tables_that_were_selected_count_as_landed(home: Home) -> None:
    assert home.land(asset_selection=[dg.AssetKey([ACCOUNT, "credits"])]).success
    assert set(home.landed) == {"credits"}
    assert [entry.name for entry in (home.root / ACCOUNT).iterdir() if entry.is_dir()] == ["credits"]


def test_a_landing_tells_of_itself_in_numbers_first_and_names_nothing_internal(home: Home) -> None:
    metadata = metadata_of(home.land(), "results")
    assert {name: metadata[name] for name in list(metadata)[:4]} == {
        "akool/rows": 2,
        "akool/completed": 1,
        "akool/failed": 1,
        "akool/credits": 40.0,
    }
    assert metadata["dagster/partition_row_count"] == 2
    assert metadata["dagster/uri"] == str(home.root / ACCOUNT / "results" / f"{DAY}.parquet")
    assert metadata["akool/carried_over"] == 0
    assert "akool/hint" not in metadata


def test_rows_that_nobody_polls_because_only_the_file_has_them_are_named_with_the_command(home: Home) -> None:
    spec = TABLES["statuses"]
    rows = table_of(spec, [{"_id": job_id(8), "state": "pending"}, {"_id": job_id(9), "state": "failed"}]).to_batches()
    root = StorageRoot(str(home.root))
    land(root, f"{ACCOUNT}/statuses/{DAY}.parquet", spec, rows, frozenset, home.clock)
    metadata = metadata_of(home.land(), "statuses")
    assert (metadata["akool/rows"], metadata["akool/carried_over"]) == (4, 2)
    assert metadata["akool/carried_over_not_ended"] == 1
    assert "`akool-dagster ledger adopt`" in metadata["akool/hint"]


def test_a_run_tells_the_ledger_how_long_it_took_to_start(home: Home) -> None:
    run_id, now = str(uuid.uuid4()), SystemClock().now_ms()
    event = dg.DagsterEvent(dg.DagsterEventType.RUN_STARTING.value, job_name="land")
    home.instance.report_dagster_event(event, run_id, timestamp=now / 1000 - 30)
    assert home.land(run_id=run_id).success
    day = FakeClock(now)
    with JobLedger.open(f"sqlite:///{home.folder}/ledger.sqlite", clock=day) as ledger:
        assert 30_000 <= ledger.account(ACCOUNT).landings.slowest_start_ms() < 90_000


@pytest.mark.parametrize("fails_at", ["results", "statuses"])
def test_a_run_that_fails_in_the_io_manager_gives_the_lease_back_and_records_what_it_stored(
    home: Home, fails_at: str
) -> None:
    assert fails_at in failure_of(home.land(Warehouse(fails_at)))
    assert set(home.landed) == set(list(RESULT_TABLES)[: list(RESULT_TABLES).index(fails_at)])
    assert not home.is_held()
    assert not [thread for thread in threading.enumerate() if thread.name == "akool-lease"]
    assert home.land().success


def test_another_io_manager_gets_frames_with_arrow_types_and_no_root_is_marked(home: Home) -> None:
    warehouse = Warehouse()
    result = home.land(warehouse)
    assert result.success
    frame = warehouse.tables["results"]
    assert list(frame.columns) == RESULT_TABLES["results"].schema.names
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes)
    assert metadata_of(result, "results")["akool/credits"] == 40.0
    assert set(home.landed) == set(RESULT_TABLES)
    assert not home.ledger.landings.root_is_marked()


# The marker


def mark(home: Home, content: str) -> Path:
    file = home.root / ACCOUNT / "ledger.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return file


def test_the_first_landing_marks_the_root_and_a_root_without_the_mark_is_refused_afterwards(home: Home) -> None:
    assert home.land().success
    file = home.root / ACCOUNT / "ledger.json"
    assert home.ledger.ledger_id in file.read_text()
    file.unlink()
    message = failure_of(home.land())
    assert "mount the storage" in message
    assert "`akool-dagster ledger adopt`" in message
    assert not file.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"ledger": "another", "granularity": "daily"}',
            ["belongs to ledger another", "`akool-dagster ledger adopt`"],
        ),
        ("[]", ["cannot be read", "`akool-dagster ledger adopt`"]),
        ('{"ledger": 7}', ["cannot be read"]),
    ],
)
def test_a_root_that_is_not_this_ledgers_is_refused_in_one_sentence(home: Home, content: str, words: list[str]) -> None:
    file = mark(home, content)
    message = failure_of(home.land())
    assert all(word in message for word in [*words, str(file.parent)])
    assert [entry.name for entry in file.parent.iterdir()] == ["ledger.json"]
    assert home.landed == {}


def test_tables_of_another_granularity_are_refused_naming_both(home: Home) -> None:
    assert home.land().success
    message = failure_of(home.land(granularity=Granularity.HOURLY))
    assert "daily" in message
    assert "hourly" in message
