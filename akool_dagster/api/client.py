"""The HTTP client: one method an endpoint, one auth header a request, every wait inside a deadline."""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from requests.utils import get_environ_proxies, select_proxy

from akool_dagster.api.answers import HttpAnswer, classify_response, uncompressed
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
from akool_dagster.api.json_text import encode_json
from akool_dagster.api.models import ResultsAnswer, parse_results
from akool_dagster.api.retry import GiveUp, RetryPolicy
from akool_dagster.base.clock import Clock, Deadline, SystemClock
from akool_dagster.base.job_ids import JOB_ID_PATTERN, normalise_id
from akool_dagster.base.redaction import redact_text
from akool_dagster.http.bounds import Bounds
from akool_dagster.http.errors import RefusedAddressError, TooLargeError, TransportError
from akool_dagster.http.transport import HttpTransport, trusted_context

__all__ = ["AkoolClient", "ApiKey", "ClientCredentials", "Token", "credentials_from"]

_DEFAULT_CALL_SECONDS = 120.0
# Fifty rows are some 100 kB. JSON of many tiny objects takes thirty times its size in memory.
_LARGEST_ANSWER = 8 * 1024 * 1024
_LONGEST_QUOTE = 400
_MOST_CONNECTIONS = 16

_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "akool-dagster"}
_JSON = {"Content-Type": "application/json"}

_log = logging.getLogger(__name__)


class AkoolClient:
    """Akool's API for one account, on pooled connections; usable from several threads.

    Timeouts are seconds. A method without a ``deadline`` takes at most two minutes. Failed calls are repeated
    up to ``attempts`` times when repeating can help. ``calls`` counts the HTTP requests sent so far, repeats
    included. The constructor reads the environment once: a proxy (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``; not
    for an API on this machine) and the certificates to trust (``REQUESTS_CA_BUNDLE`` or ``CURL_CA_BUNDLE``, else
    the system's and certifi's). All methods raise leaves of AkoolError; the constructor raises
    AkoolConfigurationError.
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
        largest_answer: int = _LARGEST_ANSWER,
    ) -> None:
        self.base_url, is_local = checked_base_url(base_url)
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
        self._http = _transport(self.base_url, is_local)

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
        self._http.close()

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
            return _or_raise(self._ask(method, path, body, {"x-api-key": self._credentials.value}, deadline, job_id))
        token = self._bearer(deadline)
        outcome = self._ask(method, path, body, _bearer_header(token), deadline, job_id)
        if (
            isinstance(outcome, AkoolCredentialsError)
            and outcome.code is not None
            and fact_for(outcome.code).reaction is Reaction.REAUTHENTICATE
        ):
            token = self._bearer(deadline, refused=token)
            outcome = self._ask(method, path, body, _bearer_header(token), deadline, job_id)
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
            {},
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
        auth: Mapping[str, str],
        deadline: Deadline,
        job_id: str | None,
    ) -> Mapping[str, object] | AkoolError:
        """Send until there is an answer or a reason to stop, and return it."""
        attempt = 0
        while not deadline.expired():
            attempt += 1
            sent = self._send(method, path, body, auth, deadline)
            outcome = (
                sent
                if isinstance(sent, AkoolError)
                else classify_response(
                    sent,
                    now_ms=self._clock.now_ms(),
                    variables=self._variables,
                    redact=self._redact,
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
        auth: Mapping[str, str],
        deadline: Deadline,
    ) -> HttpAnswer | AkoolError:
        with self._lock:
            self.calls += 1
        bounds = Bounds(deadline=deadline, connect_timeout=self._connect_timeout, read_timeout=self._read_timeout)
        try:
            with self._http.request(
                method,
                self.base_url + path,
                bounds=bounds,
                headers={**_HEADERS, **({} if body is None else _JSON), **auth},
                body=None if body is None else encode_json(body).encode(),
            ) as response:
                packed = response.read(self._largest_answer)
        except RefusedAddressError as error:
            return AkoolConfigurationError(f"The call cannot be sent. {error} Check AKOOL_BASE_URL.")
        except TooLargeError:
            return self._too_large()
        except TransportError as error:
            detail = f" {self._redact(error.detail)}" if error.detail else ""
            return AkoolTransientError(
                f"Akool could not be reached. {error}{detail} "
                "Check the network, proxy and AKOOL_BASE_URL if this goes on."
            )
        unpacked = uncompressed(packed, response.headers.get("Content-Encoding"), self._largest_answer + 1)
        if len(unpacked) > self._largest_answer:
            return self._too_large()
        return HttpAnswer(response.status, unpacked, response.headers.get("Retry-After"))

    def _too_large(self) -> AkoolResponseError:
        return AkoolResponseError(
            f"The answer is larger than {self._largest_answer} bytes. Ask for fewer ids in a call."
        )

    @property
    def _variables(self) -> str:
        if isinstance(self._credentials, ApiKey):
            return "AKOOL_API_KEY (the client id is not the key)"
        return "AKOOL_CLIENT_ID and AKOOL_CLIENT_SECRET"

    def _redact(self, text: str) -> str:
        """Return foreign text as one short line in which no secret of ours and no query of a URL is left."""
        known = self._credentials
        secrets = [known.value] if isinstance(known, ApiKey) else [known.client_secret, known.client_id]
        if self._token is not None:
            secrets.append(self._token.value)
        for secret in secrets:
            text = text.replace(secret, "[hidden]")
        return " ".join(redact_text(text).split())[:_LONGEST_QUOTE]


def _bearer_header(token: Token) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token.value}"}


def _or_raise(outcome: Mapping[str, object] | AkoolError) -> Mapping[str, object]:
    if isinstance(outcome, AkoolError):
        raise outcome
    return outcome


def _transport(base_url: str, is_local: bool) -> HttpTransport:
    # A proxy would see the key of a plain http call.
    proxy = None if is_local else select_proxy(base_url, get_environ_proxies(base_url))
    try:
        context = trusted_context(os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"))
    except OSError as error:
        raise AkoolConfigurationError(
            f"The certificates of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE cannot be read ({error}). Correct the variable."
        ) from None
    try:
        return HttpTransport(ssl_context=context, proxy=proxy, connections=_MOST_CONNECTIONS)
    except ValueError as error:
        raise AkoolConfigurationError(f"The proxy cannot be used ({error}). Check HTTPS_PROXY and ALL_PROXY.") from None
