"""The HTTP client: one method an endpoint, one auth header a request, every wait inside a deadline."""

from __future__ import annotations

import logging
import math
import random
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
import urllib3
from requests.utils import select_proxy

from akool_dagster.api.answers import HttpAnswer, judge, uncompressed
from akool_dagster.api.base_url import DEFAULT_BASE_URL, checked_base_url
from akool_dagster.api.codes import Reaction, fact_for
from akool_dagster.api.credentials import ApiKey, ClientCredentials, Token, credentials_from
from akool_dagster.api.errors import (
    AkoolConfigurationError,
    AkoolContentError,
    AkoolCredentialsError,
    AkoolDeadlineError,
    AkoolError,
    AkoolResponseError,
    AkoolThrottledError,
    AkoolTransientError,
)
from akool_dagster.api.models import ResultsAnswer, parse_results
from akool_dagster.api.redaction import redact_text
from akool_dagster.api.retry import GiveUp, RetryPolicy
from akool_dagster.api.transport import DeadlineAdapter, reads_within
from akool_dagster.background import in_background
from akool_dagster.clock import Clock, Deadline, SystemClock
from akool_dagster.job_ids import JOB_ID_PATTERN, normalise_id

__all__ = ["AkoolClient", "ApiKey", "ClientCredentials", "Token", "credentials_from"]

_DEFAULT_CALL_SECONDS = 120.0
# Fifty rows are some 100 kB. JSON of many tiny objects takes thirty times its size in memory.
_LARGEST_ANSWER = 8 * 1024 * 1024
_CHUNK = 64 * 1024
_LONGEST_QUOTE = 400
_AUTH_HEADERS = ("x-api-key", "Authorization")

_log = logging.getLogger(__name__)


class AkoolClient:
    """Akool's API for one account, on one pooled session; usable from several threads.

    Timeouts are seconds. A method without a ``deadline`` takes at most two minutes. Failed calls are repeated
    up to ``attempts`` times when repeating can help. ``calls`` counts the HTTP requests sent so far, repeats
    included. A ``session`` of the caller's stays the caller's: its adapters are used as they are and it is
    not closed. All methods raise leaves of AkoolError; the constructor raises AkoolConfigurationError.
    """

    def __init__(
        self,
        credentials: ApiKey | ClientCredentials,
        *,
        base_url: str = DEFAULT_BASE_URL,
        connect_timeout: float = 5.0,
        read_timeout: float = 20.0,
        attempts: int = 4,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        session: requests.Session | None = None,
        largest_answer: int = _LARGEST_ANSWER,
    ) -> None:
        self.base_url, self._is_local = checked_base_url(base_url)
        self.calls = 0
        self._credentials = credentials
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._largest_answer = largest_answer
        self._policy = RetryPolicy(attempts)
        self._clock = clock or SystemClock()
        self._random = rng or random.Random()  # noqa: S311  (jitter)
        self._lock = threading.Lock()
        self._token_lock = threading.Lock()
        self._token: Token | None = None
        self._looked_up = False
        self._session = session or _pooled_session()
        self._owns_session = session is None

    def __repr__(self) -> str:
        return f"AkoolClient({self._credentials!r}, base_url={self.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the pooled connections."""
        if self._owns_session:
            self._session.close()

    def results(self, ids: Sequence[str], *, deadline: Deadline | None = None) -> ResultsAnswer:
        """Return what Akool knows about the ids, in one call.

        Raises ValueError without ids or for one that can be none. AkoolContentError means that Akool objects
        to one of the ids and does not say to which; its ``job_id`` is set when there was only one.
        """
        if isinstance(ids, str):
            raise ValueError("ids must be a list of ids, not one text")
        wanted = list(dict.fromkeys(map(normalise_id, ids)))
        if not wanted:
            raise ValueError("no ids to ask for")
        for job_id in wanted:
            if not JOB_ID_PATTERN.fullmatch(job_id):
                raise ValueError(f"not an id of Akool's: {job_id[:80]!r}")
        payload = self._signed(
            "POST",
            "/api/open/v4/image2Video/resultsByIds",
            {"_ids": ",".join(wanted)},
            deadline or self._default_deadline(),
            job_id=wanted[0] if len(wanted) == 1 else None,
        )
        return parse_results(payload, wanted)

    def credit(self, *, deadline: Deadline | None = None) -> float:
        """Return the account's balance in credits."""
        payload = self._signed("GET", "/api/open/v3/faceswap/quota/info", None, deadline or self._default_deadline())
        data = payload.get("data")
        value = data.get("credit") if isinstance(data, Mapping) else None
        try:
            credit = math.nan if value is None or isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            credit = math.nan
        if not math.isfinite(credit):
            raise AkoolResponseError("Akool's answer has no number under data.credit. The API may have changed.")
        return credit

    def get_token(self, *, deadline: Deadline | None = None) -> Token:
        """Exchange client id and secret for a token, which later calls send."""
        deadline = deadline or self._default_deadline()
        return self._bearer(deadline, refused=self._token)

    def _default_deadline(self) -> Deadline:
        return Deadline(self._clock, _DEFAULT_CALL_SECONDS)

    def _signed(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        deadline: Deadline,
        job_id: str | None = None,
    ) -> Mapping[str, object]:
        if isinstance(self._credentials, ApiKey):
            sign = _only_header("x-api-key", self._credentials.value)
            return _or_raise(self._ask(method, path, body, sign, deadline, job_id))
        token = self._bearer(deadline)
        outcome = self._ask(
            method, path, body, _only_header("Authorization", f"Bearer {token.value}"), deadline, job_id
        )
        if (
            isinstance(outcome, AkoolCredentialsError)
            and outcome.code is not None
            and fact_for(outcome.code).reaction is Reaction.REAUTHENTICATE
        ):
            token = self._bearer(deadline, refused=token)
            sign = _only_header("Authorization", f"Bearer {token.value}")
            outcome = self._ask(method, path, body, sign, deadline, job_id)
        return _or_raise(outcome)

    def _bearer(self, deadline: Deadline, refused: Token | None = None) -> Token:
        """Return the token in use, after getting one when there is none or the one in use was refused."""
        # Several threads meet a refused token at once; the first renews it, the others use what it got.
        if not self._token_lock.acquire(timeout=min(deadline.remaining(), 3600.0)):
            raise AkoolDeadlineError("The time for this call ran out while another thread was getting a token.")
        try:
            if self._token is None or self._token == refused:
                self._token = self._new_token(deadline)
            return self._token
        finally:
            self._token_lock.release()

    def _new_token(self, deadline: Deadline) -> Token:
        pair = self._credentials
        if isinstance(pair, ApiKey):
            raise AkoolConfigurationError(
                "A token is made from client id and secret; an API key is sent as it is and needs none."
            )
        outcome = self._ask(
            "POST",
            "/api/open/v3/getToken",
            {"clientId": pair.client_id, "clientSecret": pair.client_secret},  # in no variable that a traceback shows
            _only_header(None, ""),
            deadline,
            None,
        )
        if isinstance(outcome, AkoolContentError):  # no id was in this call: it is the pair that Akool objects to
            outcome = AkoolCredentialsError(
                f"Akool answered {outcome.code} when asked for a token. Check {self._variables}.", code=outcome.code
            )
        token = _or_raise(outcome).get("token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AkoolResponseError("Akool's answer has no usable token. The API may have changed.")
        return Token(token)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        sign: _Sign,
        deadline: Deadline,
        job_id: str | None,
    ) -> Mapping[str, object] | AkoolError:
        """Send until there is an answer or a reason to stop, and return it."""
        attempt = 0
        while not deadline.expired():
            attempt += 1
            sent = self._send(method, path, body, sign, deadline)
            outcome = (
                sent
                if isinstance(sent, AkoolError)
                else judge(
                    sent,
                    now_ms=self._clock.now_ms(),
                    variables=self._variables,
                    conceal=self._conceal,
                )
            )
            if isinstance(outcome, AkoolError):
                outcome.job_id = job_id
            if not isinstance(outcome, AkoolTransientError | AkoolThrottledError):
                return outcome
            decision = self._policy.decide(
                attempt,
                retry_after=outcome.retry_after if isinstance(outcome, AkoolThrottledError) else None,
                remaining=deadline.remaining(),
                chance=self._random.random(),
            )
            if decision is GiveUp.DEADLINE and isinstance(outcome, AkoolTransientError):
                return AkoolDeadlineError(
                    f"The time for this call ran out. Attempt {attempt} ended with: {outcome.message}",
                    code=outcome.code,
                    job_id=job_id,
                )
            if isinstance(decision, GiveUp):
                return outcome
            _log.info("%s Attempt %d; the next in %.1f s.", outcome.message, attempt, decision)
            self._clock.sleep(decision)
        return AkoolDeadlineError("The time for this call ran out before an answer came.", job_id=job_id)

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        sign: _Sign,
        deadline: Deadline,
    ) -> HttpAnswer | AkoolError:
        with self._lock:
            self.calls += 1
        url = self.base_url + path
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "akool-dagster",
        }
        left = max(deadline.remaining(), 0.001)
        timeout = urllib3.Timeout(total=left, connect=self._connect_timeout, read=self._read_timeout)
        try:
            # `Session.send` would read the body of a redirect whole, without limits, even when told not to
            # follow it; the adapter does just one exchange. `auth` keeps requests from looking into .netrc.
            request = self._session.prepare_request(
                requests.Request(method, url, json=body, headers=headers, auth=sign)
            )
            # A CA of the session's own counts; that it does not verify at all does not.
            verify = self._session.verify or True
            settings: Any = self._session.merge_environment_settings(
                url, proxies={}, stream=True, verify=verify, cert=None
            )
            if self._is_local:  # a proxy would see the key of a plain http call
                settings["proxies"] = {}
            adapter = self._session.get_adapter(url)
            if isinstance(adapter, DeadlineAdapter):
                self._look_up(select_proxy(url, settings["proxies"]) or url, deadline)
            with (
                reads_within(deadline, self._read_timeout),
                adapter.send(request, timeout=timeout, **settings) as response,  # type: ignore[arg-type]
            ):
                return self._read(response, deadline)
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            return AkoolConfigurationError(
                f"The call cannot be sent ({self._conceal(str(error))}). Check AKOOL_BASE_URL and proxies."
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            return AkoolTransientError(
                f"Akool could not be reached ({type(error).__name__}: {self._conceal(str(error))}). "
                "Check the network, proxy and AKOOL_BASE_URL if this goes on."
            )

    def _look_up(self, url: str, deadline: Deadline) -> None:
        """Look a host's name up, once: urllib3 sets no limit to that, and the system's resolver takes its time."""
        if self._looked_up:
            return
        place = urlsplit(url)
        lookup = in_background(lambda: socket.getaddrinfo(place.hostname, place.port))
        if not wait([lookup], deadline.remaining()).done:
            raise TimeoutError(f"the name {place.hostname} was not resolved in time")
        with suppress(UnicodeError):  # what is no name is for urllib3 to say
            lookup.result()
        self._looked_up = True

    def _read(self, response: requests.Response, deadline: Deadline) -> HttpAnswer | AkoolError:
        raw = response.raw
        chunks: list[bytes] = []
        size = 0
        # `read1` returns after one read of the socket; `read` and `iter_content` would collect a whole chunk
        # first, and with a session of the caller's a server that drips single bytes could hold them for ever.
        while chunk := raw.read1(_CHUNK, decode_content=False):
            chunks.append(chunk)
            size += len(chunk)
            if size > self._largest_answer:
                return self._too_large()
            left = deadline.remaining()
            if left <= 0:
                return AkoolDeadlineError("The time for this call ran out in the middle of the answer.")
            if (sock := getattr(raw.connection, "sock", None)) is not None:
                sock.settimeout(min(self._read_timeout, max(left, 0.001)))
        # urllib3 before 2.6 unpacks whatever it has read without any limit, layer after layer.
        body = uncompressed(b"".join(chunks), response.headers.get("Content-Encoding"), self._largest_answer + 1)
        if len(body) > self._largest_answer:
            return self._too_large()
        return HttpAnswer(response.status_code, body, response.headers.get("Retry-After"))

    def _too_large(self) -> AkoolResponseError:
        return AkoolResponseError(
            f"The answer is larger than {self._largest_answer} bytes. Ask for fewer ids in a call."
        )

    @property
    def _variables(self) -> str:
        if isinstance(self._credentials, ApiKey):
            return "AKOOL_API_KEY (the client id is not the key)"
        return "AKOOL_CLIENT_ID and AKOOL_CLIENT_SECRET"

    def _conceal(self, text: str) -> str:
        """Return foreign text as one short line in which no secret of ours and no query of a URL is left."""
        known = self._credentials
        secrets = [known.value] if isinstance(known, ApiKey) else [known.client_secret, known.client_id]
        if self._token is not None:
            secrets.append(self._token.value)
        for secret in secrets:
            text = text.replace(secret, "[hidden]")
        return " ".join(redact_text(text).split())[:_LONGEST_QUOTE]


_Sign = Callable[[requests.PreparedRequest], requests.PreparedRequest]


def _only_header(name: str | None, value: str) -> _Sign:
    def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
        for header in _AUTH_HEADERS:
            request.headers.pop(header, None)
        if name is not None:
            request.headers[name] = value
        return request

    return sign


def _or_raise(outcome: Mapping[str, object] | AkoolError) -> Mapping[str, object]:
    if isinstance(outcome, AkoolError):
        raise outcome
    return outcome


def _pooled_session() -> requests.Session:
    session = requests.Session()
    adapter = DeadlineAdapter(pool_connections=4, pool_maxsize=16, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session
