"""What all commands share: errors in one line, the options that name a store, and how events are shown."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import attrs
import click
import peewee
from attrs import frozen

from pgevents.client import EventClient, create_event_client
from pgevents.errors import ConfigurationError, PgEventsError
from pgevents.events import Event
from pgevents.store.checks import find_installed
from pgevents.store.session import Session, open_database
from pgevents.store.tables import TableSpec, create_events_table, create_projections_table
from pgevents.streams import Stream, stream

__all__ = [
    "EXIT_CODES",
    "Commands",
    "Store",
    "event_json",
    "fail",
    "parse_json",
    "run",
    "show_event",
    "stream_of",
]

EXIT_CODES = """\
Exit codes: 0 all is well; 1 something failed, or a check did not hold; 2 the command was not understood, or \
a file is not what it should be; 130 interrupted.
"""
INTERRUPTED = 130

EVENTS_SQL = """\
SELECT n.nspname, left(p.proname, -7) FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE right(p.proname, 7) = '_append' AND starts_with(obj_description(p.oid, 'pg_proc'), 'pgevents ')
ORDER BY 1, 2
"""
PROJECTIONS_SQL = """\
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND 5 = (
    SELECT count(*) FROM pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attname IN ('type', 'id', 'data', 'latest_event_id', 'version'))
ORDER BY 1, 2
"""

F = TypeVar("F", bound=Callable[..., Any])


class Commands(click.Group):
    """A group that tells what PostgreSQL and pgevents refused, rather than showing a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        from pgevents.embedded import EmbeddedServerError

        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if error.name != "rich":
                raise
            fail('rich is missing; it is an extra: pip install "pgevents[cli]"')
        except BrokenPipeError:
            raise
        except (
            PgEventsError,
            peewee.PeeweeException,
            EmbeddedServerError,
            OSError,
            EOFError,
            zlib.error,
        ) as error:
            fail(str(error) or type(error).__name__)


def run(cli: click.Group) -> NoReturn:
    """Run the command that was given; errors are one line on the standard error."""
    for file in (sys.stdout, sys.stderr):
        file.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.Abort:
        click.echo("pgevents: interrupted", err=True)
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            click.echo(f"pgevents: {' '.join(error.format_message().split())}", err=True)
        sys.exit(error.exit_code)


def fail(message: str) -> NoReturn:
    """End with one line and exit code 1."""
    raise click.ClickException(message)


@frozen
class Store:
    """The options of a command that works on a store.

    Attributes:
        url: The database.
        events: Name of the events table, with its schema if need be; None: the only one that there is.
        projections: The same of the projections table.
        as_json: Whether the output is for programs.
    """

    url: str | None
    events: str | None
    projections: str | None
    as_json: bool

    @staticmethod
    def options(function: F) -> F:
        """The options, for a command that takes `**options` and gives them to this class."""
        for option in (
            click.option("--json", "as_json", is_flag=True, help="JSON for programs: one object a line."),
            click.option(
                "--projections",
                metavar="[SCHEMA.]TABLE",
                envvar="PGEVENTS_PROJECTIONS",
                help="The projections table; not needed if there is only one.  [$PGEVENTS_PROJECTIONS]",
            ),
            click.option(
                "--events",
                metavar="[SCHEMA.]TABLE",
                envvar="PGEVENTS_EVENTS",
                help="The events table; not needed if there is only one.  [$PGEVENTS_EVENTS]",
            ),
            click.option(
                "--database",
                "url",
                metavar="URL",
                envvar="PGEVENTS_DATABASE_URL",
                help="postgresql://user:password@host/database  [$PGEVENTS_DATABASE_URL]",
            ),
        ):
            function = option(function)
        return function

    def new(self, indexes: Sequence[str], view_indexes: Sequence[str]) -> EventClient:
        """A client for tables that need not exist."""
        events = create_events_table(*_split(self.events or "events"), data_indexes=indexes)
        schema, name = _split(self.projections or "projections")
        if self.projections is None:
            schema = events.pgevents_spec.schema
        return _client(
            self.url or "postgresql://", events, create_projections_table(schema, name, view_indexes)
        )

    def named(self) -> Store:
        """The same store with the names of its tables, if no events table was named and there is only one."""
        session = Session(self._database())
        found = session.execute(EVENTS_SQL, None).fetchall()
        if self.events is not None or not found:
            return self
        schema, name = _the_only(found, None, "events")
        near = [place for place in session.execute(PROJECTIONS_SQL, None).fetchall() if place[0] == schema]
        views = self.projections or (f"{schema}.{near[0][1]}" if len(near) == 1 else None)
        return attrs.evolve(self, events=f"{schema}.{name}", projections=views)

    def open(self) -> EventClient:
        """A client for the tables that are there."""
        db = self._database()
        session = Session(db)
        schema, name = _the_only(session.execute(EVENTS_SQL, None).fetchall(), self.events, "events")
        fields = find_installed(session.execute, TableSpec("events", name, schema, ())).data_indexes or ()
        found = session.execute(PROJECTIONS_SQL, None).fetchall()
        near = [place for place in found if place[0] == schema]
        view_schema, views = _the_only(near or found, self.projections, "projections")
        return _client(
            db, create_events_table(schema, name, fields), create_projections_table(view_schema, views)
        )

    def _database(self) -> peewee.PostgresqlDatabase:
        if self.url is None:
            raise click.UsageError("which database? Give --database URL, or set PGEVENTS_DATABASE_URL")
        try:
            return open_database(self.url)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error


def _client(db: Any, events: Any, projections: Any) -> EventClient:
    return create_event_client(db, events, projections, ())


def _split(name: str) -> tuple[str | None, str]:
    schema, _, table = name.rpartition(".")
    return schema or None, table


def _the_only(found: Sequence[Any], wanted: str | None, kind: str) -> tuple[str, str]:
    if wanted is not None:
        schema, name = _split(wanted)
        found = [place for place in found if place[1] == name and schema in (None, place[0])]
    if len(found) == 1:
        return found[0][0], found[0][1]
    if not found:
        what = f"no {kind} table {wanted}" if wanted is not None else f"no {kind} table"
        fail(f"there is {what} in this database; pgevents init makes one")
    names = ", ".join(f"{schema}.{name}" for schema, name in found)
    fail(f"there are several {kind} tables: {names}; say which by --{kind}")


def stream_of(types: Sequence[str], match: Sequence[str]) -> Stream[Any]:
    """The stream that `--type` and FIELD=VALUE arguments describe; a field given twice means any of its
    values."""
    values: dict[str, list[str]] = {}
    for part in match:
        field, sign, value = part.partition("=")
        if not sign:
            raise click.UsageError(f"{part}: write FIELD=VALUE, as in cart_id=c1")
        values.setdefault(field, []).append(value)
    try:
        return stream(list(types) or None, data=values)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def parse_json(text: str, what: str) -> dict[str, Any]:
    """A JSON object that was given on the command line."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{what} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise click.UsageError(f'{what} is a JSON object, as in \'{{"cart_id": "c1"}}\'')
    return value  # pyright: ignore[reportUnknownVariableType]


def event_json(event: Event[Any]) -> str:
    """An event on one line, for programs."""
    row = {"id": event.id, "type": event.type, "data": event.data, "metadata": event.metadata}
    return json.dumps({**row, "created_at": event.created_at.isoformat()}, ensure_ascii=False)


def show_event(event: Event[Any], as_json: bool) -> None:
    """Print an event on one line."""
    if as_json:
        click.echo(event_json(event))
        return
    data = json.dumps(event.data, ensure_ascii=False)
    head = f"{event.id:>6}  {click.style(f'{event.created_at:%Y-%m-%d %H:%M:%S}', dim=True)}"
    rest = (
        click.style(f"  {json.dumps(event.metadata, ensure_ascii=False)}", dim=True) if event.metadata else ""
    )
    click.echo(f"{head}  {click.style(event.type, bold=True)}  {data}{rest}")
