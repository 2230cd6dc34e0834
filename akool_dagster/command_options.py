"""Options that several commands of ``akool-dagster`` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from akool_dagster.job_ids import JOB_ID_PATTERN

_Command = TypeVar("_Command", bound=Callable[..., None])


def account_option(command: _Command) -> _Command:
    """Give a command the option ``--account``."""
    return click.option(
        "--account", default="akool", show_default=True, callback=_checked_account, help="The prefix of the account."
    )(command)


def _checked_account(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not JOB_ID_PATTERN.fullmatch(value):
        raise click.BadParameter("letters, digits, '_' and '-', at most 64")
    return value
