"""What landed can be read back: a ledger restored from its tables lands the same rows, whatever was in it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from akool_dagster.landing import Granularity
from akool_dagster.ledger.restoring import Outcome
from akool_dagster.operations.restore import RestoreReport, restore
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from akool_dagster import TABLES, JobLedger, TrackRequest
from akool_dagster.api.models import ResultRow
from akool_dagster.job_ids import normalise_id
from akool_dagster.ledger import Answered, Job, Missed
from akool_dagster.ledger.records import FINAL_STATES, VideoFailure
from akool_dagster.ledger.transitions import Limits
from akool_dagster.operations.adopt import adopt, plan_adoption
from akool_dagster.operations.prune import prune
from akool_dagster.polling import observation_of
from akool_dagster.storage import StorageRoot
from tests.clock import FakeClock
from tests.integration.ledger_words import DAY, HOUR, NOW, object_id
from tests.landed_tables import Rows, land, revisions_of, rows_of
from tests.thoroughness import thorough

pytest_plugins = ["tests.integration.ledger_databases"]

LIMITS = Limits(misses=1, miss_grace_ms=0, urlless_polls=0, give_up_ms=HOUR)

texts = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
moments = st.integers(NOW - 3 * DAY, NOW + DAY)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
sent_fields = st.fixed_dictionaries(
    {},
    optional={
        "create_time": moments,
        "update_time": moments,
        "video_duration": st.floats(0, 100) | st.just("odd"),
        "deduction_credit": st.floats(0, 1e9),
        "uid": st.integers(-(2**63), 2**63 - 1),
        "team_id": texts,
        "prompt": texts,
        "only_add_audio": st.booleans(),
        "webhookUrl": st.just("https://hooks.example/secret?x=1"),
        "model_name": texts,
        "audio_type": st.integers(0, 9),
        "error_reason": texts,
        "a_new_field": json_values,
    },
)
ids = st.one_of(
    st.builds(object_id, st.integers((NOW - 2 * DAY) // 1000, NOW // 1000).map(lambda s: s * 1000), st.integers(0, 99)),
    st.builds(object_id, st.just(NOW + 900 * DAY), st.integers(0, 9)),  # from the future
    st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
)
labels = st.dictionaries(st.sampled_from(["campaign", "centre", "ä"]), texts, max_size=2)


@dataclass(frozen=True, kw_only=True)
class Life:
    """What becomes of one job."""

    job_id: str
    labels: dict[str, str]
    seen: Sequence[int | None]
    """Statuses that polls see before the last."""
    end: str
    sent: dict[str, Any] = field(default_factory=dict)
    failed_downloads: int = 0
    video: str = "pending"
    new_url: bool = False


lives = st.builds(
    Life,
    job_id=ids,
    labels=labels,
    seen=st.lists(st.sampled_from([1, 2, 42, None]), max_size=2),
    end=st.sampled_from(
        ["pending", "completed", "completed", "completed", "urlless", "failed", "missing", "abandoned"]
    ),
    sent=sent_fields,
    failed_downloads=st.integers(0, 2),
    video=st.sampled_from(["pending", "stored", "lost"]),
    new_url=st.booleans(),
)
many_lives = st.lists(lives, min_size=1, max_size=6, unique_by=lambda life: life.job_id.lower())
table_sets = st.just(frozenset(TABLES)) | st.frozensets(st.sampled_from(sorted(TABLES)), min_size=1)


def answer(life: Life, status: int | None, clock: FakeClock, url: str | None = None) -> Answered:
    raw = {"_id": life.job_id, "status": status} | life.sent | ({} if url is None else {"video_url": url})
    return observation_of(ResultRow.model_validate(raw), clock.now_ms())


def live(
    ledger: JobLedger, account: str, clock: FakeClock, life: Life, *, from_start: bool = True, to_end: bool = True
) -> None:
    """Track the job and let it come to its end, a few seconds a step."""

    def see(*observations: Answered | Missed) -> None:
        clock.advance(7.321)
        ledger.record(account, observations, lambda age: 5000)

    if from_start:
        ledger.track(account, [TrackRequest(job_id=life.job_id, labels=life.labels)])
        for status in life.seen:
            see(answer(life, status, clock))
    if not to_end:
        return
    match life.end:
        case "completed":
            see(answer(life, 3, clock, f"https://cdn.example/{life.job_id}.mp4?Signature=kept"))
            live_on_as_a_video(ledger, account, clock, life)
        case "urlless":
            see(answer(life, 3, clock))
        case "failed":
            see(answer(life, 4, clock))
        case "missing":
            see(Missed(job_id=normalise_id(life.job_id)))
        case "abandoned":
            clock.advance(HOUR / 1000)
            see(answer(life, 1, clock))
            see(answer(life, 1, clock))


def live_on_as_a_video(ledger: JobLedger, account: str, clock: FakeClock, life: Life) -> None:
    for _ in range(life.failed_downloads):
        clock.advance(3)
        ledger.fail_video(account, VideoFailure(job_id=life.job_id, error="cut short", next_at=clock.now_ms()))
    if life.new_url:
        ledger.keep_video_url(account, normalise_id(life.job_id), "https://cdn.example/again.mp4", clock.now_ms())
    if life.video == "lost":
        ledger.fail_video(account, VideoFailure(job_id=life.job_id, error="gone", next_at=None))
    elif life.video == "stored":
        record = {"path": f"akool/videos/d/{life.job_id}.mp4", "bytes": 7, "sha256": "ab", "container": "mp4"}
        record |= {"video_codec": "h264", "audio_codec": None, "width": 16, "height": 9, "fps": 29.97, "frames": 3}
        ledger.store_video(account, life.job_id, record | {"probed_duration": 0.1, "downloaded_at": clock.now_ms()})


class Twins:
    """Two ledgers of one deployment, each with a clock of its own; every example is an account of its own."""

    def __init__(self, new_database: Callable[[], str], root: Path) -> None:
        self.root = root
        self.clocks = FakeClock(), FakeClock()
        self.ledgers = tuple(JobLedger.create(new_database(), clock=clock, limits=LIMITS) for clock in self.clocks)
        self.account = ""

    def begin(self) -> tuple[JobLedger, JobLedger]:
        self.account = "a" + uuid.uuid4().hex
        for clock in self.clocks:
            clock.jump((NOW - clock.now_ms()) / 1000)
        first, second = self.ledgers
        return first, second

    def live(self, which: int, life: Life, *, from_start: bool = True, to_end: bool = True) -> None:
        live(self.ledgers[which], self.account, self.clocks[which], life, from_start=from_start, to_end=to_end)

    def land(self, ledger: JobLedger, tables: Collection[str], granularity: Granularity) -> None:
        land(ledger, self.root, self.account, tables=tables, granularity=granularity)

    def restore(self, ledger: JobLedger) -> RestoreReport:
        return restore(ledger, StorageRoot(str(self.root)), self.account, clock=self.clocks[1])

    def adopt(self, ledger: JobLedger) -> None:
        root = StorageRoot(str(self.root))
        adopt(ledger, root, self.account, plan_adoption(ledger, root, self.account))

    def rows(self) -> Rows:
        return rows_of(self.root, self.account)

    def jobs(self, ledger: JobLedger) -> dict[str, Job]:
        return {job.job_id: job for job in ledger.iter_jobs(self.account)}


@pytest.fixture
def twins(new_database: Callable[[], str], tmp_path: Path) -> Iterator[Twins]:
    twins = Twins(new_database, tmp_path / "root")
    yield twins
    for ledger in twins.ledgers:
        ledger.close()


# The fixture's databases serve every example; shrinking, with files to write, would take minutes.
a_few = settings(
    max_examples=thorough(4, 100),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@a_few
@given(lives=many_lives, tables=table_sets, granularity=st.sampled_from(Granularity))
def test_a_ledger_restored_from_its_tables_lands_the_same_rows(
    twins: Twins, lives: list[Life], tables: frozenset[str], granularity: Granularity
) -> None:
    lost, made_anew = twins.begin()
    for life in lives:
        twins.live(0, life)
    twins.land(lost, tables, granularity)
    before, revisions = twins.rows(), revisions_of(twins.root, twins.account)
    report = twins.restore(made_anew)
    assert (report.problems, report.asked_again) == ([], 0)
    assert made_anew.inspection(twins.account).broken_rules() == []
    assert set(twins.jobs(made_anew)) == {row["_id"] for rows in before.values() for row in rows}
    # Once more: nothing is left to do.
    jobs, counter = twins.jobs(made_anew), made_anew.revision()
    assert set(twins.restore(made_anew).outcomes) <= {Outcome.UNCHANGED}
    assert (twins.jobs(made_anew), made_anew.revision()) == (jobs, counter)
    twins.adopt(made_anew)
    twins.land(made_anew, tables, granularity)
    assert twins.rows() == before
    after = revisions_of(twins.root, twins.account)
    landed_again = {name for name, revision in revisions.items() if after[name] != revision}
    assert all(after[name] > revisions[name] for name in landed_again)
    assert landed_again or not jobs


@a_few
@given(lives=many_lives, manifest=st.booleans(), granularity=st.sampled_from(Granularity))
def test_what_was_pruned_comes_back_as_it_was_whatever_happened_since_the_results_landed(
    twins: Twins, lives: list[Life], manifest: bool, granularity: Granularity
) -> None:
    ledger, _ = twins.begin()
    clock, root = twins.clocks[0], StorageRoot(str(twins.root))
    for life in lives:
        twins.live(0, replace(life, failed_downloads=0, new_url=False, video="pending"))
    twins.land(ledger, frozenset(TABLES), granularity)
    for life in lives:
        if life.end == "completed":
            live_on_as_a_video(ledger, twins.account, clock, life)
    if manifest:
        twins.land(ledger, {"videos"}, granularity)
    before = twins.jobs(ledger)
    clock.jump(60 * DAY / 1000)
    prune(ledger, root, twins.account, older_than_days=30, clock=clock)
    settled = {job_id for job_id, job in before.items() if job.state in FINAL_STATES and job.video_state != "pending"}
    gone = {job_id for job_id, job in twins.jobs(ledger).items() if job_id in settled and job.payload is None}
    assert gone == settled if manifest else gone <= settled
    assert restore(ledger, root, twins.account, clock=clock).problems == []
    after = twins.jobs(ledger)
    for job_id in gone:
        assert json.loads(after[job_id].payload or "") == json.loads(before[job_id].payload or "")
    assert {job_id: replace(job, payload=None) for job_id, job in after.items()} == {
        job_id: replace(job, payload=None) for job_id, job in before.items()
    }


@a_few
@given(
    lives=many_lives,
    tables=table_sets.filter(lambda tables: tables & {"results", "statuses"}),
    known=st.integers(0, 3),
    granularity=st.sampled_from(Granularity),
)
def test_an_older_ledger_is_brought_up_to_the_tables_and_no_row_disappears(
    twins: Twins, lives: list[Life], tables: frozenset[str], known: int, granularity: Granularity
) -> None:
    newest, older = twins.begin()
    for which in (0, 1):  # up to the backup both are the same
        for life in lives[:known]:
            twins.live(which, life, to_end=False)
    for index, life in enumerate(lives):
        twins.live(0, life, from_start=index >= known)
    twins.land(newest, tables, granularity)
    before = twins.rows()
    report = twins.restore(older)
    assert (report.problems, report.asked_again) == ([], 0)
    assert older.inspection(twins.account).broken_rules() == []
    twins.adopt(older)
    twins.land(older, tables, granularity)
    after = twins.rows()
    for name in tables - {"statuses"}:
        assert after[name] == before[name]
    if "statuses" in tables:
        ended = {row["_id"]: row for row in before["statuses"] if row["settled_at"]}
        assert {row["_id"]: row for row in after["statuses"] if row["_id"] in ended} == ended
        assert [row["_id"] for row in after["statuses"]] == [row["_id"] for row in before["statuses"]]


@a_few
@given(lives=many_lives, days_later=st.integers(0, 3), tables=table_sets, granularity=st.sampled_from(Granularity))
def test_jobs_that_were_tracked_again_before_restoring_end_on_the_day_they_landed_on_and_on_no_other(
    twins: Twins, lives: list[Life], days_later: int, tables: frozenset[str], granularity: Granularity
) -> None:
    lost, made_anew = twins.begin()
    for life in lives:
        twins.live(0, life)
    twins.land(lost, tables, granularity)
    before = twins.rows()
    twins.clocks[1].jump(days_later * DAY / 1000)
    for life in lives:
        twins.live(1, life, to_end=False)
    report = twins.restore(made_anew)
    assert (report.problems, report.asked_again) == ([], 0)
    assert made_anew.inspection(twins.account).broken_rules() == []
    assert set(twins.restore(made_anew).outcomes) <= {Outcome.UNCHANGED}
    twins.adopt(made_anew)
    twins.land(made_anew, tables, granularity)
    after = twins.rows()
    for name in tables:
        places = [[(row["_id"], row["partition_time"]) for row in rows[name]] for rows in (before, after)]
        assert places[1] == places[0] or not before[name]
    for name in tables & {"results", "credits"}:
        assert after[name] == before[name]
