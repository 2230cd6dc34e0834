"""Everything is run with marked secrets, and then searched for them."""

import io
import logging
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from akool_dagster import AkoolResource, JobLedger, JobLedgerResource
from akool_dagster.api import AkoolClient, AkoolError, ApiKey, ClientCredentials, Token
from akool_dagster.cli import main
from akool_dagster.emulator import AkoolEmulator
from akool_dagster.errors import AkoolDagsterError
from akool_dagster.http.addresses import AddressPolicy
from akool_dagster.io_manager import ParquetIOManager
from akool_dagster.ledger.database import Database
from akool_dagster.resources import VideoStoreResource
from akool_dagster.storage import StorageRoot
from tests.api_server import Answer
from tests.api_server import serve as scripted_server
from tests.deployment import Deployment, emulated, object_id, quiet_instance
from tests.postgres_server import postgres_server
from tests.secrets import SECRETS_IN_ROWS, Haystack, leaky_fields, mark

KEY, WRONG_KEY = mark("apikey"), mark("wrongkey")
CLIENT_ID, CLIENT_SECRET, TOKEN = mark("clientid"), mark("clientsecret"), mark("token")
PASSWORD, STORAGE = mark("ledgerpassword"), mark("storagesecret")
ECHOED = mark("echoed")
NEVER = [KEY, WRONG_KEY, CLIENT_ID, CLIENT_SECRET, TOKEN, PASSWORD, STORAGE, ECHOED, *SECRETS_IN_ROWS]
SIGNATURE = mark("signature")
"""Of a video's URL, which is kept whole: it is needed to download the video."""
CANARY = mark("canary")
"""No secret: planted in every place, to show that it would be found there."""

YESTERDAY = int(time.time()) - 86_400
GOOD, FAILED, INNER, UNSAFE = (object_id(YESTERDAY, number) for number in range(4))
DAY = time.strftime("%Y-%m-%d", time.gmtime(YESTERDAY))


def echoing(secrets: str, *, passing: bool = True) -> Iterator[Answer]:
    """Yield answers of every kind that repeat our own secrets, and URLs with others'; without those that pass."""
    echo = f"{secrets} at https://u:{ECHOED}@x.example/?{ECHOED}"
    for code in (1003, 1101, 1102, 1109, 1200, 1104, 4711, *((1005, 1015, 2001) if passing else ())):
        yield Answer({"code": code, "msg": echo, "data": None})
    for status in (403, 404, *((200, 429, 502) if passing else ())):
        yield Answer(echo.encode(), status=status)
    yield Answer({"code": 1000, "msg": echo, "data": {"result": echo}})
    yield Answer(status=302, headers={"Location": f"https://x.example/?{ECHOED}"})


class Scenario:
    """Runs everything, good and bad, and gathers what it leaves behind."""

    def __init__(self, folder: Path, environment: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.environment = environment
        self.haystack = Haystack()
        self.tokens: list[str] = []
        self.serials = count(100)

    def attempt(self, act: Callable[[], object], *, with_locals: bool = False) -> None:
        """Do what must fail and keep its error."""
        try:
            act()
        except Exception as error:
            self.haystack.add_error("errors", error, with_locals=with_locals)
            return
        raise AssertionError("nothing was raised")

    def run(self) -> None:
        said = io.StringIO()
        with redirect_stdout(said), redirect_stderr(said), self.listening_to(""), self.listening_to("sqlalchemy"):
            self._run()
        self.haystack.add("output", said.getvalue())
        self.haystack.add_folder("event log and runs", self.folder / "dagster")
        self.haystack.add_folder("tables and videos", self.folder / "storage")
        self.haystack.add_folder("temporary files", self.folder / "tmp")
        for path in self.folder.glob("*.sqlite*"):
            self.haystack.add_file("ledger", path)

    @contextmanager
    def listening_to(self, name: str) -> Iterator[None]:
        """Keep what is logged there at any level."""
        logged = io.StringIO()
        handler = logging.StreamHandler(logged)
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        logger = logging.getLogger(name)
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = not name  # SQLAlchemy also logs the rows it reads, as they are
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]
        self.haystack.add(f"logs of {name}" if name else "logs", logged.getvalue())

    def _run(self) -> None:
        with (
            AkoolEmulator(api_key=KEY, client_id=CLIENT_ID, client_secret=CLIENT_SECRET) as emulator,
            quiet_instance(self.folder / "dagster") as instance,
        ):
            deployment = Deployment(self.folder, emulator, instance, options={"akool": self.akool(emulator.base_url)})
            self.jobs(deployment)
            self.land(deployment)
            self.token_flow(deployment)
            self.bad_ticks(deployment)
            self.bad_runs(deployment)
            self.objects(deployment)
            self.plant(instance)
        self.client_errors()
        self.ledger_in_postgresql()
        self.bad_settings()
        self.command_line()

    def akool(self, base_url: str, **credentials: str) -> AkoolResource:
        for name, value in (credentials or {"api_key": KEY}).items():
            self.environment.setenv(f"MARKED_{name.upper()}", value)
        given: dict[str, Any] = {name: dg.EnvVar(f"MARKED_{name.upper()}") for name in credentials or ("api_key",)}
        return AkoolResource(base_url=base_url, **given)

    def jobs(self, deployment: Deployment) -> None:
        """Jobs whose rows are full of secrets; the URLs of three videos are signed, one of them well."""
        signed: dict[str, dict[str, object]] = {job_id: leaky_fields(CANARY) for job_id in (GOOD, INNER, UNSAFE)}
        for job_id, fields in signed.items():
            deployment.emulator.add_job(emulated(job_id, video_duration=0.5, extra_fields=fields))
        deployment.emulator.add_job(emulated(FAILED, outcome="failed", extra_fields=leaky_fields(CANARY)))
        with AkoolClient(ApiKey(KEY), base_url=deployment.emulator.base_url) as client:
            url = client.results([GOOD]).rows[GOOD].video_url
        signed[GOOD]["video_url"] = f"{url}?Signature={SIGNATURE}"
        signed[INNER]["video_url"] = f"https://10.0.0.1/v.mp4?Signature={SIGNATURE}"
        signed[UNSAFE]["video_url"] = f"https://user:{SIGNATURE}@cdn.example/v.mp4?Signature={SIGNATURE}"
        deployment.track(GOOD, FAILED, INNER, UNSAFE, campaign=CANARY)

    def land(self, deployment: Deployment) -> None:
        deployment.tick()
        requests = deployment.tick().requests
        assert {request.job_name for request in requests} == {"akool_land_results", "akool_land_videos"}
        for request in requests:
            self.outcome(deployment.run(request), True)
        assert {path.stem for path in deployment.root.rglob("*.mp4")} == {GOOD}

    def token_flow(self, deployment: Deployment) -> None:
        """A token is fetched, refused as expired and renewed; then the pair itself is wrong."""
        pair = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
        late = object_id(YESTERDAY, 9)
        deployment.emulator.add_job(emulated(late, processing_polls=99, extra_fields=leaky_fields(CANARY)))
        deployment.track(late)
        akool = self.akool(deployment.emulator.base_url, **pair)
        deployment.rebuild(akool=akool)
        deployment.tick()
        with AkoolClient(ClientCredentials(**pair), base_url=deployment.emulator.base_url) as client:
            client.results([late])
            token = client._token
            deployment.emulator.expire_token()
            client.results([late])
            assert token is not None
            assert client._token is not None
            self.haystack.add_object("objects", client, token)
            self.tokens = [token.value, client._token.value]
        deployment.rebuild(akool=self.akool(deployment.emulator.base_url, **pair | {"client_secret": WRONG_KEY}))
        self.something_due(deployment)
        self.attempt(deployment.tick)

    def something_due(self, deployment: Deployment) -> None:
        deployment.track(object_id(YESTERDAY, next(self.serials)))

    def bad_ticks(self, deployment: Deployment) -> None:
        """A wrong key, and an account that is banned, refused, out of credits or behind a gateway."""
        deployment.rebuild(akool=self.akool(deployment.emulator.base_url, api_key=WRONG_KEY))
        self.something_due(deployment)
        self.attempt(deployment.tick)
        for server in scripted_server():
            deployment.rebuild(akool=self.akool(server.url))
            for answer in echoing(KEY, passing=False):
                server.script = [answer]
                self.something_due(deployment)
                try:
                    self.haystack.add("output", deployment.tick().message)
                except Exception as error:
                    self.haystack.add_error("errors", error)
        deployment.rebuild(akool=self.akool(deployment.emulator.base_url))

    def outcome(self, result: dg.ExecuteInProcessResult, success: bool) -> None:
        assert result.success is success
        self.haystack.add_object("events", *result.all_events)

    def bad_runs(self, deployment: Deployment) -> None:
        """A storage root that is a file, one with a password in its URL, and a ledger that is not there."""
        blocked = self.folder / "file"
        blocked.touch()
        secret_root = f"s3://key:{STORAGE}@bucket/akool"
        self.attempt(lambda: deployment.rebuild(storage_root=secret_root))
        self.environment.setenv("MARKED_STORAGE", secret_root)
        for root in (str(blocked), dg.EnvVar("MARKED_STORAGE")):
            deployment.rebuild(storage_root=root)
            for job in ("akool_land_results", "akool_land_videos"):
                self.outcome(deployment.land(job, DAY), False)
        self.environment.setenv("MARKED_LEDGER", f"postgresql://me:{PASSWORD}@127.0.0.1:1/akool?password={PASSWORD}")
        deployment.rebuild(storage_root=str(deployment.root), ledger=JobLedgerResource(url=dg.EnvVar("MARKED_LEDGER")))
        self.outcome(deployment.land("akool_land_results", DAY), False)
        self.attempt(deployment.tick)

    def client_errors(self) -> None:
        """Every call that can fail, with key and with pair; the variables of the frames are looked at too.

        But not where the answer is of no use though it says success: that is then in a variable, echo and all.
        """
        for credentials, known in (
            (ApiKey(KEY), KEY),
            (ClientCredentials(CLIENT_ID, CLIENT_SECRET), f"{CLIENT_ID} {CLIENT_SECRET} {TOKEN}"),
        ):
            for server in scripted_server():
                for answer in echoing(known):
                    refused = not isinstance(answer.body, dict) or answer.body["code"] != 1000
                    token = Answer({"code": 1000, "token": TOKEN})
                    server.respond = lambda seen, answer=answer, token=token: (
                        token if "getToken" in seen.path else answer
                    )
                    with AkoolClient(credentials, base_url=server.url, attempts=1) as client:
                        self.attempt(partial(client.results, [GOOD]), with_locals=refused)
                        self.attempt(client.credit, with_locals=refused)
                        self.haystack.add_object("objects", client, vars(client))
                        if isinstance(credentials, ClientCredentials):
                            server.respond = lambda seen, answer=answer: (
                                answer if "getToken" in seen.path else Answer({"code": 1101})
                            )
                            self.attempt(client.credit, with_locals=refused)

    def ledger_in_postgresql(self) -> None:
        """A server that asks for no password, so that any one passes."""
        with postgres_server() as address:
            url = sa.make_url(address).set(password=PASSWORD).render_as_string(hide_password=False)
            with JobLedger.create(url) as ledger:
                ledger.account("akool").track([])
                self.haystack.add_object("objects", ledger, ledger.shown_url, vars(ledger))
            missing = url.replace("/postgres?", "/nosuchdatabase?")
            assert missing != url
            self.attempt(lambda: JobLedger.open(missing))
            self.environment.setenv("AKOOL_LEDGER_URL", missing)
            self.command("jobs")
            self.command("ledger", "init")
            self.environment.setenv("AKOOL_LEDGER_URL", url)
            self.command("track", GOOD, fails=False)
            self.command("jobs", fails=False)

    def bad_settings(self) -> None:
        for act in (
            lambda: StorageRoot(f"s3://key:{STORAGE}@bucket/x"),
            lambda: StorageRoot(f"s3://key:1/{STORAGE}@bucket/x"),
            lambda: StorageRoot(f"simplecache::s3://bucket/x?sig={STORAGE}"),
            lambda: StorageRoot(f"nosuchdriver://key:{STORAGE}@bucket/x"),
            lambda: StorageRoot(f"file://user:{STORAGE}@host/x"),
            lambda: ParquetIOManager(storage_root=f"s3://key:{STORAGE}@bucket/x"),
            lambda: VideoStoreResource(storage_root=f"s3://key:{STORAGE}@bucket/x"),
            lambda: AkoolResource(api_key=KEY, base_url=f"https://user:{KEY}@api.example"),
            lambda: AkoolResource(api_key=KEY, base_url=f"https://api.example/?key={KEY}"),
            lambda: AkoolResource(api_key=f"{KEY}\n").client(),
            lambda: AkoolResource(client_id=CLIENT_ID).client(),
            lambda: AkoolResource(client_id=CLIENT_ID, client_secret=f"{CLIENT_SECRET} ").client(),
            lambda: JobLedgerResource(url=f"mysql://me:{PASSWORD}@host/db").open(),
            lambda: JobLedgerResource(url=f"postgresql://me:{PASSWORD}@host:{PASSWORD}/db").open(),
            lambda: JobLedgerResource(url=f"postgresql://me:{PASSWORD}@127.0.0.1:1/db").create(),
        ):
            self.attempt(act)
        resources: dict[type[Any], dict[str, Any]] = {
            AkoolResource: {"api_key": [KEY], "client_secret": {"a": CLIENT_SECRET}},
            JobLedgerResource: {"url": [PASSWORD]},
            ParquetIOManager: {"storage_root": [STORAGE]},
            VideoStoreResource: {"storage_root": [STORAGE]},
        }
        for resource, given in resources.items():
            with pytest.raises(ValueError, match="string") as caught:  # pydantic's: as a whole it does hold its input
                resource(**given)
            self.haystack.add("errors", "".join(traceback.format_exception(caught.value)))

    def objects(self, deployment: Deployment) -> None:
        literal = AkoolResource(api_key=KEY, client_id=CLIENT_ID, client_secret=CLIENT_SECRET)
        ledger = JobLedgerResource(url=f"postgresql://me:{PASSWORD}@db.example/akool?sslpassword={PASSWORD}")
        database = Database(f"postgresql://me:{PASSWORD}@db.example/akool?sslpassword={PASSWORD}")
        client = literal.client()
        things = [literal, ledger, database, database.shown, client, vars(client), vars(client._http)]
        things += [ApiKey(KEY), ClientCredentials(CLIENT_ID, CLIENT_SECRET), Token(TOKEN)]
        things += [ParquetIOManager(storage_root="/data"), VideoStoreResource(storage_root="/data")]
        things += [StorageRoot("/data"), AddressPolicy("https://api.example"), deployment.emulator]
        things += [deployment.emulator.journal.requests, deployment.emulator._account]
        defs = deployment.defs
        things += [defs, defs.resources, *(defs.sensors or ()), *(defs.jobs or ()), *(defs.assets or ())]
        with deployment.ledger() as open_ledger:
            things += [open_ledger, vars(open_ledger)]
        self.haystack.add_object("objects", *things)
        client.close()

    def command(self, *arguments: str, fails: bool = True) -> None:
        result = CliRunner().invoke(main, arguments)
        assert bool(result.exit_code) is fails, result.output
        self.haystack.add("command line", result.output)
        if result.exception is not None:
            self.haystack.add_error("errors", result.exception)

    def command_line(self) -> None:
        self.environment.setenv("AKOOL_LEDGER_URL", f"sqlite:///{self.folder}/ledger.sqlite")
        self.command("jobs", fails=False)
        self.command("jobs", "--account", "../akool")
        self.command("track", f"{CANARY}!")
        for url in (
            f"postgresql://me:{PASSWORD}@127.0.0.1:1/db?sslpassword={PASSWORD}",
            f"mysql://me:{PASSWORD}@host/db",
            f"me:{PASSWORD}@host/db",
            f"postgresql://me:{PASSWORD}/db",
            f"sqlite:///{self.folder}/no/ledger.sqlite?password={PASSWORD}",
        ):
            self.environment.setenv("AKOOL_LEDGER_URL", url)
            self.command("jobs")

    def plant(self, instance: dg.DagsterInstance) -> None:
        """Put the canary into every place that no result of Akool's reaches."""

        @dg.op(config_schema={"canary": str})
        def chatty(context: dg.OpExecutionContext) -> None:
            context.log.info(context.op_config["canary"])
            raise dg.Failure(CANARY)

        @dg.job
        def canaries() -> None:
            chatty()

        config = {"ops": {"chatty": {"config": {"canary": CANARY}}}}
        self.outcome(
            canaries.execute_in_process(instance=instance, run_config=config, tags={"c": CANARY}, raise_on_error=False),
            False,
        )
        print(CANARY)  # noqa: T201
        sys.stderr.write(CANARY)
        for name in ("urllib3.connectionpool", "sqlalchemy.engine", "akool_dagster.api.client"):
            logging.getLogger(name).debug(CANARY)
        (self.folder / "tmp" / "left.partial").write_text(CANARY)
        self.haystack.add_error("errors", AkoolDagsterError(CANARY))
        self.haystack.add_object("objects", AkoolError(CANARY))


@contextmanager
def own_temporary_folder(folder: Path) -> Iterator[None]:
    before = tempfile.tempdir
    folder.mkdir()
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as environment, own_temporary_folder(folder / "tmp"):
        scenario = Scenario(folder, environment)
        scenario.run()
    return scenario


def test_no_secret_is_anywhere(scenario: Scenario) -> None:
    assert scenario.haystack.find([*NEVER, *scenario.tokens]) == set()


def test_the_signature_of_a_videos_url_is_only_where_the_url_is_kept(scenario: Scenario) -> None:
    found = {place for _, place in scenario.haystack.find([SIGNATURE])}
    # SQLAlchemy's debug log has the rows that it reads, as they are, but for their length.
    assert found - {"logs of sqlalchemy"} == {"ledger", "tables and videos"}


def test_the_search_would_find_a_secret_in_every_place(scenario: Scenario) -> None:
    assert {place for _, place in scenario.haystack.find([CANARY])} == set(scenario.haystack.places)
