"""Every block of code in the documentation runs as it stands, a page at a time."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from akool_dagster.emulator import AkoolEmulator
from akool_dagster.ledger import JobLedger, TrackRequest
from tests.deployment import QUIET, Deployment, emulated, object_id
from tests.integration.docs.snippets import DOCS, REPOSITORY, PageRun, blocks, pages, shell_environment
from tests.object_store import ObjectStore
from tests.postgres_server import postgres_server
from tools.reference_words import METADATA

pytest_plugins = ["tests.integration.object_stores"]

NOT_RUN = 4
"""How many blocks are marked as not run. One more needs a reason that a reader accepts."""
SECOND = int(time.time()) - 3 * 86_400
DAY = time.strftime("%Y-%m-%d", time.gmtime(SECOND))
POSTGRESQL = "postgresql://user:password@host:5432/database"
BUCKET = "s3://bucket"


@pytest.fixture(scope="module")
def running_emulator() -> Iterator[AkoolEmulator]:
    jobs = [emulated(object_id(SECOND + serial, serial), video_duration=1.0) for serial in range(3)]
    with AkoolEmulator(jobs=jobs) as emulator:
        yield emulator


@pytest.fixture(scope="module")
def landed(running_emulator: AkoolEmulator, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Land three jobs of one day once; give the folder, and every metadata key that the runs wrote."""
    folder = tmp_path_factory.mktemp("landed")
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        deployment = Deployment(
            folder,
            running_emulator,
            instance,
            options={"storage_root": str(folder / "akool")},
            ledger_url=f"sqlite:///{folder}/akool/ledger.sqlite",
        )
        deployment.track(*running_emulator.jobs)
        deployment.settle()
        observations = instance.fetch_observations(dg.AssetKey(["akool", "jobs"]), limit=1).records
        keys = {name for record in observations for name in (record.asset_observation or _no_event()).metadata}
        for table in ("results", "credits", "durations", "statuses", "videos"):
            keys |= deployment.metadata(table, DAY).keys()
    return folder, keys


def _no_event() -> dg.AssetObservation:
    raise AssertionError("the record has no observation")


@pytest.fixture
def page_run(
    landed: tuple[Path, set[str]], running_emulator: AkoolEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PageRun:
    """Give what runs a page, over a copy of what has landed."""
    data, home, work = tmp_path / "data", tmp_path / "home", tmp_path / "work"
    shutil.copytree(landed[0], data)
    home.mkdir()
    work.mkdir()
    (work / "data").symlink_to(data / "akool")
    monkeypatch.chdir(work)
    environment = shell_environment(home) | {
        "PWD": str(work),
        "AKOOL_API_KEY": "emulator-key",
        "AKOOL_BASE_URL": running_emulator.base_url,
        "AKOOL_LEDGER_URL": f"sqlite:///{data}/akool/ledger.sqlite",
        "AKOOL_STORAGE": f"{data}/akool",
        "STUDIO_API_KEY": "emulator-key",
        "MARKETING_API_KEY": "emulator-key",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return PageRun(work, environment, monkeypatch.setenv, {"/data": str(data)})


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize(
    "page", [page for page in pages() if page.stem not in ("postgresql", "object-storage")], ids=name_of
)
def test_the_blocks_of_a_page_run(page: Path, page_run: PageRun) -> None:
    page_run.run(page)


def test_the_page_about_postgresql_runs_against_a_server_and_moves_the_jobs_there(
    page_run: PageRun, running_emulator: AkoolEmulator
) -> None:
    with JobLedger.open(page_run.environment["AKOOL_LEDGER_URL"]) as ledger:
        ledger.account("akool").track([TrackRequest(job_id=object_id(SECOND, 99))])
    with postgres_server() as url:
        page_run.replaced = {**page_run.replaced, POSTGRESQL: url}
        page_run.run(DOCS / "how-to" / "postgresql.md")
        assert page_run.environment["AKOOL_LEDGER_URL"] == url
        with JobLedger.open(url) as ledger:
            counts = ledger.account("akool").counts()
    assert counts.states == {"completed": len(running_emulator.jobs), "pending": 1}
    assert counts.videos == {"stored": len(running_emulator.jobs)}


def test_the_page_about_object_storage_runs_against_a_store(
    page_run: PageRun, object_store: ObjectStore, landed: tuple[Path, set[str]], running_emulator: AkoolEmulator
) -> None:
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        root = f"s3://{object_store.bucket}/akool"
        deployment = Deployment(page_run.folder, running_emulator, instance, options={"storage_root": root})
        deployment.track(*running_emulator.jobs)
        deployment.settle()
    page_run.replaced = {BUCKET: f"s3://{object_store.bucket}"}
    page_run.run(DOCS / "how-to" / "object-storage.md")
    assert sorted(page_run.names["credits"]["_id"]) == sorted(running_emulator.jobs)


def test_an_asset_of_ones_own_reads_what_landed(page_run: PageRun) -> None:
    page_run.run(DOCS / "how-to" / "existing-deployment.md")
    defs = page_run.names["defs"]
    page_run.run(DOCS / "how-to" / "own-asset.md")
    own = [page_run.names[name] for name in ("credits_by_resolution", "credits_in_all", "sizes")]
    merged = dg.Definitions.merge(defs, dg.Definitions(assets=[*own, page_run.names["dear_jobs"]]))
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        job = merged.resolve_implicit_global_asset_job_def()
        done = job.execute_in_process(instance=instance, asset_selection=[one.key for one in own])
        assert done.success
        assert done.output_for_node("credits_by_resolution")["jobs"].sum() == 3
        assert done.output_for_node("sizes")["bytes"].min() > 0
        of_a_day = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("dear_jobs")], partition_key=DAY
        )
        assert len(of_a_day.output_for_node("dear_jobs")) == 0
    assert (Path(page_run.environment["AKOOL_STORAGE"]) / "credits_by_resolution.parquet").exists()


def test_an_asset_of_ones_own_runs_when_a_day_lands(page_run: PageRun) -> None:
    page_run.run(DOCS / "how-to" / "existing-deployment.md")
    defs = page_run.names["defs"]
    page_run.run(DOCS / "how-to" / "own-asset.md")
    merged = dg.Definitions.merge(defs, dg.Definitions(assets=[page_run.names["credits_in_all"]]))
    own = dg.AssetSelection.assets("credits_in_all")
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        before = dg.evaluate_automation_conditions(merged, instance, own)
        assert before.total_requested == 0
        instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["akool", "credits"]), partition=DAY))
        after = dg.evaluate_automation_conditions(merged, instance, own, cursor=before.cursor)
        assert after.get_num_requested(dg.AssetKey("credits_in_all")) == 1


def test_an_eager_asset_without_partitions_waits_for_days_that_never_land(page_run: PageRun) -> None:
    page_run.run(DOCS / "how-to" / "existing-deployment.md")

    @dg.asset(deps=[dg.AssetKey(["akool", "credits"])], automation_condition=dg.AutomationCondition.eager())
    def eager() -> None: ...

    merged = dg.Definitions.merge(page_run.names["defs"], dg.Definitions(assets=[eager]))
    own = dg.AssetSelection.assets("eager")
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        before = dg.evaluate_automation_conditions(merged, instance, own)
        instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["akool", "credits"]), partition=DAY))
        assert dg.evaluate_automation_conditions(merged, instance, own, cursor=before.cursor).total_requested == 0


def test_another_io_manager_keeps_the_tables_in_a_database(page_run: PageRun) -> None:
    page_run.run(DOCS / "how-to" / "io-managers.md")
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        job = page_run.names["defs"].resolve_job_def("akool_land_results")
        for _ in range(2):
            assert job.execute_in_process(instance=instance, partition_key=DAY).success
    with duckdb.connect(f"{page_run.replaced['/data']}/akool/warehouse.duckdb") as database:
        assert database.execute("SELECT count(*) FROM akool_credits").fetchall() == [(3,)]


def test_a_check_of_ones_own_runs_with_the_landing_of_the_videos(page_run: PageRun) -> None:
    page_run.run(DOCS / "real-key.md")
    page_run.environment["AKOOL_BASE_URL"] = "unset by the page"
    defs = page_run.names["defs"]
    page_run.run(DOCS / "how-to" / "alerts.md")
    merged = dg.Definitions.merge(defs, dg.Definitions(asset_checks=[page_run.names["no_video_is_lost"]]))
    with dg.DagsterInstance.ephemeral(settings=QUIET) as instance:
        job = merged.resolve_job_def("akool_land_videos")
        done = job.execute_in_process(instance=instance, partition_key=DAY)
        (evaluation,) = done.get_asset_check_evaluations()
        assert evaluation.passed


def test_every_metadata_key_that_a_run_writes_is_in_the_reference(landed: tuple[Path, set[str]]) -> None:
    unknown = {key for key in landed[1] if not any(fnmatchcase(key, known) for known in METADATA)}
    assert unknown == set()
    assert {"akool/rows", "akool/downloaded", "akool/overdue"} <= landed[1]


def test_what_is_not_run_is_marked_with_its_reason_and_counted() -> None:
    marked = [(name_of(page), block.not_run) for page in pages() for block in blocks(page) if block.not_run]
    assert len(marked) == NOT_RUN, marked


def test_every_fence_is_read_as_a_block() -> None:
    for page in pages():
        fences = page.read_text().count("```")
        assert fences == 2 * len(blocks(page)), name_of(page)
