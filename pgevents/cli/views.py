"""Commands on projections: show, query, diff."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

import click

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase
from pgevents.streams import check_field_name
from pgevents.terminal import printable

from .frame import EXIT_CODES, fail, whole
from .log import position_of
from .show import as_text
from .store import Store, stream_of

__all__ = ["diff", "projection_of", "query", "show"]

ROWS_SQL = """\
SELECT type, id, data::text, latest_event_id, version, updated_at FROM {table} AS p
WHERE type = %s{conditions} ORDER BY {order}, id LIMIT %s
"""
NEWEST = " AND version = (SELECT max(n.version) FROM {table} AS n WHERE n.type = p.type AND n.id = p.id)"
"""Of several versions of a projection, the newest of each id."""
NAMES = ("type", "id", "data", "latest_event_id", "version", "updated_at")


def _rows(
    client: EventClient, conditions: str, params: list[Any], order: str, limit: int | None
) -> list[dict[str, Any]]:
    table = client.projections.pgevents_spec.qualified()
    sql = ROWS_SQL.format(table=table, conditions=conditions.replace("{table}", table), order=order)
    return [
        dict(zip(NAMES, (*row[:2], json.loads(row[2]), *row[3:5], row[5].isoformat()), strict=True))
        for row in client.session.execute(sql, [*params, limit]).fetchall()
    ]


@click.command(help="Print the saved projection of TYPE and ID.", epilog=EXIT_CODES)
@click.argument("type")
@click.argument("id")
@Store.options
def show(type: str, id: str, **options: Any) -> None:
    store = Store(**options)
    rows = _rows(store.open(), " AND id = %s", [type, id], "version DESC", None)
    if not rows:
        fail(f"no projection {printable(type)} {printable(id)} is saved")
    if store.as_json:
        click.echo(as_text(rows[0]))
        return
    row = rows[0]
    click.echo(
        f"{printable(type)} {printable(id)}, version {row['version']}, up to event {row['latest_event_id']}, "
        f"saved {row['updated_at']}"
    )
    for line in _lines(row["data"]):
        click.echo(line)


def _lines(view: Any) -> list[str]:
    return [printable(line) for line in json.dumps(view, indent=2, ensure_ascii=False).split("\n")]


@click.command(help="Print saved projections of TYPE whose views have these values.", epilog=EXIT_CODES)
@click.argument("type")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--order-by", metavar="FIELD", help="Sort by this field of the views (numbers as numbers).")
@click.option("--descending", is_flag=True, help="The greatest first.")
@click.option("--limit", **whole(1), default=20, show_default=True, help="At most so many.")
@Store.options
def query(
    type: str, match: tuple[str, ...], order_by: str | None, descending: bool, limit: int, **options: Any
) -> None:
    store = Store(**options)
    conditions, order = NEWEST, "id"
    params: list[Any] = [type]
    for field, values in stream_of((), match).match:
        conditions += f" AND data->>'{_checked(field, 'a view')}' = ANY(%s)"
        params.append(list(values))
    if order_by is not None:
        order = f"data->'{_checked(order_by, '--order-by')}'"
    rows = _rows(store.open(), conditions, params, f"{order} DESC" if descending else order, limit)
    if not rows and not store.as_json:
        click.echo(f"No projection of type {printable(type)} is saved with these values.")
    for row in rows:
        click.echo(
            as_text(row)
            if store.as_json
            else f"{click.style(printable(row['id']), bold=True)}  {as_text(row['data'])}"
        )


def _checked(field: str, what: str) -> str:
    try:
        return check_field_name(field)
    except ConfigurationError as error:
        raise click.UsageError(f"{what}: {error}") from error


@click.command(
    help="Print how the view of a projection differs between two moments, with the classes of --app. A "
    "moment is an event's id or a time with its zone.",
    epilog=EXIT_CODES,
)
@click.argument("type")
@click.argument("id")
@click.option("--from", "start", metavar="ID|TIME", default="0", show_default=True, help="The earlier one.")
@click.option("--to", "end", metavar="ID|TIME", help="The later one; by default now.")
@Store.options
def diff(type: str, id: str, start: str, end: str | None, **options: Any) -> None:
    store = Store(**options)
    client = store.own_client()
    projection = projection_of(type)
    then = projection(id, client, as_of=position_of(start, "--from")).as_json()
    until = None if end is None else position_of(end, "--to")
    now = projection(id, client, as_of=until).as_json()
    if store.as_json:
        click.echo(as_text({"then": then, "now": now}))
        return
    name = printable(f"{type} {id}")
    before, after = f"{name} as of {start}", f"{name} as of {end}" if end else f"{name} now"
    changes = list(difflib.unified_diff(_lines(then), _lines(now), before, after, lineterm=""))
    for line in changes or ["No difference."]:
        colour = {"+": "green", "-": "red"}.get(line[0])
        click.echo(click.style(line, fg=colour))


def projection_of(type_name: str) -> Any:
    """The program's projection class of that type."""
    found = {
        cls
        for base in (ProjectionBase, MultiStreamProjectionBase)
        for cls in _subclasses(base)
        if getattr(cls, "projection_type", None) == type_name and not cls.__subclasses__()
    }
    if not found:
        fail(f"the program has no projection class of type {printable(type_name)}")
    if len(found) > 1:
        names = ", ".join(sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in found))
        fail(f"several projection classes are of type {printable(type_name)}: {names}")
    return found.pop()


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
