"""Commands that describe events to other tools: schema, views."""

from __future__ import annotations

import json
from typing import Any

import click

from pgevents.exchange import asyncapi, create_views, json_schema
from pgevents.terminal import printable

from .frame import EXIT_CODES
from .show import as_text
from .store import Store

__all__ = ["schema", "views"]


@click.command(
    help="Print the JSON Schema of the event type TYPE, or an AsyncAPI document of all, from the classes "
    "of --app.",
    epilog=EXIT_CODES,
)
@click.argument("type", required=False)
@click.option("--title", help="AsyncAPI: what the application is called; by default the events table's name.")
@click.option("--api-version", default="0", show_default=True, help="AsyncAPI: the version of the events.")
@Store.options
def schema(type: str | None, title: str | None, api_version: str, **options: Any) -> None:
    client = Store(**options).own_client()
    if type is not None:
        document = json_schema(client, type)
    else:
        title = title or client.events.pgevents_spec.qualified().replace('"', "")
        document = asyncapi(client, title=title, version=api_version)
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


@click.command(
    help="Make an SQL view with typed columns for each event class of --app, or bring them up to date.",
    epilog=EXIT_CODES,
)
@click.option("--schema", metavar="NAME", help="Where; by default <schema of the events table>_views.")
@click.option("--reader", metavar="ROLE", help="A role that may read them, and nothing else.")
@Store.options
def views(schema: str | None, reader: str | None, **options: Any) -> None:
    store = Store(**options)
    for view in create_views(store.own_client(), schema=schema, grant_reader=reader):
        if store.as_json:
            columns = list(view.columns)
            click.echo(as_text({"view": view.name, "type": view.event_type, "columns": columns}))
        else:
            click.echo(f"{printable(view.name)}: {printable(', '.join(view.columns))}")
