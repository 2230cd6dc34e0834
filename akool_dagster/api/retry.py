"""When to send a call again: a pure decision; the client does the waiting.

Not stamina: its synchronous waits go through `time.sleep` and its jitter through a global generator, so
neither can follow an injected clock, and it knows no deadline that is shared with the calls before this one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently a call is repeated; times in seconds."""

    attempts: int = 4
    first_backoff: float = 0.5
    longest_backoff: float = 8.0
    longest_asked: float = 30.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")

    def decide(self, attempt: int, *, retry_after: float | None, chance: float) -> float | None:
        """Return the seconds to wait before the next attempt; None when there is none.

        ``attempt`` counts from 1 and has just failed, ``retry_after`` is what Akool asked for, ``chance`` a random
        number in [0, 1). The backoff doubles and has full jitter, so that many clients that failed together do not
        come back together; an asked wait is never shortened, and a too long one is not sat out.
        """
        if attempt >= self.attempts or (retry_after or 0.0) > self.longest_asked:
            return None
        # The exponent is cut because 2.0 ** 1024 overflows.
        backoff = min(self.longest_backoff, self.first_backoff * 2.0 ** min(attempt - 1, 30))
        return max(retry_after or 0.0, backoff * chance)
