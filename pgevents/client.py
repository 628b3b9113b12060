"""`EventClient`: save, read, validate, decide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

import attrs
import peewee

from pgevents import saved_views
from pgevents.codec.decoding import Decoder
from pgevents.codec.serialization import Serializer
from pgevents.deciding import Decider, PlainProjection, Projection
from pgevents.errors import ConfigurationError, shown
from pgevents.events import Event, EventTypes
from pgevents.hooks.details import Snapshot
from pgevents.hooks.durability import AfterCommit
from pgevents.hooks.registry import Plugins
from pgevents.identifiers import Identifiers
from pgevents.querying import Question, ViewFields
from pgevents.reducers import Pipeline
from pgevents.saving import Latest, SaveOptions, Saver, position_of
from pgevents.snapshots import Noted, SavedProjection, SaveResult, Snapshots
from pgevents.store import installation
from pgevents.store.append import Appender
from pgevents.store.checks import check_installed
from pgevents.store.grants import grant
from pgevents.store.ordering import Horizon, Position, horizon_of
from pgevents.store.processing import Statements
from pgevents.store.read import AsOf, EventStream, OnUndecodable, Reader
from pgevents.store.session import Session, open_database
from pgevents.store.tables import EventsModel, ProjectionsModel
from pgevents.streams import Stream, stream
from pgevents.waiting import Awaited, wait_for

if TYPE_CHECKING:
    from typing_extensions import TypeForm

__all__ = ["EventClient", "create_event_client", "use_maker"]

T = TypeVar("T")
D = TypeVar("D")
V = TypeVar("V")
W = TypeVar("W")
Maker = Callable[..., Any]
Types = str | Sequence[str | type[Any]] | None
FINAL_WAIT = 10.0
"""Seconds that a final read waits for writers in flight before it names them and gives up."""

_makers: dict[str, Maker] = {}


def use_maker(name: str, maker: Maker) -> None:
    """Take up what makes projections of some kind, from the module of projections, which stands above this
    one."""
    _makers[name] = maker


class EventClient:
    """Saves events to one events table and reads them back; made by `create_event_client()`.

    Attributes:
        db: The Peewee database. Calls inside its `db.atomic()` join that transaction.
        events: The model of the events table.
        projections: The model of the projections table.
        plugins: The client's plugins.
        types: The event classes that it knows.
        serializer: Makes JSON of events and views, and the reverse.
        identifiers: Refuses questions whose identifiers would find nothing.
        session: Runs SQL on `db`, and raises its errors in pgevents' terms.
        saver: What every save goes through.
        hot: Streams that `decide` locks at its first try, and until when by `time.monotonic()`.
    """

    def __init__(
        self,
        db: peewee.PostgresqlDatabase,
        events: type[EventsModel],
        projections: type[ProjectionsModel],
        types: EventTypes,
    ) -> None:
        self.db = db
        self.events = events
        self.projections = projections
        self.types = self._own_types = types
        self.serializer = Serializer()
        self.session = Session(db)
        self.decoder = Decoder(types, self.serializer)
        self.identifiers = Identifiers(self.serializer)
        self.reader = Reader(self.session, events.pgevents_spec, self.decoder, self.identifiers.check)
        self.appender = Appender(self.session, events.pgevents_spec)
        self.snapshots = Snapshots(self.session, projections, self.serializer, events.pgevents_spec)
        self.plugins = Plugins(self, lambda: self.types, self._use_plugins)
        self.saver = Saver(
            self.session,
            self.appender,
            self.reader,
            self.serializer,
            self.decoder,
            self.plugins,
            AfterCommit(db, self.session.in_transaction, self.reader.ids_in_log, self._report_durable),
            self.check_installed,
            types,
        )
        self.decider = Decider(self.session, self.saver, self.plugins, self.check_installed)
        self.hot = self.decider.hot
        self._is_checked = False

    def _report_durable(self, saved: Sequence[Event[Any]]) -> None:
        self.plugins.tell("pgevents_after_commit", events=saved)

    def _use_plugins(self, hooks: frozenset[str]) -> None:
        """Take up what plugins bring; called when any come or go that implement one of these hooks."""
        plugins = self.plugins
        if "pgevents_configure_converter" in hooks:
            self.serializer.use(plugins.converter())
            self.identifiers.forget()
        if "pgevents_register_events" in hooks:
            self.types = self.saver.types = self._own_types.extended(plugins.event_classes())
        if "pgevents_hidden_fields" in hooks:
            self.identifiers.hidden = plugins.hidden_fields()
        is_changed = "pgevents_before_decode" in plugins.implemented
        self.decoder.use(self.types, plugins.before_decode if is_changed else None)
        self.reader.observe = plugins.observed if "pgevents_observe" in plugins.implemented else None

    # -- tables ------------------------------------------------------------

    def create_tables(self, *, grant_writer: str | None = None, grant_reader: str | None = None) -> None:
        """Make schema, tables, indexes, functions and guards, or bring them up to date; safe to call again.

        Tables of an earlier version keep their rows and get the columns that they lack. A snapshot of such a
        table is folded anew.

        Processes that call it at once wait for each other. Functions are replaced only if they differ, and
        then while nobody is in the middle of a save. A table that names no schema is made in the first one of
        the connection's search path.

        The role that calls it owns the tables and can do everything with them. Other roles can do what they
        are granted, here or at a later call.

        Args:
            grant_writer: A role that may save, decide, snapshot and follow the log. The append functions
                insert for it, so that it can neither change nor forge events.
            grant_reader: A role that may read.

        Raises:
            ConfigurationError: A table or index of that name is not pgevents' own, or not complete; the
                database's encoding is SQL_ASCII; or there is no such role. Nothing was changed.
            RetryableError: A transaction that has written to the tables, or has used one that gets new
                columns, did not end within 10 seconds, or another `create_tables()` within a minute; the
                message names it. Nothing was changed, and trying again is safe.
            peewee.PeeweeException: The server refused, for example for lack of a privilege.
        """
        with self.session.atomic():
            installation.install(self.session, self.events, self.projections)
            self.plugins.hook.pgevents_create_tables(client=self)
            for role, may_write in ((grant_writer, True), (grant_reader, False)):
                if role is not None:
                    grant(self.session, self.events, self.projections, role, may_write=may_write)
        self._is_checked = False

    def create_tables_sql(self) -> str:
        """The SQL that `create_tables()` runs on a new database, for review or for a migration tool; without
        the tables of plugins. Tables that name no schema are made in `public`. Tables of an earlier version
        are brought along by `create_tables()` alone."""
        return installation.install_sql(self.events, self.projections)

    def maintenance(self, reason: str) -> AbstractContextManager[None]:
        """A transaction in which the log may be changed by SQL: for redaction, with an audit trail.

        Every UPDATE, DELETE or TRUNCATE of the events table leaves a row in `<events>_maintenance`: when, by
        which role, why, how many events were changed, and the ids of the first 1,000. Of the statement it
        keeps the part before its first value, so that nothing that was erased stands in the trail. The
        reason is kept as it is: name a request, not a person. The owner of the tables can change the trail.

        Blocks nest: the reason of the innermost one counts.

        Args:
            reason: Why, in words.

        Raises:
            ConfigurationError: No reason, or one that is not text.

        Example:
            ```python
            with client.maintenance("erasure request 17"):
                client.db.execute_sql("UPDATE my_app.events SET data = data - 'email' WHERE id = 5")
            ```
        """
        return installation.maintenance(self.session, self.events.pgevents_spec, reason)

    def horizon(self) -> Horizon:
        """Up to where the log can no longer change, and who holds that back."""
        self.check_installed()
        return horizon_of(self.session.execute, self.events.pgevents_spec)

    def check_installed(self) -> None:
        """That tables and functions are there and sound; asked once, before the first save or final read.

        Raises:
            NotInstalledError: They are missing, or others than this client's.
            ConfigurationError: The sequence could give out ids twice or out of order.
        """
        if not self._is_checked:
            check_installed(self.session.execute, self.events.pgevents_spec)
            self._is_checked = True

    # -- waiting ------------------------------------------------------------

    def wait(
        self, subscription: str, event: Awaited, *, timeout: float = 10.0, parked_counts: bool = False
    ) -> Literal["handled", "not followed"]:
        """Wait until a subscription has dealt with an event.

        Args:
            subscription: The subscription's name.
            event: A saved event, a list of them, or an id: then everything up to it.
            timeout: Seconds to wait at most.
            parked_counts: Whether an event that was set aside counts as dealt with.

        Returns:
            "handled", or at once "not followed": the subscription is not about this event.

        Raises:
            WaitError: It is parked, or the subscription is paused or stopped (at once); or it took too long.
                The
                message names who holds the event back, if it is not final.
            ConfigurationError: There is no such subscription; or called in a handler or in a transaction.

        Example:
            ```python
            saved = client.save_event(CartCheckedOut("c1", now()))
            client.wait("invoices", saved, timeout=2)
            ```
        """
        self.check_installed()
        statements = Statements(self.session, self.events.pgevents_spec)
        return wait_for(statements, subscription, event, timeout, parked_counts)

    # -- saving ------------------------------------------------------------

    def save_event(
        self,
        event: T,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> Event[T]:
        """Save one event; see `save_events`."""
        return self.saver.save([event], SaveOptions(metadata, idempotency_key, created_at))[0]

    def save_events(
        self,
        events: Sequence[T],
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> list[Event[T]]:
        """Save events, all or none, in one round trip.

        Args:
            events: Instances of event classes, or dicts `{"type": ..., "data": {...}}`; none is `[]`.
            metadata: A JSON object for each of them; keys that begin with `$` are reserved.
            idempotency_key: A save repeated with its key saves nothing and returns what the first one saved.
            created_at: When they happened, with a time zone (for imports); by default now.

        Returns:
            The saved events, in the order given.

        Raises:
            EventEncodeError: Data that cannot be stored. Nothing was written.
            UnknownEventTypeError: An object that is no event of this client.
            IdempotencyError: The key saved other events before.
            RetryableError: Nothing was written; try again.

        Example:
            ```python
            client.save_events([{"type": "CART_CREATED", "data": {"cart_id": "c1"}}])
            ```
        """
        return self.saver.save(events, SaveOptions(metadata, idempotency_key, created_at))

    def save_event_with_stream_validation(
        self,
        event: T,
        latest_event_id: Latest,
        streams: Sequence[Stream[Any]] | Stream[Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> Event[T]:
        """Save one event if the streams hold nothing new; see `save_events_with_stream_validation`."""
        positions = [self._position(latest_event_id, streams)]
        options = SaveOptions(metadata, idempotency_key, created_at, positions, latest_event_id)
        return self.saver.save([event], options)[0]

    def save_events_with_stream_validation(
        self,
        events: Sequence[T],
        latest_event_id: Latest,
        streams: Sequence[Stream[Any]] | Stream[Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        created_at: datetime | None = None,
    ) -> list[Event[T]]:
        """Save events only if the streams hold exactly what the caller has read.

        Args:
            events: As for `save_events`.
            latest_event_id: The read itself or its `.position`: exact. Or an event or its id: then nothing
                may stand above that id in any of the streams. None: the streams must be empty.
            streams: What the decision rests on. A read knows its own.
            metadata: As for `save_events`.
            idempotency_key: As for `save_events`; a repeated save is recognised before a conflict is
                reported.
            created_at: As for `save_events`.

        Raises:
            ConcurrencyError: Refused, with the ids of the events that the caller had not read. Nothing was
                written.
            ConfigurationError: An id above the last one issued, or streams that the position does not belong
                to.
            RetryableError: Nothing was written; try again.

        Example:
            ```python
            history = client.get_event_stream(cart_id="c1")
            checkout = {"type": "CHECKED_OUT", "data": {"cart_id": "c1"}}
            client.save_events_with_stream_validation([checkout], history)
            ```
        """
        positions = [self._position(latest_event_id, streams)]
        options = SaveOptions(metadata, idempotency_key, created_at, positions, latest_event_id)
        return self.saver.save(events, options)

    def _position(self, latest: Latest, streams: Sequence[Stream[Any]] | Stream[Any] | None) -> Position:
        if streams is not None:
            streams = self.identifiers.check([streams] if isinstance(streams, Stream) else streams)
        return position_of(latest, streams)

    def preview(self, event: T) -> Event[T]:
        """An event in its envelope as it would be saved, with id 0; nothing is written."""
        new = self.saver.new_event(event)
        now = datetime.now(timezone.utc)
        return Event(0, new.type, cast(T, new.data), new.metadata, now, now)

    # -- reading ------------------------------------------------------------

    @overload
    def get_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[D]: ...
    @overload
    def get_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> EventStream[Any]: ...
    def get_event_stream(
        self,
        types: Any = None,
        /,
        *,
        after: int = 0,
        data: Mapping[str, Any] | None = None,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> EventStream[Any]:
        """The events of a stream, ordered by id, with the position to validate a save against.

        Args:
            types: A class, a union of classes, a type's name or a sequence of these; nothing means any.
            after: Only events above this id.
            data: Identifiers by field name, for fields that cannot be written as keywords.
            final: Wait (10 seconds at most) until what is visible now can no longer be joined by a late
                event.
            as_of: Only events up to this id, or created up to this time.
            on_undecodable: What becomes of an event that cannot be read: "raise" an error that names it;
                "skip" it, with a warning in the log `pgevents` and its error in `.undecodable` of the result;
                or hand it over "raw", with `UndecodedData` in place of its data.
            **identifier: Field and value, or a list of values of which any will do.

        Raises:
            ConfigurationError: An identifier of None, or another argument that cannot be meant; or events of
                more than a gigabyte of text at once.
            EventDecodeError: A stored event does not fit its class.
            RetryableError: A final read met a transaction that did not end in time.

        Example:
            ```python
            history = client.get_event_stream(CartEvent, cart_id="c1")
            ```
        """
        self.types.require_current(types)
        wanted = [stream(types, data=data, **identifier)]
        return self.get_event_streams(
            wanted, after=after, final=final, as_of=as_of, on_undecodable=on_undecodable
        )

    def get_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        final: bool = False,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> EventStream[D]:
        """The events of several streams in one order, each event once; arguments as for
        `get_event_stream`."""
        _check_flag(final, "final")
        if not final:
            return self.reader.read(streams, after=after, as_of=as_of, on_undecodable=on_undecodable)
        if as_of is not None:
            raise ConfigurationError(
                "final and as_of exclude each other: the past up to an id is read with as_of alone"
            )
        self.check_installed()
        return self.reader.read_final(streams, after=after, wait=FINAL_WAIT, on_undecodable=on_undecodable)

    @overload
    def iter_event_stream(
        self,
        types: TypeForm[D],
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> Iterator[Event[D]]: ...
    @overload
    def iter_event_stream(
        self,
        types: Types = ...,
        /,
        *,
        after: int = ...,
        data: Mapping[str, Any] | None = ...,
        as_of: AsOf | None = ...,
        on_undecodable: OnUndecodable = ...,
        **identifier: Any,
    ) -> Iterator[Event[Any]]: ...
    def iter_event_stream(
        self,
        types: Any = None,
        /,
        *,
        after: int = 0,
        data: Mapping[str, Any] | None = None,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
        **identifier: Any,
    ) -> Iterator[Event[Any]]:
        """Like `get_event_stream`, one event at a time, for streams of any size: memory stays constant.

        Pages of the index are read as the loop goes on, so it may save events and holds no transaction open.
        An event
        that commits late, below a page that was read, is not seen: who must not miss any follows the log
        (`pgevents.subscriptions`).

        Example:
            ```python
            for event in client.iter_event_stream():
                print(event.id, event.type)
            ```
        """
        self.types.require_current(types)
        return self.reader.pages([stream(types, data=data, **identifier)], after, as_of, on_undecodable)

    def iter_event_streams(
        self,
        streams: Sequence[Stream[D]],
        *,
        after: int = 0,
        as_of: AsOf | None = None,
        on_undecodable: OnUndecodable = "raise",
    ) -> Iterator[Event[D]]:
        """Like `get_event_streams`, one event at a time in constant memory."""
        return self.reader.pages(streams, after, as_of, on_undecodable)

    @overload
    def get_latest_event(
        self,
        types: TypeForm[D],
        /,
        *,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[D] | None: ...
    @overload
    def get_latest_event(
        self,
        types: Types = ...,
        /,
        *,
        data: Mapping[str, Any] | None = ...,
        final: bool = ...,
        **identifier: Any,
    ) -> Event[Any] | None: ...
    def get_latest_event(
        self,
        types: Any = None,
        /,
        *,
        data: Mapping[str, Any] | None = None,
        final: bool = True,
        **identifier: Any,
    ) -> Event[Any] | None:
        """The event of a stream with the greatest id, or None.

        Args:
            types: As for `get_event_stream`.
            data: As for `get_event_stream`.
            final: Wait (10 seconds at most) until no event can appear below it, so that its id may be
                validated against. False: do not wait, for display.
            **identifier: As for `get_event_stream`.

        Raises:
            RetryableError: A transaction that writes to the stream did not end in time; the message names it.

        Example:
            ```python
            latest = client.get_latest_event("CHECKED_OUT", cart_id="c1")
            ```
        """
        _check_flag(final, "final")
        if final:
            self.check_installed()
        return self.reader.latest([stream(types, data=data, **identifier)], final=final, wait=FINAL_WAIT)

    # -- projections ------------------------------------------------------------

    def project(
        self,
        projection_type: str,
        identifiers: Mapping[str, Any],
        reducer: Callable[[V, Event[Any]], V] | Pipeline,
        initial: V | Callable[[], V],
        *,
        types: Any = None,
        version: int = 1,
    ) -> PlainProjection[V]:
        """A projection without a class of its own, for small programs.

        Args:
            projection_type: The name under which it is saved.
            identifiers: The fields and values that its events carry. The value is its id; several are a
                tuple.
            reducer: `(view, event) -> view`, or a pipeline.
            initial: The view before any event (a dict, an attrs class's or a dataclass's instance), or a
                function that makes it.
            types: Which events; by default any that carry the identifiers.
            version: Raise it when the reducer changes.

        Example:
            ```python
            def add(todo, event):
                return {**todo, "items": [*todo["items"], event.data["text"]]}

            todo = client.project("TODO", {"list_id": "l1"}, add, {"items": []})
            print(todo.view["items"])
            ```
        """
        made: PlainProjection[V] = _makers["plain"](
            self, projection_type, identifiers, reducer, initial, types, version
        )
        return made

    def save_projection(self, projection: Projection[V]) -> SaveResult[V]:
        """Save a snapshot of a projection; see `ProjectionBase.save_projection`."""
        if isinstance(projection, type) or not hasattr(projection, "save_projection"):
            raise ConfigurationError(
                f"save_projection takes a projection, such as CartProjection(id, client), not "
                f"{shown(projection)}"
            )
        return projection.save_projection()

    @overload
    def get_projection(self, projection: str, id: Any) -> SavedProjection[dict[str, Any]] | None: ...
    @overload
    def get_projection(self, projection: type[Projection[V]], id: Any) -> SavedProjection[V] | None: ...
    def get_projection(self, projection: Any, id: Any) -> SavedProjection[Any] | None:
        """The snapshot of a projection, if one of its present version is saved.

        Args:
            projection: The projection's class; or its type's name: then the view is a dict, of any version.
            id: Its id.
        """
        return saved_views.get(self.snapshots, self.types, projection, id)

    def delete_projection(self, projection: type[Projection[Any]] | str, id: Any) -> bool:
        """Remove a snapshot, of whatever version. The events stay, so the view can be folded anew.

        Args:
            projection: The projection's class, or its type's name.
            id: Its id.

        Returns:
            Whether there was one.
        """
        return saved_views.delete(self.snapshots, self.types, projection, id)

    @overload
    def query_projections(
        self,
        projection: type[Projection[V]],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> list[SavedProjection[V]]: ...
    @overload
    def query_projections(
        self,
        projection: str,
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> list[SavedProjection[dict[str, Any]]]: ...
    @overload
    def query_projections(
        self,
        projection: Sequence[type[Projection[Any]] | str],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> list[SavedProjection[Any]]: ...
    def query_projections(
        self,
        projection: Any,
        /,
        *,
        where: peewee.Expression | None = None,
        order_by: Any = None,
        limit: int | None = None,
        offset: int | None = None,
        version: int | None = None,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> list[SavedProjection[Any]]:
        """Saved projections whose views have these values.

        Args:
            projection: The projection's class; its type and version are matched. Or its type's name: then
                views are dicts, of any version. Or a list of these.
            where: A Peewee expression, made with `view_fields` or with the projections model, for more.
            order_by: A field of the view or a column of the table, `"-total"` for the greatest first, a
                Peewee expression, or a list of these. The id comes last, so that pages are stable; views
                without the field come at the end.
            limit: At most so many.
            offset: Leave out so many first.
            version: With names alone: only this version.
            data: Values by field name, for fields that cannot be written as keywords.
            **match: Field and value. A list means any of; a field that is an array matches it exactly.
                Numbers, Decimals, dates, times and booleans are compared as what they are.

        Raises:
            ConfigurationError: A field that the view does not have, or a value that its field cannot have; or
                snapshots of this class that were saved before its view had this shape.

        Example:
            ```python
            cart = client.view_fields(CartProjection)
            large = client.query_projections(
                CartProjection, user_id="u1", where=cart.total >= 10_000, order_by=["-total", "id"], limit=10
            )
            ```
        """
        kinds = saved_views.several_asked(self.snapshots, self.types, projection, version)
        question = Question(
            self.projections, kinds, {**(data or {}), **match}, where, order_by, limit, offset
        )
        return saved_views.query(self.snapshots, question)

    def count_projections(
        self,
        projection: type[Projection[Any]] | str | Sequence[type[Projection[Any]] | str],
        /,
        *,
        where: peewee.Expression | None = None,
        version: int | None = None,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> int:
        """How many saved projections have these values; arguments as for `query_projections`."""
        kinds = saved_views.several_asked(self.snapshots, self.types, projection, version)
        return saved_views.count(
            self.snapshots, Question(self.projections, kinds, {**(data or {}), **match}, where)
        )

    def view_fields(
        self, projection: type[Projection[Any]] | str | Sequence[type[Projection[Any]] | str]
    ) -> ViewFields:
        """The fields of saved views as Peewee expressions, for `where=` and `order_by=`.

        Args:
            projection: As for `query_projections`.

        Example:
            ```python
            cart = client.view_fields(CartProjection)
            busy = (cart.total > 100) & cart.user_id.in_(["u1", "u2"])
            found = client.query_projections(CartProjection, where=busy)
            ```
        """
        return ViewFields(self.projections, saved_views.several_asked(self.snapshots, self.types, projection))

    def get_projection_ids(
        self,
        projection: type[Projection[Any]] | str,
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> list[Any]:
        """The ids of all saved projections of a type, of whatever version, in order.

        Args:
            projection: The projection's class, or its type's name.
            data: As for `query_projections`.
            **match: As for `query_projections`.
        """
        asked = saved_views.asked_of(self.snapshots, self.types, projection)
        question = Question(self.projections, [attrs.evolve(asked, version=None)], {**(data or {}), **match})
        return saved_views.ids(self.snapshots, question)

    def refresh_projections(
        self,
        projection: type[Projection[Any]],
        /,
        *,
        ids: Iterable[Any] | None = None,
        anew: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, int]:
        """Fold saved projections on to the present, and save them; those of an older version are folded anew.

        Each is saved by itself, so this may be stopped and called again.

        Args:
            projection: The projection's class.
            ids: Which; by default all that are saved, of whatever version. Ids of which none is saved are
                created.
            anew: Fold from the start, not from the snapshots, as after a redaction.
            progress: Called after each with how many are done, and how many there are.

        Returns:
            How many were "created", "updated" and "skipped".

        Example:
            ```python
            client.refresh_projections(CartProjection, progress=lambda done, of: print(done, "of", of))
            ```
        """
        make: Any = projection
        if not isinstance(projection, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"what is to be folded is named by its class, not {make!r}")
        wanted = self.get_projection_ids(projection) if ids is None else list(ids)
        done = {"created": 0, "updated": 0, "skipped": 0}
        for number, id in enumerate(wanted, 1):
            done[make(id, self, load_existing_projection=not anew).save_projection().status] += 1
            if progress is not None:
                progress(number, len(wanted))
        return done

    def save_snapshot(
        self,
        projection: Projection[V],
        view: V,
        latest_event_id: int,
        events: Sequence[Event[Any]] = (),
        base_saved_at: datetime | None = None,
        *,
        noted: Noted[Any] | None = None,
        anew: bool = False,
    ) -> SaveResult[V] | None:
        """Save a view that is folded from exactly the final events up to an id; `save_projection` does
        that."""
        key = projection.snapshot_key()
        data = self.serializer.encode(view, f"the view of {key.type} {key.id!r}")
        snapshot = Snapshot(key.type, key.id, data, view, latest_event_id, key.version, events, base_saved_at)
        if self.plugins.implemented:
            return self.snapshots.save_with_hooks(self.plugins, snapshot, key, noted, anew=anew)
        return self.snapshots.save(snapshot, key, noted, anew=anew)

    # -- deciding ------------------------------------------------------------

    @overload
    def decide(
        self,
        projections: Projection[V],
        decider: Callable[[V], T | None],
        *,
        retries: int = ...,
        metadata: Mapping[str, Any] | None = ...,
        idempotency_key: str | None = ...,
    ) -> list[Event[Any]]: ...
    @overload
    def decide(
        self,
        projections: tuple[
            Projection[V],
            Projection[W],
        ],
        decider: Callable[[V, W], T | None],
        *,
        retries: int = ...,
        metadata: Mapping[str, Any] | None = ...,
        idempotency_key: str | None = ...,
    ) -> list[Event[Any]]: ...
    @overload
    def decide(
        self,
        projections: Sequence[Projection[Any]],
        decider: Callable[..., Any],
        *,
        retries: int = ...,
        metadata: Mapping[str, Any] | None = ...,
        idempotency_key: str | None = ...,
    ) -> list[Event[Any]]: ...
    def decide(
        self,
        projections: Any,
        decider: Callable[..., Any],
        *,
        retries: int = 5,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> list[Event[Any]]:
        """Read, decide, and save what was decided, only if all that was read still holds; retried on a
        conflict.

        Two tries are optimistic. From the third on, and inside `db.atomic()` at once, the streams are locked
        before they are read, so that a try is never in vain. For a second afterwards, this client locks the
        same streams at the first try.

        Args:
            projections: A projection, or several that the decision rests on.
            decider: Called with the view (or views, in order); returns an event, a list of events, or None
                for nothing, or yields events. It may be called several times, so it should do nothing but
                decide.
            retries: How many times to try again.
            metadata: As for `save_events`.
            idempotency_key: Names the command: repeated with its key, it gives what it saved at first, and
                the decider is not asked. A command that decided nothing has left no trace, so its
                repetition is decided anew.

        Returns:
            The saved events.

        Raises:
            ConcurrencyError: The last try met a conflict, too.
            RetryableError: The last try met a deadlock or a lock timeout.
            StagedEventsError: A projection has staged events, or an `as_of`.
            ConfigurationError: Something else than projections, or an async decider.

        Example:
            ```python
            client.decide(CartProjection("c1", client), lambda cart: CartCheckedOut(cart.id))
            ```
        """
        return self.decider.decide(projections, decider, retries, metadata, idempotency_key)


def _check_flag(given: object, name: str) -> None:
    if type(given) is not bool:
        raise ConfigurationError(f"{name} is True or False, not {shown(given)}")


def create_event_client(
    db: peewee.PostgresqlDatabase | str,
    events: type[EventsModel],
    projections: type[ProjectionsModel],
    event_types: Any = None,
    *,
    plugins: Iterable[Any] | str = (),
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

    Raises:
        ConfigurationError: Models in the wrong place, or a database that is none.
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
    client = EventClient(database, events, projections, types)
    if not isinstance(plugins, Iterable) or (isinstance(plugins, str) and plugins != "auto"):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f'plugins is a list of plugins, or "auto", not {shown(plugins)}')
    for plugin in ["auto"] if plugins == "auto" else plugins:
        if plugin == "auto":
            client.plugins.load_installed()
        else:
            client.plugins.register(plugin)
    return client
