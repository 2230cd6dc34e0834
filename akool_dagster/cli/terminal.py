"""Standard input and output of the command line: closed ones, narrow encodings, and text that is not our own."""

from __future__ import annotations

import io
import sys

import click


def printable(text: str) -> str:
    """Return text with what a terminal obeys rather than shows (escape sequences, reversed writing) written out."""
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode("ascii") for one in text
    )


def write_any_text() -> None:
    """Let standard output write out what its encoding has not got, as standard error does, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def require_output() -> None:
    """Raise unless there is a standard output."""
    if sys.stdout is None:  # Python's way to say that it was closed at the start
        raise click.ClickException("Standard output is closed: there is nowhere to show anything. Redirect it.")


def read_input() -> bytes:
    """Return all of standard input. Raises when it was closed."""
    if sys.stdin is None:
        raise click.ClickException("Standard input is closed: there is nothing to read. Nothing was changed.")
    return sys.stdin.buffer.read()
