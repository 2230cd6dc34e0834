"""The base of every error this package raises on purpose."""

from __future__ import annotations


class AkoolDagsterError(Exception):
    """Something this package knows how to explain; the message says what to do next."""
