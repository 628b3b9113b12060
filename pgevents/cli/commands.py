"""The commands."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from pgevents.distribution import NAME
from pgevents.errors import ConfigurationError

from .exports import export_command
from .frame import EXIT_CODES, Commands, fail, run
from .health import doctor, stats
from .imports import import_command
from .log import append, init, stream_command, tail
from .processing import COMMANDS
from .rebuilding import rebuild_command
from .store import is_on_command_line, store_options
from .ui import ui
from .views import diff, query, show

__all__ = ["run_command"]


@click.group(
    cls=Commands,
    help="An event store in PostgreSQL. Options of the store may stand before or after the command.",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODES,
)
@store_options
@click.version_option(package_name=NAME, prog_name="pgevents")
def cli(**_: object) -> None:
    pass  # commands find the options in the context


for command in (
    init,
    append,
    tail,
    stream_command,
    show,
    query,
    diff,
    import_command,
    export_command,
    stats,
    doctor,
    ui,
    rebuild_command,
    *COMMANDS,
):
    cli.add_command(command)


def run_command() -> NoReturn:
    """Run the command that was given."""
    run(cli)


@contextmanager
def server(url: str | None) -> Generator[tuple[str, str], None, None]:
    """The URL of the given server, or of an embedded one for the time of the block, and how to call it."""
    if url is not None:
        yield url, "your database"
        return
    from pgevents.embedded import embedded_database

    start = time.perf_counter()
    with embedded_database() as db:
        yield (
            db.url,
            f"an embedded PostgreSQL, started in {time.perf_counter() - start:.1f} s, gone afterwards",
        )


@cli.command(
    help="Replay one day of a real shop and check it to the penny.\n\n"
    "Order lines become carts: opened, filled and checked out by decisions and by batches, then snapshotted "
    "and queried. At the end eight processes buy the last piece of one product, and one of them gets it.",
    epilog=EXIT_CODES,
)
@click.option(
    "--csv",
    "path",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="Order lines of your own, .csv or .csv.gz, in place of the ones that are shipped. "
    "The first line names the columns: InvoiceNo, StockCode, Description, Quantity, "
    "InvoiceDate, UnitPrice, CustomerID, Country.",
)
@click.option(
    "--database",
    "url",
    metavar="URL",
    help="A PostgreSQL database (postgresql://...) in place of an embedded one. The demo makes a schema of "
    "its own there, and leaves it for you to look at.",
)
def demo(path: Path | None, url: str | None) -> None:
    if url is None and is_on_command_line("url"):  # before the command
        url = click.get_current_context().find_root().params["url"]
    from pgevents.demo import ORDERS
    from pgevents.demo.orders import NoOrders, read_orders
    from pgevents.demo.run import new_schema
    from pgevents.demo.run import run as run_demo
    from pgevents.demo.screen import Screen

    screen, path, schema = Screen(), path or ORDERS, new_schema()
    try:
        orders = read_orders(path)
    except NoOrders as error:
        raise click.UsageError(f"{path}: {error}") from error
    if not orders.usable:
        reason = f", such as: {orders.skipped[0].reason}" if orders.skipped else ""
        fail(f"{path}: no line can be replayed{reason}")
    screen.head(path.name, orders)
    with server(url) as (database, name):
        screen.say(f"Database: {name}")
        try:
            report = run_demo(orders, path, database, schema, screen)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error
        screen.show(report)
    if url is not None:
        screen.say(f"The tables are left in the schema {schema}; DROP SCHEMA {schema} CASCADE removes them.")
    if not report.is_right:
        sys.exit(1)
