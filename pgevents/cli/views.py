"""Commands on projections: show, query, diff."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

import click

from pgevents.errors import ConfigurationError
from pgevents.ids import id_text
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase
from pgevents.snapshots import SavedProjection
from pgevents.terminal import parse_match, printable

from .frame import EXIT_CODES, fail, whole
from .log import position_of
from .show import as_text
from .store import Store

__all__ = ["diff", "projection_classes", "projection_of", "query", "show"]


@click.command(help="Print the saved projection of TYPE and ID.", epilog=EXIT_CODES)
@click.argument("type")
@click.argument("id")
@Store.options
def show(type: str, id: str, **options: Any) -> None:
    store = Store(**options)
    found = store.open().get_projection(type, _id_of(id))
    if found is None:
        fail(f"no projection {printable(type)} {printable(id)} is saved")
    if store.as_json:
        click.echo(as_text(_row(found)))
        return
    click.echo(
        f"{printable(type)} {printable(id)}, version {found.version}, up to event {found.latest_event_id}, "
        f"saved {found.updated_at.isoformat()}"
    )
    for line in _lines(found.data):
        click.echo(line)


def _id_of(text: str) -> Any:
    """An id as it is written: an array of JSON is the tuple that it stands for."""
    try:
        parts: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return tuple(part for part in parts) if text.startswith("[") else text


def _row(saved: SavedProjection[dict[str, Any]]) -> dict[str, Any]:
    """A saved projection as JSON has it."""
    return {
        "type": saved.type,
        "id": id_text(saved.id),
        "data": saved.data,
        "latest_event_id": saved.latest_event_id,
        "version": saved.version,
        "updated_at": saved.updated_at.isoformat(),
    }


def _lines(view: Any) -> list[str]:
    return [printable(line) for line in json.dumps(view, indent=2, ensure_ascii=False).split("\n")]


@click.command(
    help="Print saved projections of TYPE whose views have these values, the newest version of each. A "
    "comparison stands in quotes: 'total>=100', 'state!=done', 'day<2026-02-01'.",
    epilog=EXIT_CODES,
)
@click.argument("type")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE|'FIELD>=VALUE']...")
@click.option(
    "--order-by",
    multiple=True,
    metavar="[-]FIELD",
    help="Sort by this field of the views (numbers as numbers); with -, the greatest first.",
)
@click.option("--descending", is_flag=True, help="The other way round than --order-by says.")
@click.option("--limit", **whole(1), default=20, show_default=True, help="At most this many.")
@click.option("--offset", **whole(0), default=0, help="Leave out this many first.")
@click.option("--version", **whole(0), metavar="N", help="Only this version.")
@click.option("--count", is_flag=True, help="Print how many there are.")
@Store.options
def query(
    type: str,
    match: tuple[str, ...],
    order_by: tuple[str, ...],
    descending: bool,
    limit: int,
    offset: int,
    version: int | None,
    count: bool,
    **options: Any,
) -> None:
    store = Store(**options)
    client = store.open()
    order = [_order(field, descending) for field in order_by or (("id",) if descending else ())]
    try:
        condition: dict[str, Any] = {"data": parse_match(match), "version": version}
        if count:
            click.echo(client.count_projections(type, **condition))
            return
        found = client.query_projections(
            type, order_by=order or None, limit=limit, offset=offset, **condition
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    if not found and not store.as_json:
        click.echo(f"No projection of type {printable(type)} is saved with these values.")
    for saved in found:
        row = _row(saved)
        click.echo(
            as_text(row)
            if store.as_json
            else f"{click.style(printable(row['id']), bold=True)}  {as_text(row['data'])}"
        )


def _order(field: str, is_reverse: bool) -> str:
    if not is_reverse:
        return field
    return field[1:] if field.startswith("-") else f"-{field}"


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
    found = {cls for cls in projection_classes() if cls.projection_type == type_name}
    if not found:
        fail(f"the program has no projection class of type {printable(type_name)}")
    if len(found) > 1:
        names = ", ".join(sorted(f"{cls.__module__}.{cls.__qualname__}" for cls in found))
        fail(f"several projection classes are of type {printable(type_name)}: {names}")
    return found.pop()


def projection_classes() -> list[Any]:
    """The program's projection classes that name a type, without those that others are made from."""
    bases: tuple[Any, ...] = (ProjectionBase, MultiStreamProjectionBase)
    found = [cls for base in bases for cls in _subclasses(base) if not cls.__subclasses__()]
    return [cls for cls in found if isinstance(getattr(cls, "projection_type", None), str)]


def _subclasses(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
