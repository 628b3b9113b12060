"""For the tests of an application: given, when, then; histories; what was saved meanwhile; and stores of a test's own.

pytest finds the fixtures by itself. No server starts before a test asks for one.
"""

from __future__ import annotations

import difflib
import itertools
import os
import pprint
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast, overload
from urllib.parse import quote, urlencode

import attrs
import pytest

from pgevents.errors import ConfigurationError, UnknownEventTypeError
from pgevents.events import Event, EventTypes, event_type_of

if TYPE_CHECKING:
    import peewee

    from pgevents.client import EventClient
    from pgevents.serialization import Serializer
    from pgevents.streams import Stream

__all__ = ["CapturedEvents", "Given", "History", "Outcome", "capture_events", "given", "history"]


# -- histories -------------------------------------------------------------------------------------------------


@attrs.frozen
class History(Sequence[Event[Any]]):
    """Events that happened at known times, as they would stand in a log; made by `history()`.

    Each method returns a new history, so that one past can be continued in several ways.

    Attributes:
        now: When the next events happen.
        events: What has happened so far; ids count from 1.
    """

    now: datetime
    events: tuple[Event[Any], ...] = ()

    def add(self, *events: Any, metadata: Mapping[str, Any] | None = None) -> History:
        """Let events happen now.

        Args:
            *events: Instances of event classes or dicts, as `client.save_event` takes them.
            metadata: For each of them.
        """
        made = [_envelope(given, self.now, metadata) for given in events]
        return attrs.evolve(self, events=_numbered([*self.events, *made]))

    def at(self, now: datetime | str) -> History:
        """Go to a time.

        Args:
            now: With its zone; as text in ISO format.
        """
        return attrs.evolve(self, now=_time(now))

    def later(self, **duration: float) -> History:
        """Let time pass.

        Args:
            **duration: As for `datetime.timedelta`: `days=1`, `minutes=5`.
        """
        return attrs.evolve(self, now=self.now + timedelta(**duration))

    def save(self, client: EventClient) -> list[Event[Any]]:
        """Save the events, with their times.

        Args:
            client: The client of the store; its hooks see the events.

        Returns:
            The saved events, with the ids that the store gave them.
        """
        return [
            client.save_event(
                _shown(one),
                metadata=one.metadata,
                created_at=one.created_at,
            )
            for one in self.events
        ]

    @overload
    def __getitem__(self, index: int) -> Event[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Event[Any]]: ...
    def __getitem__(self, index: int | slice) -> Event[Any] | Sequence[Event[Any]]:
        return self.events[index]

    def __len__(self) -> int:
        return len(self.events)


def history(start: datetime | str, *events: Any) -> History:
    """Begin a history at a time.

    Args:
        start: With its zone; as text in ISO format.
        *events: What happened then.

    Raises:
        ConfigurationError: A time without a zone.

    Example:
        ```python
        past = (
            history("2024-03-01T10:00Z", CartCreated("c1", "u1"))
            .later(minutes=5)
            .add(ItemAddedToCart("c1", "p1", 2, 1999), metadata={"actor": "u1"})
        )
        cart = CartProjection.from_history("c1", past)
        ```
    """
    return History(_time(start)).add(*events)


def _time(value: datetime | str) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", value))
    if value.tzinfo is None:
        raise ConfigurationError(f"{value!r} has no time zone; write 2024-03-01T10:00Z, or give a datetime with tzinfo")
    return value


def _envelope(given: Any, now: datetime, metadata: Mapping[str, Any] | None = None) -> Event[Any]:
    """An event as a read would bring it: its data has been JSON in between, so what cannot be stored fails here."""
    if _class_of(given) is Event:
        saved: Event[Any] = given
        return saved
    known = {**(metadata or {})}
    if isinstance(given, Mapping):
        form = cast("Mapping[str, Any]", given)
        name, data = form["type"], form.get("data", {})
        known |= form.get("metadata", {})
        kind = EventTypes.everything.find(name)
    else:
        kind = event_type_of(_class_of(given))
        name, data = kind.name, given
    plain = _serializer().encode(data, name)
    if kind is not None:
        plain = _serializer().decode(plain, kind.cls, event_id=None, event_type=name)
    return Event(0, name, plain, known, now, now)


def _serializer() -> Serializer:
    global _serializer_made
    if _serializer_made is None:
        from pgevents.serialization import Serializer

        _serializer_made = Serializer()
    return _serializer_made


_serializer_made: Serializer | None = None


def _numbered(events: Iterable[Event[Any]]) -> tuple[Event[Any], ...]:
    return tuple(attrs.evolve(one, id=number) for number, one in enumerate(events, 1))


# -- given, when, then -----------------------------------------------------------------------------------------


def given(*past: Any, client: EventClient | None = None) -> Given:
    """Say what a decision starts from.

    Args:
        *past: In any order: events (instances, dicts, a `history(...)`, saved events), projections that the decision
            rests on, or ready views. Each projection is folded from those of the events that its own streams find.
        client: None: all happens in memory. A client: the events are saved with it at once, and the decision is made
            by `client.decide`, with hooks, locks and the save.

    Raises:
        UnknownEventTypeError: An object that is neither event, projection nor view.

    Example:
        ```python
        def test_a_closed_cart_takes_no_more_items():
            past = [CartCreated("c1", "u1"), CartCheckedOut("c1", NOW)]
            given(CartProjection("c1"), *past).when(add_item, "p1").then(CartClosed)
        ```
    """
    from pgevents.projections import MultiStreamProjectionBase, ProjectionBase

    now = datetime.now(timezone.utc)
    events: list[Event[Any]] = []
    views: list[Any] = []
    one: Any
    for one in past:
        if isinstance(one, (ProjectionBase, MultiStreamProjectionBase)):
            views.append(one)
        elif isinstance(one, (History, list, tuple)):
            events += (_envelope(each, now) for each in cast("Sequence[Any]", one))
        elif _is_event(one):
            events.append(_envelope(one, now))
        elif attrs.has(_class_of(one)):
            views.append(one)
        else:
            raise UnknownEventTypeError(f"given(...) takes events, projections and views, not {one!r}", _class_of(one))
    if client is not None:
        if any(not _is_projection(view) for view in views):
            raise ConfigurationError("a decision in a store rests on projections, not on ready views")
        events = History(now, tuple(events)).save(client)
    return Given(tuple(events) if client is not None else _numbered(events), tuple(views), client)


def _class_of(value: Any) -> Any:
    return value.__class__


def _is_event(value: object) -> bool:
    if isinstance(value, (Event, Mapping)):
        return True
    with suppress(UnknownEventTypeError):
        event_type_of(_class_of(value))
        return True
    return False


@attrs.frozen
class Given:
    """What a decision starts from; made by `given()`.

    Attributes:
        events: What has happened.
        sources: The projections and views, in the order given.
        client: The store's client, or None.
    """

    events: tuple[Event[Any], ...]
    sources: tuple[Any, ...] = ()
    client: EventClient | None = None

    @property
    def views(self) -> tuple[Any, ...]:
        """The views, in the order given."""
        return tuple(source.view if _is_projection(source) else source for source in self.folded())

    @property
    def view(self) -> Any:
        """The view, if there is one: `assert given(CartProjection("c1"), *past).view == CartView(...)`."""
        (view,) = self.views
        return view

    def folded(self) -> tuple[Any, ...]:
        """The projections over the events, and the views as they are."""
        return tuple(self._fold(source) if _is_projection(source) else source for source in self.sources)

    def _fold(self, projection: Any) -> Any:
        if self.client is not None:
            return type(projection)(projection.id, self.client, as_of=projection.as_of)
        wanted: Sequence[Stream[Any]] = projection.get_streams()
        limit: Any = projection.as_of
        own = [one for one in self.events if any(_matches(one, stream) for stream in wanted)]
        if limit is not None:
            own = [one for one in own if limit >= (one.id if isinstance(limit, int) else one.created_at)]
        return _class_of(projection).from_history(projection.id, own, projection.client)

    def when(self, decide: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
        """Decide.

        Args:
            decide: Called with the views, in the order given. Without any: with the client if there is one (a function
                that saves by itself), else with the list of events.
            *args: Passed on after them.
            **kwargs: Passed on.
        """
        outcome = Outcome(self)
        try:
            outcome.decided = tuple(self._decide(decide, args, kwargs))
        except Exception as error:
            outcome.error = error
        return outcome

    def _decide(self, decide: Callable[..., Any], args: Any, kwargs: Any) -> list[Event[Any]]:
        client = self.client
        if client is None:
            first = self.views if self.sources else (list(self.events),)
            return _as_events(decide(*first, *args, **kwargs))
        with capture_events(client, uncommitted=client.db.in_transaction()) as saved:
            if self.sources:

                def decider(*views: Any) -> Any:
                    return decide(*views, *args, **kwargs)

                client.decide(self.folded(), decider)
            else:
                decide(client, *args, **kwargs)
        return list(saved)


def _is_projection(source: object) -> bool:
    return hasattr(source, "get_streams")


def _as_events(decided: Any) -> list[Event[Any]]:
    if decided is None:
        return []
    several: Any = decided if isinstance(decided, (list, tuple)) else [decided]  # pyright: ignore[reportUnknownVariableType]
    now = datetime.now(timezone.utc)
    return [_envelope(one, now) for one in several]


def _matches(event: Event[Any], stream: Stream[Any]) -> bool:
    """Whether a stream finds an event, by the rules of its SQL."""
    if stream.types is not None and event.type not in stream.types:
        return False
    data: Any = _serializer().encode(event.data, event.type) if stream.match else {}
    return all(_json_text(data.get(field)) in values for field, values in stream.match)


def _json_text(value: Any) -> str | None:
    """The text that PostgreSQL's `->>` gives for a JSON value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    return value if value is None or isinstance(value, str) else str(value)


class Outcome:
    """What came of a decision; made by `Given.when()`, and to be checked by `then()`.

    Attributes:
        decided: The events, in their envelopes; saved ones if there is a client.
        error: What was raised instead.
    """

    def __init__(self, before: Given) -> None:
        self.before = before
        self.decided: tuple[Event[Any], ...] = ()
        self.error: Exception | None = None
        self._is_checked = False

    @property
    def events(self) -> list[Any]:
        """The events that were decided, as instances of their classes (or dicts).

        Raises:
            AssertionError: An error was raised instead.
        """
        self._is_checked = True
        if self.error is not None:
            raise AssertionError(f"no event was decided, but {self.error!r} was raised") from self.error
        return [one.data for one in self.decided]

    @property
    def view(self) -> Any:
        """The view when the events that were decided are folded, too."""
        __tracebackhide__ = True
        assert self.events is not None
        if self.before.client is not None:
            return self.before.view
        return attrs.evolve(self.before, events=_numbered([*self.before.events, *self.decided])).view

    def then(self, *expected: Any, match: str | None = None) -> Outcome:
        """Check what was decided.

        Args:
            *expected: All events in order: instances or dicts, or a class for one with any data; nothing for no event.
                Or one error: its class, or an instance with the same message.
            match: A regular expression to be found in the error's message.

        Raises:
            AssertionError: Something else was decided.

        Example:
            ```python
            given(CartProjection("c1"), CartCreated("c1", "u1")).when(add_item, "p1").then(ItemAddedToCart)
            given(CartProjection("c1")).when(add_item, "p1").then(LookupError, match="no cart")
            ```
        """
        __tracebackhide__ = True
        self._is_checked = True
        if len(expected) == 1 and _is_error(expected[0]):
            self._check_error(expected[0], match)
            return self
        if match is not None:
            raise ConfigurationError("match= goes with an error: then(CartClosed, match='c1')")
        self._check_events(expected)
        return self

    def _check_error(self, expected: Any, match: str | None) -> None:
        __tracebackhide__ = True
        error, name = self.error, expected.__name__ if isinstance(expected, type) else repr(expected)
        if error is None:
            raise AssertionError(f"{name} was to be raised, but this was decided: {self.events}")
        kind = cast("type[Exception]", expected if isinstance(expected, type) else type(expected))
        is_same = isinstance(expected, type) or str(error) == str(expected)
        if not isinstance(error, kind) or not is_same:
            raise AssertionError(f"{name} was to be raised, but this was: {error!r}") from error
        if match is not None and not re.search(match, str(error)):
            raise AssertionError(f"{match!r} is not found in the message of {error!r}") from error

    def _check_events(self, expected: Sequence[Any]) -> None:
        __tracebackhide__ = True
        if self.error is not None:
            raise AssertionError(f"events were to be decided, but this was raised: {self.error!r}") from self.error
        wanted = [one if isinstance(one, type) else _shown(_envelope(one, datetime.now(timezone.utc))) for one in expected]
        found = [_shown(one) for one in self.decided]
        for place, (one, event) in enumerate(zip(wanted, self.decided)):
            if isinstance(one, type) and event.type in event_type_of(one).names:
                wanted[place] = found[place]
        if wanted != found:
            old, new = (pprint.pformat(side, width=100).splitlines() for side in (wanted, found))
            diff = "\n".join(line.rstrip() for line in difflib.ndiff(old, new))
            raise AssertionError(f"other events were decided (- expected, + decided):\n{diff}")

    def __del__(self) -> None:
        if not getattr(self, "_is_checked", True):
            warnings.warn("when(...) without then(...): nothing was checked", stacklevel=2)


def _is_error(expected: object) -> bool:
    return isinstance(expected, BaseException) or (isinstance(expected, type) and issubclass(expected, BaseException))


def _shown(event: Event[Any]) -> Any:
    """An event as `client.save_event` takes it."""
    return {"type": event.type, "data": event.data} if _class_of(event.data) is dict else event.data


# -- what is saved meanwhile -----------------------------------------------------------------------------------


class CapturedEvents(list[Event[Any]]):
    """The events that were saved, in order."""

    @property
    def data(self) -> list[Any]:
        """The instances of the event classes (or dicts), without their envelopes."""
        return [event.data for event in self]


@contextmanager
def capture_events(
    client: EventClient, types: Any = None, *, uncommitted: bool = False
) -> Generator[CapturedEvents, None, None]:
    """Collect what is saved by a client while the block runs.

    It is a plugin with one hook: other clients, threads' clients and processes are not seen.

    Args:
        client: The client to watch.
        types: Only events of these types; as for `stream()`.
        uncommitted: True: also what stands in a transaction that is not committed (yet); by default only what is in
            the log.

    Example:
        ```python
        with capture_events(client) as saved:
            check_out(client, "c1")
        assert saved.data == [CartCheckedOut("c1", NOW)]
        ```
    """
    names = EventTypes.everything.names(types)
    captured = CapturedEvents()
    plugin = _capturer(captured, names, "pgevents_after_save" if uncommitted else "pgevents_after_commit")
    client.plugins.register(plugin)
    try:
        yield captured
    finally:
        client.plugins.unregister(plugin)


def _capturer(captured: CapturedEvents, names: Sequence[str] | None, hook: str) -> Any:
    from pgevents.hookspecs import hookimpl

    def collect(self: object, events: Sequence[Event[Any]]) -> None:
        captured.extend(one for one in events if names is None or one.type in names)

    return type("CaptureEvents", (), {hook: hookimpl(collect)})()


# -- fixtures --------------------------------------------------------------------------------------------------

# Dropping what a test made, and making tables anew, takes a third of the time of CREATE DATABASE ... TEMPLATE or less: that
# copies some 300 files.
EMPTY_SQL = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$
DECLARE _schema name;
BEGIN
    SET LOCAL client_min_messages = warning;
    SET LOCAL lock_timeout = '5s';
    FOR _schema IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', _schema);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$
"""


class _Databases:
    """One database for one test after the other, emptied in between."""

    def __init__(self, server: str) -> None:
        import psycopg2
        from psycopg2.extensions import parse_dsn

        self.connect = psycopg2.connect
        self.parts = parse_dsn(server)
        self.server = self.open(self.parts)
        self.numbers = itertools.count(1)
        self.made: list[str] = []
        self.inside: Any = None

    def open(self, parts: Mapping[str, Any]) -> Any:
        connection = self.connect(**parts)
        connection.autocommit = True
        return connection

    def lend(self) -> str:
        if self.inside is None:
            self.made.append(f"pgevents_test_{os.getpid()}_{os.urandom(3).hex()}_{next(self.numbers)}")
            self.server.cursor().execute(f"CREATE DATABASE {self.made[-1]}")
            self.inside = self.open({**self.parts, "dbname": self.made[-1]})
        return "postgresql:///?" + urlencode({**self.parts, "dbname": self.made[-1]}, quote_via=quote)

    def take_back(self) -> None:
        try:
            self.inside.cursor().execute(EMPTY_SQL)
        except Exception:  # a prepared transaction, a schema of another owner, ...: the next test gets another database
            self.inside.close()
            self.inside = None

    def close(self) -> None:
        if self.inside is not None:
            self.inside.close()
        for name in self.made:
            with suppress(Exception):
                self.server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
        self.server.close()


@pytest.fixture(scope="session")
def pgevents_server() -> Iterator[str]:
    """The server of the run: what `PGEVENTS_DATABASE_URL` names, or an embedded one (`pgevents[embedded]`).

    Override it in `conftest.py` for another server: a connection string of a role that may create databases.
    """
    given_url = os.environ.get("PGEVENTS_DATABASE_URL")
    if given_url:
        yield given_url
        return
    from pgevents.embedded import embedded_database

    with embedded_database(durable=False) as db:
        yield cast(Any, db).url


@pytest.fixture(scope="session", name="_pgevents_databases")
def pgevents_databases(pgevents_server: str) -> Iterator[_Databases]:
    """What `pgevents_url` lends from."""
    databases = _Databases(pgevents_server)
    yield databases
    databases.close()


@pytest.fixture
def pgevents_url(_pgevents_databases: _Databases) -> Iterator[str]:
    """The URL of an empty database for one test; connections still open after it are cut."""
    yield _pgevents_databases.lend()
    _pgevents_databases.take_back()


@pytest.fixture
def pgevents_database(pgevents_url: str) -> Iterator[peewee.PostgresqlDatabase]:
    """A Peewee database for one test: empty, to make a client and its tables on."""
    from peewee import PostgresqlDatabase
    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(pgevents_url)
    db: Any = PostgresqlDatabase(parts.pop("dbname"), **parts)
    yield db
    db.close()


@pytest.fixture
def pgevents_client(pgevents_database: peewee.PostgresqlDatabase) -> EventClient:
    """A client with tables `events` and `projections`, no data indexes, and every class made by `@event`."""
    from pgevents import create_event_client, create_events_table, create_projections_table

    client = create_event_client(pgevents_database, create_events_table(), create_projections_table())
    client.create_tables()
    return client
