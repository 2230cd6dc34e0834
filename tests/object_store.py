"""An S3 server on loopback (moto) behind a proxy that counts requests, holds them and breaks them.

What moto does not check is checked here as S3 does: the access key, and that a body has the checksum that was signed.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import sys
import threading
import urllib.parse
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

ACCESS_KEY = "loopback-access-key"
SECRET_KEY = "loopback-secret-key"
SIGNED = {"Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20260101/us-east-1/s3/aws4_request"}
PATIENCE_SECONDS = 30.0
"""After which a held request goes on: the test failed."""


class Exchange:
    """One request on its way to the store."""

    def __init__(self, handler: _Handler) -> None:
        self._handler = handler
        self.method = handler.command
        self.headers = handler.headers
        self.path = urllib.parse.unquote(handler.path.partition("?")[0])
        self.query = urllib.parse.parse_qs(handler.path.partition("?")[2], keep_blank_values=True)
        self.operation = _operation(self.method, self.path, self.query)
        self.length = int(self.headers.get("Content-Length") or 0)
        self.body = b""

    def receive(self, size: int | None = None) -> None:
        """Read so many bytes of the body, or the rest of it."""
        wanted = self.length - len(self.body) if size is None else size
        self.body += self._handler.rfile.read(wanted)

    def forward(self) -> tuple[int, dict[str, str], bytes]:
        """Pass the request on; return the store's answer."""
        self.receive()
        if len(self.body) < self.length:
            raise ConnectionError("The client went away.")
        problem = self._problem()
        if problem is not None:
            return problem
        with _Connection(self._handler.server.owner.backend) as connection:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            connection.request(self.method, self._handler.path, self.body, headers)
            response = connection.getresponse()
            return response.status, _kept(response), response.read()

    def send(self, status: int, headers: dict[str, str], body: bytes, *, sent: int | None = None) -> None:
        """Answer the client; ``sent`` bytes of the body only, and then the connection ends."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        if self.method != "HEAD":
            self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        if self.method != "HEAD":
            self._handler.wfile.write(body[:sent])
        self._handler.close_connection |= sent is not None

    def reset(self) -> None:
        """Break the connection as a crashed peer does."""
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self._handler.close_connection = True

    def _problem(self) -> tuple[int, dict[str, str], bytes] | None:
        if f"Credential={ACCESS_KEY}/" not in self.headers.get("Authorization", ""):
            message = "The AWS Access Key Id you provided does not exist in our records."
            return error_answer(403, "InvalidAccessKeyId", message)
        if self.headers.get("x-amz-content-sha256") != hashlib.sha256(self.body).hexdigest():
            message = "The provided 'x-amz-content-sha256' header does not match what was computed."
            return error_answer(400, "XAmzContentSHA256Mismatch", message)
        return None


Fault = Callable[[Exchange], None]


def error_answer(status: int, code: str, message: str) -> tuple[int, dict[str, str], bytes]:
    """Return an error as S3 writes it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return status, {"Content-Type": "application/xml"}, body.encode()


def answer(status: int, code: str, message: str = "Please try again.") -> Fault:
    """Return the fault that answers with an error, the request unread by the store."""

    def fault(exchange: Exchange) -> None:
        exchange.receive()
        exchange.send(*error_answer(status, code, message))

    return fault


def reset_halfway(exchange: Exchange) -> None:
    """Break the connection in the middle of the body."""
    exchange.receive(exchange.length // 2)
    exchange.reset()


def lose_the_answer(exchange: Exchange) -> None:
    """Let the store do what it is told, and break the connection instead of saying so."""
    exchange.forward()
    exchange.reset()


def cut_the_answer(exchange: Exchange) -> None:
    """Send half of the body that was announced."""
    status, headers, body = exchange.forward()
    exchange.send(status, headers, body, sent=len(body) // 2)


def flip_a_byte(exchange: Exchange) -> None:
    """Damage the body on its way, which keeps its length."""
    exchange.receive()
    exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]
    exchange.send(*exchange.forward())


def tell_another_size(exchange: Exchange) -> None:
    """Answer a HEAD as if a byte of the object were missing."""
    status, headers, body = exchange.forward()
    exchange.send(status, headers | {"Content-Length": str(int(headers["Content-Length"]) - 1)}, body)


def refuse_conditions(exchange: Exchange) -> None:
    """Answer a conditional write as a store does that has none."""
    if "If-Match" in exchange.headers or "If-None-Match" in exchange.headers:
        answer(501, "NotImplemented", "A header implies functionality that is not implemented.")(exchange)
    else:
        exchange.send(*exchange.forward())


def ignore_conditions(exchange: Exchange) -> None:
    """Take a conditional write as a store does that knows no conditions."""
    del exchange.headers["If-Match"], exchange.headers["If-None-Match"]
    exchange.send(*exchange.forward())


class Hold:
    """The fault that stops a request in the middle of its body until it is told to go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.receive(exchange.length // 2)
        self.reached.set()
        if self.go_on.wait(PATIENCE_SECONDS):
            exchange.send(*exchange.forward())


@dataclass
class _Rule:
    operation: str
    fault: Fault
    when: Callable[[Exchange], bool]
    left: int


class ObjectStore:
    """One bucket and the proxy in front of it. ``break_`` says what goes wrong with which requests."""

    def __init__(self, backend: tuple[str, int]) -> None:
        self.backend = backend
        self.bucket = f"bucket-{uuid.uuid4().hex}"
        self.seen: list[Exchange] = []
        self.errors: list[BaseException | None] = []
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> ObjectStore:
        self._ask("PUT", f"/{self.bucket}")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        assert not self.errors, [repr(error) for error in self.errors]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """A storage root in the bucket."""
        return f"s3://{self.bucket}/folder"

    def environment(self) -> dict[str, str]:
        """Return all that a client has to know."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
            "AWS_CONFIG_FILE": "/nonexistent",
        }

    def break_(
        self, operation: str, fault: Fault, *, times: int = 1_000_000, when: Callable[[Exchange], bool] = bool
    ) -> None:
        """Let the next so many requests of an operation (``*`` for any) meet a fault."""
        self._rules.append(_Rule(operation, fault, when, times))

    def mend(self) -> None:
        """Let everything through again."""
        self._rules.clear()

    def fault_for(self, exchange: Exchange) -> Fault | None:
        """Note a request; return what is to happen to it."""
        with self._lock:
            self.seen.append(exchange)
            for rule in self._rules:
                if rule.left and rule.operation in ("*", exchange.operation) and rule.when(exchange):
                    rule.left -= 1
                    return rule.fault
        return None

    def counts(self) -> Counter[str]:
        """Return how many requests of each operation came."""
        return Counter(exchange.operation for exchange in self.seen)

    def objects(self) -> dict[str, bytes]:
        """Return everything below the storage root, by path, asked of the store itself."""
        listing = self._ask("GET", f"/{self.bucket}?list-type=2").decode()
        keys = re.findall(r"<Key>folder/([^<]+)</Key>", listing)
        return {key: self._ask("GET", f"/{self.bucket}/folder/{key}") for key in keys}

    def unfinished_uploads(self) -> list[str]:
        """Return the keys of multipart uploads that were neither completed nor aborted."""
        return re.findall(r"<Key>([^<]+)</Key>", self._ask("GET", f"/{self.bucket}?uploads").decode())

    def write(self, path: str, content: bytes) -> None:
        """Put an object as another process would."""
        self._ask("PUT", f"/{self.bucket}/folder/{path}", content)

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        with _Connection(self.backend) as connection:
            connection.request(method, path, body, SIGNED)
            response = connection.getresponse()
            content = response.read()
        assert response.status == 200, content
        return content


def _operation(method: str, path: str, query: dict[str, list[str]]) -> str:
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if "uploads" in query:
        return "CreateMultipartUpload"
    if "list-type" in query:
        return "ListObjects"
    kind = "Object" if path.strip("/").count("/") else "Bucket"
    return method.capitalize() + kind


def _kept(response: HTTPResponse) -> dict[str, str]:
    dropped = {"connection", "transfer-encoding", "content-length", "date", "server"}
    kept = {name: value for name, value in response.getheaders() if name.lower() not in dropped}
    length = response.getheader("Content-Length")
    return kept | ({"Content-Length": length} if response._method == "HEAD" and length else {})  # type: ignore[attr-defined]


class _Connection(HTTPConnection):
    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(*address, timeout=PATIENCE_SECONDS)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    owner: ObjectStore
    daemon_threads = True
    request_queue_size = 128  # the default of five drops connections of eight threads on a busy machine
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong here for the end of the test."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):  # clients that go away are what some tests are about
            self.owner.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    timeout = PATIENCE_SECONDS

    def handle_any(self) -> None:
        exchange = Exchange(self)
        fault = self.server.owner.fault_for(exchange)
        with suppress(ConnectionError):
            if fault is None:
                exchange.send(*exchange.forward())
            else:
                fault(exchange)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *args: Any) -> None:
        pass
