"""Commands on the log: init, append, tail, stream."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from itertools import islice
from typing import Any

import click

from pgevents.client import EventClient
from pgevents.store.checks import find_installed
from pgevents.subscriptions import follow

from .frame import EXIT_CODES, Store, parse_json, show_event, stream_of

__all__ = ["append", "init", "stream_command", "tail"]

MATCH = click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
TYPES = click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type; may be given again."
)


@click.command(epilog=EXIT_CODES)
@click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="FIELD",
    help="Index this field of the events' data; the most "
    "selective first. Streams are found, and decisions locked, by these.",
)
@click.option(
    "--view-index", "view_indexes", multiple=True, metavar="FIELD", help="Index this field of the views."
)
@click.option(
    "--drop-index",
    "dropped",
    multiple=True,
    metavar="FIELD",
    help="Go without this field that is indexed now.",
)
@click.option(
    "--sql", is_flag=True, help="Print the SQL instead, for a migration tool; no database is needed."
)
@Store.options
def init(
    indexes: tuple[str, ...],
    view_indexes: tuple[str, ...],
    dropped: tuple[str, ...],
    sql: bool,
    **options: Any,
) -> None:
    """Make the tables and their functions, or bring them up to date.

    Of tables that exist, the indexed fields stay as they are, unless --index or --drop-index says otherwise.
    """
    store = Store(**options)
    if sql:
        click.echo(store.new(indexes, view_indexes).create_tables_sql(), nl=False)
        return
    store = store.named()
    client = store.new(_indexes(store.new((), ()), indexes, dropped), view_indexes)
    client.create_tables()
    tables = [
        model.pgevents_spec.qualified().replace('"', "") for model in (client.events, client.projections)
    ]
    click.echo(f"{tables[0]} and {tables[1]} are ready.")


def _indexes(client: EventClient, named: tuple[str, ...], dropped: tuple[str, ...]) -> tuple[str, ...]:
    """The fields to index: those named, or those that are indexed already, of which none gets lost by
    omission."""
    installed = find_installed(client.session.execute, client.events.pgevents_spec).data_indexes or ()
    for field in dropped:
        if field not in installed or field in named:
            raise click.UsageError(f"--drop-index {field}: indexed are {', '.join(installed) or 'no fields'}")
    kept = tuple(field for field in installed if field not in dropped)
    lost = [field for field in kept if named and field not in named]
    if lost:
        raise click.UsageError(
            f"{lost[0]} is indexed, and running programs may rely on it: name all fields in their order "
            f"(indexed are {', '.join(installed)}), or give --drop-index {lost[0]}"
        )
    return named or kept


@click.command(epilog=EXIT_CODES)
@click.argument("type")
@click.argument("data", default="{}")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--metadata", default="{}", metavar="JSON", help="What is known about the event.")
@click.option("--key", metavar="TEXT", help="Idempotency key: a repeated append with it saves nothing more.")
@click.option(
    "--created-at", type=click.DateTime(["%Y-%m-%dT%H:%M:%S%z"]), help="When it happened, if not now."
)
@click.option(
    "--after",
    type=click.IntRange(0),
    metavar="ID",
    help="Save only if nothing newer than this id stands in the stream that FIELD=VALUE describes.",
)
@Store.options
def append(
    type: str,
    data: str,
    match: tuple[str, ...],
    metadata: str,
    key: str | None,
    created_at: datetime | None,
    after: int | None,
    **options: Any,
) -> None:
    """Save an event of TYPE with DATA, a JSON object, or - to read it from the standard input."""
    store = Store(**options)
    given = {"type": type, "data": parse_json(sys.stdin.read() if data == "-" else data, "DATA")}
    if (after is None) != (not match):
        raise click.UsageError("--after ID and FIELD=VALUE go together")
    more: dict[str, Any] = {
        "metadata": parse_json(metadata, "--metadata"), "idempotency_key": key, "created_at": created_at
    }  # fmt: skip
    client = store.open()
    if after is None:
        event = client.save_event(given, **more)
    else:
        event = client.save_event_with_stream_validation(given, after, stream_of((), match), **more)
    show_event(event, store.as_json)


@click.command(epilog=EXIT_CODES)
@MATCH
@TYPES
@click.option("-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="So many events.")
@click.option(
    "-f", "--follow", "follows", is_flag=True, help="Go on with new events as they come; Ctrl-C ends it."
)
@Store.options
def tail(match: tuple[str, ...], types: tuple[str, ...], lines: int, follows: bool, **options: Any) -> None:
    """Print the newest events of the log or of a stream, the last one at the bottom."""
    store, wanted = Store(**options), stream_of(types, match)
    client = store.open()
    horizon = client.horizon().id
    sql, params = client.reader.select([wanted], 0, horizon, tail=f"ORDER BY id DESC LIMIT {lines}")
    ids = [row[0] for row in client.session.execute(sql, params).fetchall()]
    if ids:
        for event in client.iter_event_streams([wanted], after=ids[-1] - 1, as_of=horizon):
            show_event(event, store.as_json)
    if follows:
        for event in follow(client, [wanted], after=horizon):
            show_event(event, store.as_json)


@click.command("stream", epilog=EXIT_CODES)
@MATCH
@TYPES
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Only events above this id.")
@click.option(
    "--as-of", metavar="ID|TIME", help="Only events up to this id, or up to this time with its zone."
)
@click.option("--limit", type=click.IntRange(0), help="At most so many.")
@Store.options
def stream_command(
    match: tuple[str, ...],
    types: tuple[str, ...],
    after: int,
    as_of: str | None,
    limit: int | None,
    **options: Any,
) -> None:
    """Print all events of the log, or of a stream, from the first on."""
    store, wanted = Store(**options), stream_of(types, match)
    until: int | datetime | None = None
    if as_of is not None:
        try:
            until = int(as_of) if as_of.isdecimal() else datetime.fromisoformat(re.sub("Z$", "+00:00", as_of))
        except ValueError:
            raise click.UsageError(
                f"--as-of {as_of} is neither an id nor a time like 2026-01-31T12:00+00:00"
            ) from None
    for event in islice(store.open().iter_event_streams([wanted], after=after, as_of=until), limit):
        show_event(event, store.as_json)
