"""The command that opens the log in a browser."""

from __future__ import annotations

from typing import Any

import click

from pgevents.distribution import install_hint

from .frame import EXIT_CODES, fail
from .store import Store

__all__ = ["ui"]


@click.command(
    help="Show the log in a browser on this machine, until interrupted: events, views, and views over "
    "time; with --app by the classes and projections of your program, else as dicts.\n\n"
    "It listens on the loopback address only, and the address carries a token. Nothing can be changed there.",
    epilog=EXIT_CODES,
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; by default a free one.")
@click.option("--open/--no-open", "is_opened", default=False, help="Open it in this machine's browser.")
@Store.options
def ui(port: int, is_opened: bool, **options: Any) -> None:
    try:
        from pgevents.browser import serve
    except ModuleNotFoundError as error:
        if error.name not in {"flask", "werkzeug", "jinja2"}:
            raise
        fail(f"the browser needs flask: {install_hint('flask')}")
    store = Store(**options)
    client = store.open() if store.app is None else store.own_client()

    def announce(address: str) -> None:
        click.echo(f"The log is at {address}")
        click.echo("Ctrl+C ends it.")
        if is_opened:
            click.launch(address)

    serve(client, port=port, announce=announce)
