"""Commands on saved projections: show, query."""

from __future__ import annotations

import json
from typing import Any

import click
import peewee

from pgevents.client import EventClient
from pgevents.streams import check_field_name

from .frame import EXIT_CODES, Store, fail, stream_of

__all__ = ["query", "show"]


def _rows(client: EventClient, where: Any, order_by: Any, limit: int | None) -> list[dict[str, Any]]:
    model: Any = client.projections
    columns = (model.type, model.id, peewee.Cast(model.data, "text"), model.latest_event_id, model.version)
    query = model.select(*columns, model.updated_at).where(where).order_by(*order_by).limit(limit)
    names = ("type", "id", "data", "latest_event_id", "version", "updated_at")
    return [
        dict(zip(names, (*row[:2], json.loads(row[2]), *row[3:5], row[5].isoformat()), strict=True))
        for row in client.session.execute(*query.sql()).fetchall()
    ]


@click.command(epilog=EXIT_CODES)
@click.argument("type")
@click.argument("id")
@Store.options
def show(type: str, id: str, **options: Any) -> None:
    """Print the saved projection of TYPE and ID."""
    store = Store(**options)
    client = store.open()
    model = client.projections
    rows = _rows(client, (model.type == type) & (model.id == id), [model.id], None)
    if not rows:
        fail(f"no projection {type} {id} is saved")
    if store.as_json:
        click.echo(json.dumps(rows[0], ensure_ascii=False))
        return
    row = rows[0]
    click.echo(
        f"{type} {id}, version {row['version']}, up to event {row['latest_event_id']}, "
        f"saved {row['updated_at']}"
    )
    click.echo(json.dumps(row["data"], indent=2, ensure_ascii=False))


@click.command(epilog=EXIT_CODES)
@click.argument("type")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--order-by", metavar="FIELD", help="Sort by this field of the views (numbers as numbers).")
@click.option("--descending", is_flag=True, help="The greatest first.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@Store.options
def query(
    type: str, match: tuple[str, ...], order_by: str | None, descending: bool, limit: int, **options: Any
) -> None:
    """Print saved projections of TYPE whose views have these values."""
    store = Store(**options)
    wanted = stream_of((), match)
    client = store.open()
    model = client.projections
    where: Any = model.type == type
    for field, values in wanted.match:
        where &= peewee.Expression(peewee.SQL(f"\"t1\".data->>'{field}'"), "IN", peewee.Value(values))
    key: Any = model.id if order_by is None else peewee.SQL(f"\"t1\".data->'{check_field_name(order_by)}'")
    rows = _rows(client, where, [key.desc() if descending else key, model.id], limit)
    if not rows and not store.as_json:
        click.echo(f"No projection of type {type} is saved with these values.")
    for row in rows:
        data = json.dumps(row["data"], ensure_ascii=False)
        click.echo(
            json.dumps(row, ensure_ascii=False)
            if store.as_json
            else f"{click.style(row['id'], bold=True)}  {data}"
        )
