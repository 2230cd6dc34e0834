"""How long the tests may search: a little at every `make test`, much more at `make nightly`."""

from __future__ import annotations

import os

NIGHTLY = os.environ.get("AKOOL_TESTS") == "nightly"


def thorough(usual: int, nightly: int) -> int:
    """Return how many examples or steps this run has time for."""
    return nightly if NIGHTLY else usual
