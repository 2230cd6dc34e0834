"""What a kind of fault is: where it may happen, which options it takes, and the one thing it does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum

from akool_dagster.emulator.answers import Answer
from akool_dagster.emulator.jobs import EmulatedJob, Row


class Endpoint(StrEnum):
    """The places a request can go to, named after the end of Akool's paths."""

    RESULTS = "resultsByIds"
    TOKEN = "getToken"  # noqa: S105 - an endpoint's name
    CREDIT = "quota/info"
    CDN = "cdn"


class WireEffect(Enum):
    """What happens to the connection that an answer goes over."""

    DELAY = "the answer comes late"
    RESET = "reset instead of any answer"
    RESET_BODY = "reset after half of the body"
    HOLD = "no answer until the client leaves"
    SHORT = "closed after half of the body, under the Content-Length of the whole"
    SHORT_UNSIZED = "closed after half of the body, without a Content-Length"
    DRIP = "a body that comes byte by byte and never ends"
    FLOOD = "a body of a given size, without a Content-Length"


NO_ANSWER = frozenset({WireEffect.RESET, WireEffect.HOLD})
"""Where not even a status line is sent."""

OptionValue = float | str
Options = Mapping[str, OptionValue | None]


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _number_from(least: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        if (number := _number(value)) < least:
            raise ValueError(f"below {least:g}")
        return number

    return read


def _integer_from(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = _number(value)
        if number != int(number) or not least <= number <= most:
            raise ValueError(f"not a whole number from {least} to {most}")
        return int(number)

    return read


def _header_text(value: object) -> str:
    text = str(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else ""
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("not a text for an HTTP header")
    return text


OPTION_READERS: Mapping[str, Callable[[object], OptionValue]] = {
    "retry_after": _header_text,  # sent as given: seconds, or an HTTP date
    "location": _header_text,  # where a redirect leads
    "seconds": _number_from(0),  # how late, or how long at most
    "jitter": _number_from(0),  # seconds more or less, drawn for each call
    "every": _number_from(0.001),  # seconds between two bytes
    "bytes": _integer_from(1, 1 << 50),
    "code": _integer_from(0, 999_999_999),
    "http_status": _integer_from(200, 599),
}
"""How each option is read, from a number or from its text. They raise ``ValueError``."""


@dataclass(frozen=True, kw_only=True)
class FaultKind:
    """What a fault does. Exactly one of the last seven says it; the others say where it may happen, and how.

    ``answer`` is sent in place of the real one, ``change`` turns the real one into another, ``wire`` is about the
    connection. Of ``resultsByIds``, ``rows`` turns all rows into others (it is given the ids that were not asked
    for, and chance), ``row`` turns one row into the rows to send for it, and ``job`` changes the job itself, for
    good. ``video`` is the job whose file the CDN serves instead.
    """

    name: str
    summary: str
    allowed: frozenset[Endpoint]
    default: frozenset[Endpoint]
    passes_by_itself: bool
    """Whether asking again later is enough. If not, the job or its file is spoilt for good, or the user must act."""
    options: Options = field(default_factory=dict)
    """The options it takes, with what they are unless given."""
    needs_job: bool = False
    """Whether it makes sense for one job only."""
    of_completed: bool = False
    """Whether it happens only to rows of completed jobs."""
    answer: Callable[[Options], Answer] | None = None
    change: Callable[[Answer], Answer] | None = None
    wire: WireEffect | None = None
    rows: Callable[[Sequence[Row], Collection[str], random.Random], Sequence[Row]] | None = None
    row: Callable[[Row], Sequence[Row]] | None = None
    job: Callable[[EmulatedJob], EmulatedJob] | None = None
    video: Callable[[EmulatedJob], EmulatedJob] | None = None

    @property
    def is_of_one_job(self) -> bool:
        """Whether it happens to one job of a call, and not to the call."""
        return self.row is not None or self.job is not None

    def read_options(self, given: Mapping[str, object]) -> Options:
        """Return all options: those given, as their types, and the defaults of the others.

        Raises ``ValueError`` for an option the kind does not have, and for a value it cannot have.
        """
        read: dict[str, OptionValue | None] = dict(self.options)
        for name, value in given.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none of its own"
                raise ValueError(f"The fault {self.name!r} has no option {name!r}; it has {known}.")
            if value is None:
                continue
            try:
                read[name] = OPTION_READERS[name](value)
            except ValueError as error:
                raise ValueError(f"The option {name!r} of {self.name!r} cannot be {value!r}: {error}.") from None
        return read
