"""The command ``akool-dagster track``: watches jobs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from akool_dagster.base.job_ids import OBJECT_ID_PATTERN
from akool_dagster.cli.options import account_option
from akool_dagster.cli.terminal import read_input
from akool_dagster.cli.track_input import FORMATS, TrackInput, parse_track_input
from akool_dagster.ledger import AccountLedger, JobLedger, LedgerMissingError, TrackReport, TrackRequest
from akool_dagster.operations.video_files import reopen_missing
from akool_dagster.settings import SettingsError, ledger_url_from, settings_from
from akool_dagster.storage import StorageError, StorageRoot


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--from-file", "source", type=click.Path(allow_dash=True), help="Ids from a file, or - for standard input."
)
@click.option("--format", "format_", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the file.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label for every id; may be repeated.")
@click.option(
    "--again",
    is_flag=True,
    help="Poll missing and abandoned jobs anew, and try again videos that are lost, unverified, or stored without a "
    "file.",
)
@account_option
def track(
    ids: tuple[str, ...], source: str | None, format_: str, labels: tuple[str, ...], again: bool, account: str
) -> None:
    """Watch jobs until Akool says how they ended.

    A file has one id a line, ids separated by commas or blanks, CSV with a column _id (commas, semicolons or tabs),
    or JSON (lines or an array) with a field _id. CSV and JSON may give labels in a column or field `labels` (in CSV
    as JSON text). Ids that are tracked already only gain labels.
    """
    if not ids and source is None:
        raise click.UsageError("Give at least one ID, or --from-file PATH (- for standard input).")
    common = dict(_parsed_label(label) for label in labels)
    given: list[tuple[str | None, TrackInput]] = []
    if ids:
        given.append((None, parse_track_input("\n".join(ids), common)))
    if source is not None:
        given.append((source, parse_track_input(_text_of(source), common, format_)))
    for name, parsed in given:
        _echo_problems(name, parsed)
    requests = [request for _, parsed in given for request in parsed.requests]
    refused = sum(len(parsed.problems) for _, parsed in given)
    if refused and not requests:
        raise click.ClickException(f"refused: {refused} (see above). Nothing was tracked.")
    url = ledger_url_from(os.environ)
    made = "" if _is_there(url) else ", which was made for it: there was none"
    with JobLedger.create(url) as ledger:
        known = ledger.accounts()
        if known and account not in known:
            click.echo(f"Note: the ledger had no jobs of {account} yet, but of {', '.join(known)}.", err=True)
        report = ledger.account(account).track(requests, again=again)
        refetched = _refetch(ledger.account(account), requests) if again else 0
        odd = sum(not OBJECT_ID_PATTERN.fullmatch(request.job_id) for request in requests)
        if odd:
            click.echo(f"Note: {odd} of the ids are not 24 hex digits, as Akool's are. Is that right?", err=True)
        words = _in_words(report, again, refetched)
        click.echo(f"{words}; account {account}, ledger {ledger.shown_url}{made}")
    if refused:
        raise click.ClickException(f"refused: {refused} (see above). The others are tracked.")


def _refetch(account: AccountLedger, requests: list[TrackRequest]) -> int:
    """Make stored videos pending whose file is gone; return how many it was."""
    try:
        root = StorageRoot(settings_from(os.environ).storage_root)
        return reopen_missing(account, root, (request.job_id for request in requests))
    except (StorageError, SettingsError) as error:
        click.echo(f"Note: whether files of stored videos are gone was not looked at: {error}", err=True)
        return 0


def _in_words(report: TrackReport, again: bool, refetched: int) -> str:
    parts = [f"{report.added} new", f"{report.known} tracked already"]
    optional = {
        "given twice": report.repeated,
        "relabelled": report.relabelled,
        "pruned": report.pruned,
        "forgotten": report.forgotten,
    }
    parts += [f"{number} {what}" for what, number in optional.items() if number]
    if again:
        hint = " (only missing and abandoned jobs, and videos that are lost, unverified or gone, can be)"
        reopened = report.reopened + refetched
        parts.append(f"{reopened} reopened{'' if reopened else hint}")
    return ", ".join(parts)


def _is_there(ledger_url: str) -> bool:
    try:
        JobLedger.open(ledger_url).close()
    except LedgerMissingError:
        return False
    return True


def _parsed_label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key.strip(), value


def _text_of(source: str) -> str:
    try:
        raw = read_input() if source == "-" else Path(source).read_bytes()
        return raw.decode("utf-8")
    except OSError as error:
        raise click.ClickException(f"Cannot read {source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{source} is not UTF-8 text (byte {error.start}). Nothing was tracked.") from error


def _echo_problems(name: str | None, parsed: TrackInput) -> None:
    for problem in parsed.problems:
        where = f"argument {problem.line}" if name is None else f"{name}, line {problem.line}"
        click.echo(f"{where}: {problem.message}", err=True)
