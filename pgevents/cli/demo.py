"""The command that replays a day of a real shop."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgevents.errors import ConfigurationError

from .frame import EXIT_CODES, fail
from .store import is_on_command_line
from .ui import load_browser, serve_browser

if TYPE_CHECKING:
    from pgevents.demo.screen import Screen

__all__ = ["demo"]

SHOP = "pgevents.demo.tour:newest_shop"


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


@click.command(
    help="Replay one day of a real shop and check it to the penny.\n\n"
    "Order lines become carts: opened, filled and checked out by decisions and by batches. Meanwhile a "
    "runner keeps the views of carts and products, which are queried then. At the end eight processes buy "
    "the last piece of one product, and one of them gets it.",
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
@click.option(
    "--ui",
    "is_shown",
    is_flag=True,
    help="Then show the day in a browser, with two subscriptions at work, until interrupted.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The browser's port; by default a free one."
)
@click.option("--open/--no-open", "is_opened", default=True, help="Open the browser of this machine.")
def demo(path: Path | None, url: str | None, is_shown: bool, port: int, is_opened: bool) -> None:
    if url is None and is_on_command_line("url"):  # before the command
        url = click.get_current_context().find_root().params["url"]
    from pgevents.demo import ORDERS
    from pgevents.demo.orders import NoOrders, read_orders
    from pgevents.demo.run import new_schema
    from pgevents.demo.run import run as run_demo
    from pgevents.demo.screen import Screen

    if is_shown:
        load_browser()
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
        if is_shown:
            _show(database, schema, screen, port, is_opened)
    if url is not None:
        screen.say(f"The tables are left in the schema {schema}; DROP SCHEMA {schema} CASCADE removes them.")
        screen.say(f"Look at it: pgevents ui --app {SHOP} (with PGEVENTS_DATABASE_URL set)")
    elif not is_shown:
        screen.say("Look at it: pgevents demo --ui")
    if not report.is_right:
        sys.exit(1)


def _show(url: str, schema: str, screen: Screen, port: int, is_opened: bool) -> None:
    """The day in the browser, with subscriptions at work."""
    from pgevents.demo.shop import shop_client
    from pgevents.demo.tour import PUZZLE, VIEWS, subscriptions_at_work

    screen.say(f"A customer asks: why is the total of my cart {PUZZLE} wrong?")
    with subscriptions_at_work(url, schema):
        serve_browser(shop_client(url, schema), port, is_opened, projections=VIEWS, is_writable=True)
