"""Options that several commands of ``akool-dagster`` have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from akool_dagster.base.accounts import DEFAULT_ACCOUNT, InvalidAccountError, check_account

_Command = TypeVar("_Command", bound=Callable[..., None])


def account_option(command: _Command) -> _Command:
    """Give a command the option ``--account``."""
    return click.option(
        "--account",
        default=DEFAULT_ACCOUNT,
        show_default=True,
        callback=_checked_account,
        help="The prefix of the account.",
    )(command)


def yes_option(command: _Command) -> _Command:
    """Give a command that asks the option ``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless ``yes``. Raises when the answer is no."""
    try:
        if not yes:
            click.confirm(question, abort=True)
    except click.Abort:
        # A no, but also the end of the input, as in a script or a container without a terminal.
        raise click.ClickException("Not confirmed. Nothing was changed. Where nobody is asked, add --yes.") from None


def _checked_account(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        check_account(value)
    except InvalidAccountError as error:
        raise click.BadParameter(str(error)) from None
    return value
