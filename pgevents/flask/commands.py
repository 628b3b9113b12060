"""`flask pgevents`: the commands of an app's event store."""

from __future__ import annotations

import json
from typing import Any

import click
import peewee
from flask.cli import AppGroup

from pgevents.embedded import EmbeddedServerError
from pgevents.errors import ConfigurationError, NotInstalledError, PgEventsError
from pgevents.flask.context import active_store
from pgevents.flask.processing import run
from pgevents.streams import stream
from pgevents.terminal import parse_match, printable

__all__ = ["commands"]

PROJECTIONS_SQL = """\
SELECT type, id, version, latest_event_id, updated_at, data::text
FROM {table} WHERE (%(type)s IS NULL OR type = %(type)s) AND (%(id)s IS NULL OR id = %(id)s)
ORDER BY type, id, version
"""


class _Commands(AppGroup):
    """A group of commands whose errors are shown in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (PgEventsError, EmbeddedServerError, peewee.PeeweeException) as error:
            hint = ", or: flask pgevents init" if isinstance(error, NotInstalledError) else ""
            raise click.ClickException(f"{str(error).strip()}{hint}") from error


commands = _Commands("pgevents", help="The app's event store.")
commands.add_command(run)


@commands.command()
@click.option("--sql", is_flag=True, help="Print the SQL instead, for a migration tool.")
def init(sql: bool) -> None:
    """Create the tables and their functions, or bring them up to date."""
    client = active_store().client
    if sql:
        click.echo(client.create_tables_sql())
    else:
        client.create_tables()
        click.echo(f"{client.events.pgevents_spec.qualified()} is ready.")


@commands.command()
def demo() -> None:
    """Create the tables, and run the demonstration that the app defines."""
    store = active_store()
    if store.demo is None:
        raise click.ClickException("this app defines no demonstration: PgEvents(app, demo=function)")
    store.client.create_tables()
    store.demo()
    click.echo("Done; to see what is there: flask pgevents events")


@commands.command()
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--type", "types", multiple=True, help="Only this type; may be given several times.")
@click.option(
    "--limit", type=click.IntRange(1, 2**63 - 1), default=20, show_default=True, help="At most this many."
)
def events(match: tuple[str, ...], types: tuple[str, ...], limit: int) -> None:
    """Show the newest events, the last at the bottom."""
    client = active_store().client
    try:
        wanted = stream(types or None, data=parse_match(match) or None)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    sql, params = client.reader.select([wanted], 0, None, tail=f"ORDER BY id DESC LIMIT {limit}")
    rows = client.session.execute(sql, params).fetchall()
    for event_id, event_type, data, metadata, created_at, _ in reversed(rows):
        line = printable(f"{event_id:>5}  {created_at:.19}  {event_type}  {data}")
        click.echo(f"{line}  {printable(metadata)}" if metadata else line)
    if not rows:
        click.echo("No events.")


@commands.command()
@click.argument("type", required=False)
@click.argument("id", required=False)
def projections(type: str | None, id: str | None) -> None:
    """List the saved projections, or with TYPE and ID show the content of one."""
    client = active_store().client
    sql = PROJECTIONS_SQL.format(table=client.projections.pgevents_spec.qualified())
    rows = client.session.execute(sql, {"type": type, "id": id}).fetchall()
    for projection_type, projection_id, version, latest, updated_at, data in rows:
        click.echo(
            f"{printable(projection_type)} {printable(projection_id)}  version {version}, "
            f"up to event {latest}, saved {updated_at:%Y-%m-%d %H:%M:%S}"
        )
        if id is not None:
            for line in json.dumps(json.loads(data), indent=2, ensure_ascii=False).split("\n"):
                click.echo(printable(line))
    if not rows:
        click.echo("No projections.")
