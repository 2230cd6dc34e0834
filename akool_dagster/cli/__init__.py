"""The command ``akool-dagster``: one module a command group."""

from __future__ import annotations

import click

from akool_dagster.cli.emulator import emulator
from akool_dagster.cli.jobs import jobs
from akool_dagster.cli.ledger import ledger_group
from akool_dagster.cli.terminal import write_any_text
from akool_dagster.cli.track import track
from akool_dagster.errors import AkoolDagsterError


class _Group(click.Group):
    """Shows an error of ours as its sentence, not as a stack trace."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except AkoolDagsterError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="akool-dagster")
def main() -> None:
    """Track Akool image-to-video jobs and see how they stand.

    The ledger is at AKOOL_LEDGER_URL, or in the folder akool of DAGSTER_HOME.
    """
    write_any_text()


for _command in (track, jobs, ledger_group, emulator):
    main.add_command(_command)
