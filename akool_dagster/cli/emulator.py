"""The command ``akool-dagster emulator``: a local Akool."""

from __future__ import annotations

import click


@click.command()
@click.option("--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 takes a free one.")
@click.option("--seed", default=0, show_default=True, help="The same seed makes the same jobs.")
@click.option("--jobs", "count", default=24, show_default=True, type=click.IntRange(0), help="How many jobs there are.")
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How many times faster than life jobs move.",
)
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[,option=value...]", help="A fault to show; may be repeated."
)
@click.option(
    "--fault-rate",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Probability that a call meets a random fault, of those that pass by themselves.",
)
@click.option("--max-ids-per-call", type=click.IntRange(1), help="Refuse calls with more ids. [default: no limit]")
@click.option("--list-faults", is_flag=True, help="Show the faults and their options, and exit.")
def emulator(
    port: int,
    seed: int,
    count: int,
    speed: float,
    faults: tuple[str, ...],
    fault_rate: float,
    max_ids_per_call: int | None,
    list_faults: bool,
) -> None:
    """Run a local Akool with real MP4s, to try everything without a key."""
    from akool_dagster.emulator.command import serve
    from akool_dagster.emulator.fault_descriptions import kinds_table

    if list_faults:
        click.echo(kinds_table())
        return
    serve(
        port,
        seed,
        count,
        speed,
        click.echo,
        faults=faults,
        fault_rate=fault_rate,
        max_ids_per_call=max_ids_per_call,
    )
