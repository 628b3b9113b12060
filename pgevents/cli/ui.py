"""The command that opens the log in a browser."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from typing import Any

import click

from pgevents.client import EventClient
from pgevents.distribution import install_hint

from .frame import EXIT_CODES, fail
from .store import Store

__all__ = ["load_browser", "serve_browser", "ui"]


@click.command(
    help="Show the log in a browser on this machine, until interrupted: events, views, views over time, "
    "subscriptions and health; with --app by the classes and projections of your program, else as dicts.\n\n"
    "It listens on the loopback address only, and the address carries a token. Nothing can be changed there, "
    "unless --write is given: then parked events can be tried again and discarded, in your name.",
    epilog=EXIT_CODES,
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; by default a free one.")
@click.option("--open/--no-open", "is_opened", default=False, help="Open it in this machine's browser.")
@click.option("--write", "is_writable", is_flag=True, help="Let parked events be tried again and discarded.")
@Store.options
def ui(port: int, is_opened: bool, is_writable: bool, **options: Any) -> None:
    load_browser()
    store = Store(**options)
    client = store.open() if store.app is None else store.own_client()
    serve_browser(client, port, is_opened, is_writable=is_writable)


def load_browser() -> Any:
    """The browser's module, or an error that says what to install."""
    try:
        from pgevents import browser
    except ModuleNotFoundError as error:
        if error.name not in {"flask", "werkzeug", "jinja2"}:
            raise
        fail(f"the browser needs flask: {install_hint('flask')}")
    return browser


def serve_browser(
    client: EventClient,
    port: int,
    is_opened: bool,
    *,
    projections: Iterable[type[Any]] | None = None,
    is_writable: bool = False,
) -> None:
    """Serve a client's log until interrupted, and say where."""

    def announce(address: str) -> None:
        click.echo(f"The log is at {address}")
        click.echo("Ctrl+C ends it.")
        if is_opened:
            click.launch(address)

    writer = getpass.getuser() if is_writable else None
    load_browser().serve(client, port=port, projections=projections, writer=writer, announce=announce)
