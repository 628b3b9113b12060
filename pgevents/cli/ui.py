"""The command that opens the log in a browser."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from pgevents.client import EventClient

from .frame import EXIT_CODES, Store, fail

__all__ = ["ui"]


@click.command(epilog=EXIT_CODES)
@click.option(
    "--app",
    metavar="MODULE:NAME",
    help="A client of your program, whose classes and projections are used; else events are dicts.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; by default a free one.")
@click.option("--open/--no-open", "is_opened", default=False, help="Open it in this machine's browser.")
@Store.options
def ui(app: str | None, port: int, is_opened: bool, **options: Any) -> None:
    """Show the log in a browser on this machine, until interrupted: events, views, and views over time.

    It listens on the loopback address only, and the address carries a token. Nothing can be changed there.
    """
    try:
        from pgevents.browser import serve
    except ModuleNotFoundError as error:
        if error.name not in {"flask", "werkzeug", "jinja2"}:
            raise
        fail("the browser needs flask, which the extra brings: pgevents[flask]")
    client = Store(**options).open() if app is None else _client_of(app)

    def announce(address: str) -> None:
        click.echo(f"The log is at {address}")
        click.echo("Ctrl+C ends it.")
        if is_opened:
            click.launch(address)

    serve(client, port=port, announce=announce)


def _client_of(place: str) -> EventClient:
    module_name, sign, name = place.partition(":")
    if not sign or not module_name or not name:
        raise click.UsageError(f"{place}: write MODULE:NAME, as in shop.store:client")
    sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"{place}: {error}") from error
    client = getattr(module, name, None)
    if not isinstance(client, EventClient):
        raise click.UsageError(f"{place} is not an event client but {client!r}")
    return client
