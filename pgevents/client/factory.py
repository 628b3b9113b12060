"""`EventClient`, all groups of calls together, and what makes one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import peewee

from pgevents.client.deciding import DecidingCalls
from pgevents.client.joining import JoiningCalls
from pgevents.client.projecting import ProjectionCalls
from pgevents.client.reading import ReadingCalls
from pgevents.client.saving import SavingCalls
from pgevents.client.tables import TableCalls
from pgevents.client.timing import TimingCalls
from pgevents.errors import ConfigurationError, shown
from pgevents.store.connections import open_database
from pgevents.store.tables import EventsModel, ProjectionsModel
from pgevents.type_registry import EventTypes

__all__ = ["EventClient", "create_event_client"]


class EventClient(
    TableCalls, SavingCalls, ReadingCalls, ProjectionCalls, DecidingCalls, JoiningCalls, TimingCalls
):
    """Saves events to one events table and reads them back; made by `create_event_client()`.

    Attributes:
        db: The Peewee database. Calls inside its `db.atomic()` join that transaction; inside
            `joined()` it is the other program's connection.
        events: The model of the events table.
        projections: The model of the projections table.
        plugins: The client's plugins.
        types: The event classes that it knows.
        serializer: Makes JSON of events and views, and the reverse.
        identifiers: Refuses questions whose identifiers would find nothing.
        session: Runs SQL on `db`, and raises its errors in pgevents' terms.
        saver: What every save goes through.
        timers: What is saved later.
    """


def create_event_client(
    db: peewee.PostgresqlDatabase | str,
    events: type[EventsModel],
    projections: type[ProjectionsModel],
    event_types: Any = None,
    *,
    plugins: Iterable[Any] | str = (),
    read_from: Sequence[peewee.PostgresqlDatabase | str] = (),
) -> EventClient:
    """A client for one events table and one projections table.

    Args:
        db: A Peewee `PostgresqlDatabase` (or a subclass, such as a pool), or a URL `postgresql://...`.
        events: From `create_events_table()`.
        projections: From `create_projections_table()`.
        event_types: The event classes that it may save and decodes; by default all that were made by
            `@event`.
        plugins: Instances or modules that implement hooks. "auto", alone or in the list, stands for what
            installed packages offer (see `Plugins.load_installed`); without it none of them is looked for.
        read_from: Physical standbys of `db`, as databases or URLs, which take turns in answering reads that
            only show something: streams and iteration without `final`, single events, saved projections.
            They may be a little behind; `reading_after` asks for what was saved before. Decisions,
            projections that are folded, and everything inside a transaction are read from `db`, and so is
            everything while no standby answers.

    Raises:
        ConfigurationError: Models in the wrong place, or not a PostgreSQL database.
        PluginError: A plugin that cannot be registered.

    Example:
        ```python
        from pgevents import create_event_client, create_events_table, create_projections_table

        client = create_event_client(
            "postgresql://localhost/shop", create_events_table("shop"), create_projections_table("shop")
        )
        ```
    """
    for given, base, factory in (
        (events, EventsModel, "create_events_table"),
        (projections, ProjectionsModel, "create_projections_table"),
    ):
        if not (isinstance(given, type) and issubclass(given, base)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"{shown(given)} is not a model made by {factory}()")
    taken = {events.pgevents_spec.qualified(suffix) for suffix in ("", "_maintenance", "_checkpoints")}
    if projections.pgevents_spec.qualified() in taken:
        raise ConfigurationError(
            f"the projections table cannot be named {projections.pgevents_spec.qualified()}: "
            "the events table has that name, or needs it beside itself"
        )
    database = open_database(db)
    database.bind([events, projections])
    types = EventTypes.everything if event_types is None else EventTypes(event_types)
    if isinstance(read_from, str) or not isinstance(read_from, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"read_from is a list of databases or URLs, not {shown(read_from)}")
    standbys = [open_database(standby) for standby in read_from]
    client = EventClient(database, events, projections, types, standbys)
    if not isinstance(plugins, Iterable) or (isinstance(plugins, str) and plugins != "auto"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f'plugins is a list of plugins, or "auto", not {shown(plugins)}')
    for plugin in ["auto"] if plugins == "auto" else plugins:
        if plugin == "auto":
            client.plugins.load_installed()
        else:
            client.plugins.register(plugin)
    return client
