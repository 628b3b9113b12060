"""The command `rebuild`."""

from __future__ import annotations

import gc
import json
from typing import Any

import click
from attrs import asdict

from pgevents.clusters import Dask
from pgevents.subscriptions import RebuildProgress, rebuild
from pgevents.terminal import printable

from .frame import EXIT_CODES
from .show import show_json
from .store import Store, is_on_command_line
from .views import projection_of

__all__ = ["collect_rarely", "rebuild_command"]


@click.command(
    "rebuild",
    epilog=EXIT_CODES,
    help="Fold all views of TYPE in the version that the classes of --app have, while older versions are "
    "served.\n\nIt goes on where it was when it is started again, and it may be started several times at "
    "once.",
)
@click.argument("type")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that fold.")
@click.option("--drop-old", is_flag=True, help="Then remove views of older versions, if nobody uses them.")
@click.option(
    "--engine",
    metavar="dask://HOST:PORT",
    help="Let the workers of this Dask cluster fold, up to the present.",
)
@click.option(
    "--credentials",
    metavar="VARIABLE",
    default="PGEVENTS_DATABASE_URL",
    show_default=True,
    help="With --engine: the workers' environment variable that holds the database's URL.",
)
@click.option("--standby", metavar="VARIABLE", help="The same of a standby, to read the log from.")
@click.option("--parquet", metavar="FOLDER", help="With --engine: the export to read the log from.")
@click.option("--maker", metavar="MODULE:FUNCTION", help="With --engine: what makes the client of a URL.")
@Store.options
def rebuild_command(
    type: str,
    workers: int,
    drop_old: bool,
    engine: str | None,
    credentials: str,
    standby: str | None,
    parquet: str | None,
    maker: str | None,
    **options: Any,
) -> None:
    if engine is None and (standby or parquet or maker or is_on_command_line("credentials")):
        raise click.UsageError(
            "--credentials, --standby, --parquet and --maker go with --engine dask://HOST:PORT"
        )
    dask = None
    if engine is not None:
        dask = Dask(engine, credentials=credentials, standby=standby, parquet=parquet, maker=maker)
    store = Store(**options)
    collect_rarely()
    report = rebuild(
        store.own_client(),
        projection_of(type),
        workers=workers,
        progress=_json if store.as_json else _line,
        drop_old=drop_old,
        engine=dask,
    )
    if store.as_json:
        show_json(report.as_json())
    else:
        name = f"{printable(report.type)} version {report.version}"
        click.echo(f"{name} is complete up to event {report.position:,}.")


def collect_rarely() -> None:
    """Run the garbage collector less often. A rebuild holds hundreds of thousands of objects without cycles,
    and to look at all of them again and again takes a quarter of its time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _json(now: RebuildProgress) -> None:
    click.echo(json.dumps(asdict(now)), err=True)


def _line(now: RebuildProgress) -> None:
    share = 100 * now.position / now.target if now.target else 100
    line = f"{now.position:,} of {now.target:,} ({share:.0f} %), {now.rate:,.0f} a second"
    line += "" if now.seconds_left is None else f", {now.seconds_left:,.0f} s left"
    line += f", {now.waiting:,} views wait to be folded anew" if now.waiting else ""
    click.echo(line, err=True)
