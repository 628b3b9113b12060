"""The options that name a store, and the clients that commands work with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import click
import peewee
from attrs import evolve, frozen

from pgevents.client import EventClient, create_event_client
from pgevents.errors import ConfigurationError
from pgevents.store.checks import find_installed
from pgevents.store.connections import open_database
from pgevents.store.layout import TableSpec
from pgevents.store.session import Session
from pgevents.store.tables import create_events_table, create_projections_table
from pgevents.streams import Stream, stream
from pgevents.terminal import parse_match

from .application import add_plugins, load_client
from .frame import fail

__all__ = ["Store", "is_on_command_line", "store_options", "stream_of"]

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
WHICH = "which database? Give --database URL, or set PGEVENTS_DATABASE_URL"
EMBEDDED = "embedded:"

F = TypeVar("F", bound=Callable[..., Any])

OPTIONS: tuple[tuple[tuple[str, ...], str | None, dict[str, Any]], ...] = (
    (
        ("--database", "url"),
        "PGEVENTS_DATABASE_URL",
        {"metavar": "URL", "help": "postgresql://user:password@host/database, or embedded:FOLDER."},
    ),
    (
        ("--events",),
        "PGEVENTS_EVENTS",
        {"metavar": "[SCHEMA.]TABLE", "help": "The events table; not needed if there is only one."},
    ),
    (
        ("--projections",),
        "PGEVENTS_PROJECTIONS",
        {"metavar": "[SCHEMA.]TABLE", "help": "The projections table; not needed if there is only one."},
    ),
    (
        ("--app",),
        "PGEVENTS_APP",
        {
            "metavar": "MODULE:NAME",
            "help": "Your program's client, or a Flask app: its database, tables, event classes and plugins.",
        },
    ),
    (
        ("--tenant",),
        "PGEVENTS_TENANT",
        {"metavar": "NAME", "help": "Whose events, where --app names Tenants."},
    ),
    (
        ("--plugin", "plugins"),
        None,
        {
            "metavar": "MODULE[:NAME]",
            "multiple": True,
            "help": "A plugin for what is saved; auto: all installed ones. May be given again.",
        },
    ),
    (("--json", "as_json"), None, {"is_flag": True, "help": "JSON for programs: one object a line."}),
)
NAMES = ("url", "events", "projections", "app", "tenant", "plugins", "as_json")


def store_options(function: F) -> F:
    """The options before the command (`pgevents --json tail`), which may also come from the environment."""
    for names, variable, settings in reversed(OPTIONS):
        option_settings: dict[str, Any] = dict(settings)
        if variable is not None:
            option_settings |= {"envvar": variable, "help": f"{settings['help']}  [${variable}]"}
        function = click.option(*names, **option_settings)(function)
    return function


@frozen
class Store:
    """The options of a command that works on a store.

    Attributes:
        url: The database.
        events: Name of the events table, with its schema if need be; None: the only one that there is.
        projections: Likewise of the projections table.
        app: Where the program's own client is.
        tenant: Whose client, if there are many.
        plugins: Where more plugins are.
        as_json: Whether the output is for programs.
    """

    url: str | None
    events: str | None
    projections: str | None
    app: str | None
    tenant: str | None
    plugins: tuple[str, ...]
    as_json: bool

    @staticmethod
    def options(function: F) -> F:
        """The same options, for a command that takes `**options` and gives them to this class.

        An option after the command replaces the same one before it.
        """

        @functools.wraps(function)
        def command(**given: Any) -> Any:
            before = click.get_current_context().find_root().params
            merged = {name: given.pop(name) or before.get(name) for name in NAMES}
            return function(**given, **merged)

        wrapped: Any = command
        for names, _, settings in reversed(OPTIONS):
            wrapped = click.option(*names, **settings)(wrapped)
        return cast(F, wrapped)

    def new(
        self, indexes: Sequence[str], view_indexes: Sequence[str], *, needs_database: bool
    ) -> EventClient:
        """A client for tables that may not be there yet.

        Args:
            indexes: The data indexes of the events table.
            view_indexes: Those of the projections table.
            needs_database: Whether a missing database is an error.
        """
        if self.app is not None:
            if indexes or view_indexes:
                raise click.UsageError("--app has tables and indexes of its own; leave out --index")
            return self._own_client(self.app)
        events = create_events_table(*_split(self.events or "events"), data_indexes=indexes)
        schema, name = _split(self.projections or "projections")
        if self.projections is None:
            schema = events.pgevents_spec.schema
        views = create_projections_table(schema, name, view_indexes)
        db = self._database() if needs_database else open_database("postgresql://")
        return add_plugins(create_event_client(db, events, views, None), self.plugins)

    def named(self) -> Store:
        """The same store with the names of its tables, if no events table was named and there is only one."""
        session = Session(self._database())
        found = session.execute(EVENTS_SQL, None).fetchall()
        if self.events is not None or not found:
            return self
        schema, name = _the_only(found, None, "events")
        near = [place for place in session.execute(PROJECTIONS_SQL, None).fetchall() if place[0] == schema]
        views = self.projections or (f"{schema}.{near[0][1]}" if len(near) == 1 else None)
        return evolve(self, events=f"{schema}.{name}", projections=views)

    def open(self) -> EventClient:
        """A client that reads the tables that are there, without classes and plugins: what is stored."""
        if self.app is not None:
            app_client = self._own_client(self.app)
            return create_event_client(app_client.db, app_client.events, app_client.projections, ())
        db = self._database()
        session = Session(db)
        schema, name = _the_only(session.execute(EVENTS_SQL, None).fetchall(), self.events, "events")
        spec = TableSpec("events", name, schema, ())
        fields = find_installed(session.execute, spec).data_indexes or ()
        found = session.execute(PROJECTIONS_SQL, None).fetchall()
        near = [place for place in found if place[0] == schema]
        view_schema, views = _the_only(near or found, self.projections, "projections")
        events = create_events_table(schema, name, fields)
        return create_event_client(db, events, create_projections_table(view_schema, views), ())

    def writer(self, reader: EventClient) -> EventClient:
        """The client that saves: with the classes and plugins that were given.

        Args:
            reader: What `open` gave.
        """
        if self.app is not None:
            return self._own_client(self.app)
        client = create_event_client(reader.db, reader.events, reader.projections, ())
        return add_plugins(client, self.plugins)

    def own_client(self) -> EventClient:
        """The program's client, for what needs its classes."""
        if self.app is None:
            raise click.UsageError("this needs the classes of your program: --app MODULE:NAME of its client")
        return self._own_client(self.app)

    def _own_client(self, app: str) -> EventClient:
        if self.url is not None and is_on_command_line("url"):
            raise click.UsageError("--app brings its own database; leave out --database")
        meta = click.get_current_context().find_root().meta
        if "pgevents.app" not in meta:
            meta["pgevents.app"] = add_plugins(load_client(app, self.tenant), self.plugins)
        return cast(EventClient, meta["pgevents.app"])

    def _database(self) -> peewee.PostgresqlDatabase:
        """The one database of this command."""
        if self.tenant is not None:
            raise click.UsageError("--tenant goes with --app MODULE:NAME of your program's Tenants")
        if self.url is None:
            raise click.UsageError(WHICH)
        meta = click.get_current_context().find_root().meta
        if "pgevents.database" not in meta:
            meta["pgevents.database"] = self._opened(self.url)
        return cast(peewee.PostgresqlDatabase, meta["pgevents.database"])

    def _opened(self, url: str) -> peewee.PostgresqlDatabase:
        if url.startswith(EMBEDDED):
            from pgevents.embedded import embedded_database

            folder = url.removeprefix(EMBEDDED)
            if not folder:
                raise click.UsageError("which folder? --database embedded:FOLDER")
            return click.get_current_context().find_root().with_resource(embedded_database(folder))
        try:
            return open_database(url)
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error


def is_on_command_line(name: str) -> bool:
    context: click.Context | None = click.get_current_context()
    while context is not None:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            return True
        context = context.parent
    return False


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
    """The stream that `--type` and conditions on fields describe; a field given twice means any of its
    values."""
    try:
        return stream(list(types) or None, data=parse_match(match) or None)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
