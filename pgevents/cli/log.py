"""Commands on the log: init, append, tail, stream."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.fields import path_of
from pgevents.store.checks import find_installed
from pgevents.subscriptions import follow

from .application import refusals_of_plugins
from .frame import EXIT_CODES, MAX_ID, parse_json, parse_time, whole
from .show import show_event
from .store import Store, stream_of

__all__ = ["append", "init", "position_of", "stream_command", "tail"]

MATCH = click.argument("match", nargs=-1, metavar="[FIELD=VALUE|'FIELD>=VALUE']...")
TYPES = click.option(
    "--type", "types", multiple=True, metavar="TYPE", help="Only this type; may be given again."
)
FIELD = re.compile(r"([^={}\[\]\":]+)(:?=)(.*)", re.DOTALL)
"""FIELD=TEXT or FIELD:=JSON; no JSON text is of this form."""


@click.command(
    help="Make the tables and their functions, or bring them up to date.\n\n"
    "Of tables that exist, the indexed fields stay as they are, unless --index or --drop-index "
    "says otherwise.",
    epilog=EXIT_CODES,
)
@click.option(
    "--index",
    "indexes",
    multiple=True,
    metavar="FIELD",
    help="Index this field of the events' data; the most selective first. Streams are found, and decisions "
    "locked, by these.",
)
@click.option(
    "--view-index", "view_indexes", multiple=True, metavar="FIELD", help="Index this field of the views."
)
@click.option(
    "--drop-index",
    "dropped",
    multiple=True,
    metavar="FIELD",
    help="Do not index this field any more.",
)
@click.option(
    "--sql", is_flag=True, help="Print the SQL instead, for a migration tool; no database is needed."
)
@click.option("--down", is_flag=True, help="With --sql: what drops all of it again, with all events.")
@click.option("--writer", metavar="ROLE", help="Grant this role what a program needs that saves.")
@click.option("--reader", metavar="ROLE", help="Grant this role what a program needs that only reads.")
@Store.options
def init(
    indexes: tuple[str, ...],
    view_indexes: tuple[str, ...],
    dropped: tuple[str, ...],
    sql: bool,
    down: bool,
    writer: str | None,
    reader: str | None,
    **options: Any,
) -> None:
    store = Store(**options)
    if down and not sql:
        raise click.UsageError("--down drops nothing by itself: give --sql, and run what it prints")
    if sql:
        if writer or reader or dropped:
            raise click.UsageError(
                "--writer, --reader and --drop-index look at the database; leave out --sql"
            )
        client = store.new(indexes, view_indexes, needs_database=False)
        click.echo(client.create_tables_sql(down=down), nl=False)
        return
    if store.app is None:
        store = store.named()
        indexes = _indexes(store.new((), (), needs_database=True), indexes, dropped)
    client = store.new(indexes, view_indexes, needs_database=True)
    client.create_tables(grant_writer=writer, grant_reader=reader)
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


@click.command(
    help="Save an event of TYPE. Its data are FIELD=TEXT and FIELD:=JSON arguments (cart_id=c1 quantity:=2 "
    "customer.id=7), or a JSON object, or "
    "- to read that from the standard input; fields that follow it are added.",
    epilog=EXIT_CODES,
)
@click.argument("type")
@click.argument("data", nargs=-1, metavar="[JSON|-] [FIELD=TEXT|FIELD:=JSON]...")
@click.option("--metadata", default="{}", metavar="JSON", help="What is known about the event.")
@click.option("--key", metavar="TEXT", help="Idempotency key: a repeated append with it saves nothing more.")
@click.option("--created-at", metavar="TIME", help="When it happened, with its time zone, if not now.")
@click.option(
    "--stream",
    "match",
    multiple=True,
    metavar="FIELD=VALUE",
    help="With --after: the stream in which nothing new may stand; may be given again.",
)
@click.option(
    "--after",
    **whole(0),
    metavar="ID",
    help="Save only if nothing newer than this id stands in the stream.",
)
@Store.options
def append(
    type: str,
    data: tuple[str, ...],
    match: tuple[str, ...],
    metadata: str,
    key: str | None,
    created_at: str | None,
    after: int | None,
    **options: Any,
) -> None:
    store = Store(**options)
    if (after is None) != (not match):
        raise click.UsageError("--after ID and --stream FIELD=VALUE go together")
    found: dict[str, Any] = {"metadata": parse_json(metadata, "--metadata")}
    found["data"] = event_data(data, found["metadata"])
    given = {"type": type, "data": found["data"]}
    options_of_save: dict[str, Any] = {"metadata": found["metadata"], "idempotency_key": key}
    if created_at is not None:
        options_of_save["created_at"] = _time(created_at, "--created-at")
    reader = store.open()
    writer = store.writer(reader)
    with refusals_of_plugins(writer):
        if after is None:
            saved = writer.save_event(given, **options_of_save)
        else:
            saved = writer.save_event_with_stream_validation(
                given, after, stream_of((), match), **options_of_save
            )
    # Read again, for a plugin may have changed it.
    for event in reader.iter_event_stream(after=saved.id - 1, as_of=saved.id):
        show_event(event, store.as_json)


def event_data(parts: Sequence[str], metadata: dict[str, Any]) -> dict[str, Any]:
    """The data that the arguments of `append` describe; a field of the metadata is put there."""
    data: dict[str, Any] = {}
    if parts and not FIELD.fullmatch(parts[0]):
        data = parse_json(sys.stdin.read() if parts[0] == "-" else parts[0], "DATA")
        parts = parts[1:]
    for part in parts:
        found = FIELD.fullmatch(part)
        if found is None:
            raise click.UsageError(f"{part}: write FIELD=TEXT or FIELD:=JSON, as in cart_id=c1 quantity:=2")
        field, sign, value = found.groups()
        column, keys = _path(field)
        _put(
            metadata if column == "metadata" else data,
            keys,
            value if sign == "=" else _json_value(field, value),
        )
    return data


def _path(field: str) -> tuple[str, tuple[str, ...]]:
    try:
        return path_of(field)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _put(place: Any, keys: Sequence[str], value: Any) -> None:
    """Put a value at the end of a path of objects."""
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if place.__class__ is not dict:
            raise click.UsageError(f"{'.'.join(keys)}: {key} is given as an object and as a value")
    if keys[-1] in place:
        raise click.UsageError(f"the field {'.'.join(keys)} is given twice")
    place[keys[-1]] = value


def _json_value(field: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{field}:={text} is not JSON ({error}); text is {field}=TEXT") from error


def _time(text: str, option: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from error


def position_of(text: str, option: str) -> int | datetime:
    """An id or a time, as `--as-of` takes it."""
    if re.fullmatch("[0-9]+", text):
        if int(text) > MAX_ID:
            raise click.UsageError(f"{option} {text}: no id is that large")
        return int(text)
    try:
        return parse_time(text)
    except ValueError as error:
        raise click.UsageError(
            f"{option} {text} is neither an id nor a time like 2026-01-31T12:00+00:00 ({error})"
        ) from error


@click.command(
    help="Print the newest events of the log or of a stream, the last one at the bottom.", epilog=EXIT_CODES
)
@MATCH
@TYPES
@click.option("-n", "--lines", **whole(0), default=10, show_default=True, help="How many events.")
@click.option(
    "-f", "--follow", "follows", is_flag=True, help="Go on with new events as they come; Ctrl-C ends it."
)
@Store.options
def tail(match: tuple[str, ...], types: tuple[str, ...], lines: int, follows: bool, **options: Any) -> None:
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


@click.command(
    "stream",
    help="Print all events of the log, or of a stream, from the first on. A comparison stands in quotes: "
    "'quantity>=10', 'at<2026-02-01T00:00:00Z', 'state!=done'.",
    epilog=EXIT_CODES,
)
@MATCH
@TYPES
@click.option(
    "--after",
    **whole(0),
    default=0,
    metavar="ID",
    help="Only events above this id; with --reverse, below it.",
)
@click.option(
    "--as-of", metavar="ID|TIME", help="Only events up to this id, or up to this time with its zone."
)
@click.option("--limit", **whole(0), help="At most this many.")
@click.option("--reverse", is_flag=True, help="The newest first.")
@click.option("--final", is_flag=True, help="Wait until no late event can come between them.")
@Store.options
def stream_command(
    match: tuple[str, ...],
    types: tuple[str, ...],
    after: int,
    as_of: str | None,
    limit: int | None,
    reverse: bool,
    final: bool,
    **options: Any,
) -> None:
    store, wanted = Store(**options), stream_of(types, match)
    until = None if as_of is None else position_of(as_of, "--as-of")
    if final and until is not None:
        raise click.UsageError("--final and --as-of exclude each other")
    found = store.open().iter_event_streams(
        [wanted], after=after, limit=limit, reverse=reverse, final=final, as_of=until
    )
    for event in found:
        show_event(event, store.as_json)
