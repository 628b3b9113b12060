"""Who is compared: the least SQL that does the job, pgevents, and two recorders of the package `eventsourcing`.

The limit has no guard, no order, no check and no types: it is what PostgreSQL and the driver cost when nothing is
promised. The recorders of `eventsourcing` are handed ready-made bytes and give back their own records with bytes in them;
only where a state is needed are these parsed, by `json.loads` and a bare constructor call, and folded by the same
pipeline. All of that is in their favour: their mappers and aggregates would come on top.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import psycopg2
from peewee import PostgresqlDatabase
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    ConcurrencyError,
    Event,
    EventStream,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)

from ..shop import CartEvent, CartItem, CartProjection, CartView
from .carts import Sample, Shop, instance

__all__ = ["CONTENDERS", "PEER_MISSING", "Contender", "connect", "on_database"]

try:
    import psycopg
    from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
    from eventsourcing.dcb.postgres_tt import PostgresDCBRecorderTT
    from eventsourcing.persistence import IntegrityError, StoredEvent
    from eventsourcing.postgres import PostgresAggregateRecorder, PostgresApplicationRecorder, PostgresDatastore

    PEER_MISSING = ""
except ImportError as error:
    PEER_MISSING = f"eventsourcing is not installed ({error.name}): pip install -e '.[bench]'"

PAGE = 5_000
"""Rows that one statement reads where a whole log is read, for every contender."""
FULL_CART = 50
"""A cart that everybody decides on is left for the next one at this size, so that no contender reads longer carts."""
COLUMNS = "id, type, data::text, metadata::text, created_at::text, updated_at::text"


def on_database(url: str, name: str) -> str:
    """The same server's connection string for another database."""
    return make_dsn(**{**parse_dsn(url), "dbname": name})


def connect(url: str) -> Any:
    """A psycopg2 connection in autocommit."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    return connection


class Contender:
    """What the workloads ask for. A contender that cannot do something lacks the method.

    Attributes:
        tables: What it needs; contenders of the same family share them.
    """

    tables = ""

    def __init__(self, url: str, shop: Shop) -> None:
        self.url = url
        self.shop = shop

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect; it may be opened again."""

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        """Make the tables."""

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        """For each table the statement that fills it from the rows of `seed`."""
        return {}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        """The same for the table of snapshots, from the rows of `seed_views`."""
        return {}


RAW_APPEND = """\
CREATE FUNCTION raw_append(_type text, _data jsonb, _cart text, _types text[], _last bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO raw_events (type, data) SELECT _type, _data WHERE NOT EXISTS (
        SELECT FROM raw_events WHERE data->>'cart_id' = _cart AND type = ANY (_types) AND id > _last
    ) RETURNING id INTO _last;
    RETURN _last;
END $$"""
FILL_VIEWS = """\
INSERT INTO {table} (type, id, data, latest_event_id)
SELECT 'SHOPPING_CART', id, data::jsonb, 1 FROM seed_views"""

# -- the limit -------------------------------------------------------------------------------------------------------


class Limit(Contender):
    """Plain statements on a table with the columns, checks and indexes of pgevents' own; everything comes back as text."""

    tables = "limit"

    def open(self) -> None:
        self.connection = connect(self.url)
        self.cursor = self.connection.cursor()
        self.last: dict[str, int] = {}

    def close(self) -> None:
        self.connection.close()

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        PgEvents.create(url, shop)
        connection = connect(url)
        connection.cursor().execute("CREATE TABLE raw_events (LIKE shop.events INCLUDING ALL)")
        connection.cursor().execute("CREATE TABLE raw_views (LIKE shop.views INCLUDING ALL)")
        connection.cursor().execute(RAW_APPEND)
        connection.close()

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        return {"raw_events": "INSERT INTO raw_events (type, data) SELECT type, data::jsonb FROM seed ORDER BY n"}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        return {"raw_views": FILL_VIEWS.format(table="raw_views")}

    def save(self, sample: Sample) -> None:
        self.cursor.execute("INSERT INTO raw_events (type, data) VALUES (%s, %s) RETURNING id", (sample.type, sample.text))
        self.cursor.fetchone()

    save_validated = save

    def save_batch(self, samples: Sequence[Sample]) -> None:
        values = ",".join(["(%s,%s)"] * len(samples))
        pairs = [value for sample in samples for value in (sample.type, sample.text)]
        self.cursor.execute(f"INSERT INTO raw_events (type, data) VALUES {values} RETURNING id", pairs)
        self.cursor.fetchall()

    def read(self, cart: str) -> list[Any]:
        self.cursor.execute(f"SELECT {COLUMNS} FROM raw_events WHERE data->>'cart_id' = %s ORDER BY id", (cart,))
        rows: list[Any] = self.cursor.fetchall()
        return rows

    def snapshot(self, cart: str) -> None:
        view = CartProjection.from_history(cart, []).view
        self.cursor.execute(
            "INSERT INTO raw_views (type, id, data, latest_event_id) VALUES ('SHOPPING_CART', %s, %s,"
            " (SELECT max(id) FROM raw_events WHERE data->>'cart_id' = %s)) ON CONFLICT DO NOTHING",
            (cart, json.dumps(attrs.asdict(view)), cart),
        )

    def read_after_snapshot(self, cart: str) -> list[Any]:
        self.cursor.execute(
            "WITH saved AS (SELECT latest_event_id, data FROM raw_views WHERE type = 'SHOPPING_CART' AND id = %s)\n"
            "SELECT latest_event_id, NULL, data::text, NULL, NULL, NULL FROM saved\n"
            f"UNION ALL (SELECT {COLUMNS} FROM raw_events WHERE data->>'cart_id' = %s"
            " AND id > coalesce((SELECT latest_event_id FROM saved), 0) ORDER BY id)",
            (cart, cart),
        )
        rows: list[Any] = self.cursor.fetchall()
        return rows

    def decide(self, cart: str) -> tuple[int, bool]:
        count = len(self.read(cart))
        if count < FULL_CART:
            event = '{"cart_id":"%s","product_id":"p1","quantity":1,"price_at_time":1999}' % cart
            self.save(Sample("ITEM_ADDED_TO_CART", cart, event, b"", None, []))
        return 1, count >= FULL_CART

    def iterate(self) -> int:
        return self._pages("", ())

    def fold(self) -> int:
        return self._pages("data->>'cart_id' = %s AND ", ("c0",))

    def _pages(self, where: str, params: tuple[str, ...]) -> int:
        last = count = 0
        sql = f"SELECT {COLUMNS} FROM raw_events WHERE {where}id > %s ORDER BY id LIMIT {PAGE}"
        while True:
            self.cursor.execute(sql, (*params, last))
            rows = self.cursor.fetchall()
            count += len(rows)
            if len(rows) < PAGE:
                return count
            last = rows[-1][0]

    def query(self, user: str) -> int:
        self.cursor.execute(
            "SELECT type, id, data::text, latest_event_id, version, created_at::text, updated_at::text FROM raw_views"
            " WHERE type = 'SHOPPING_CART' AND version = 1 AND data->>'user_id' = %s ORDER BY id",
            (user,),
        )
        return len(self.cursor.fetchall())


class Checked(Limit):
    """Check and insert in one statement without any lock: fast, and wrong as soon as two do it at once."""

    SQL = """\
INSERT INTO raw_events (type, data) SELECT %s, %s WHERE NOT EXISTS (
    SELECT FROM raw_events WHERE data->>'cart_id' = %s AND type = ANY (%s) AND id > %s
) RETURNING id"""

    def open(self) -> None:
        super().open()
        self.types = list(self.shop.classes)

    def save_validated(self, sample: Sample) -> None:
        self.cursor.execute(
            self.SQL, (sample.type, sample.text, sample.cart, self.types, self.last.get(sample.cart, 0))
        )
        (self.last[sample.cart],) = self.cursor.fetchone()


class CheckedInFunction(Checked):
    """The same in a function of the server, whose statements keep their plans."""

    SQL = "SELECT raw_append(%s, %s, %s, %s, %s)"


class Copy(Limit):
    """COPY for many rows at once; it returns no ids."""

    def save_batch(self, samples: Sequence[Sample]) -> None:
        lines = "".join(["%s\t%s\n" % (sample.type, sample.text) for sample in samples])
        self.cursor.copy_expert("COPY raw_events (type, data) FROM STDIN", io.StringIO(lines))


# -- pgevents --------------------------------------------------------------------------------------------------------


class PgEvents(Contender):
    """The library, as its documentation uses it."""

    tables = "pgevents"

    def open(self) -> None:
        params = parse_dsn(self.url)
        self.db = PostgresqlDatabase(params.pop("dbname"), **params)
        self.client = self._client(self.db, self.shop)
        self.last: dict[str, int] = {}

    def close(self) -> None:
        self.db.close()

    @staticmethod
    def _client(db: PostgresqlDatabase, shop: Shop, types: Any = None) -> Any:
        events = create_events_table("shop", data_indexes=shop.data_indexes)
        views = create_projections_table("shop", "views", data_indexes=["id", "user_id"])
        return create_event_client(db, events, views, list(shop.classes.values()) if types is None else types)

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        made = cls(url, shop)
        made.open()
        made.client.create_tables()
        made.close()

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        return {"shop.events": "INSERT INTO shop.events (type, data) SELECT type, data::jsonb FROM seed ORDER BY n"}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        return {"shop.views": FILL_VIEWS.format(table="shop.views")}

    def save(self, sample: Sample) -> None:
        self.client.save_event(sample.event)

    def save_validated(self, sample: Sample) -> None:
        shop, cart = self.shop, sample.cart
        saved = self.client.save_event_with_stream_validation(
            sample.event,
            latest_event_id=self.last.get(cart),
            streams=[
                stream([shop.created, shop.checked_out], cart_id=cart),
                stream([shop.added, shop.removed], cart_id=cart),
            ],
        )
        self.last[cart] = saved.id

    def save_batch(self, samples: Sequence[Sample]) -> None:
        self.client.save_events([sample.event for sample in samples])

    def read(self, cart: str) -> EventStream[Any]:
        history: EventStream[Any] = self.client.get_event_stream(CartEvent, cart_id=cart)
        return history

    def read_final(self, cart: str) -> EventStream[Any]:
        history: EventStream[Any] = self.client.get_event_stream(CartEvent, cart_id=cart, final=True)
        return history

    def view(self, cart: str) -> CartView:
        return CartProjection(cart, self.client).view

    def snapshot(self, cart: str) -> None:
        CartProjection(cart, self.client).save_projection()

    def decide(self, cart: str) -> tuple[int, bool]:
        tries = 0

        def add(view: CartView) -> Any:
            nonlocal tries
            tries += 1
            return None if len(view.items) >= FULL_CART else self.shop.added(cart, "p1", 1, 1999)

        try:
            saved = self.client.decide(CartProjection(cart, self.client), add)
        except (ConcurrencyError, RetryableError):
            return -tries, False
        return tries, not saved

    def iterate(self) -> int:
        return _length(self.client.iter_event_stream())

    def iterate_dicts(self) -> int:
        return _length(self._client(self.db, self.shop, types=()).iter_event_stream())

    def fold(self) -> CartView:
        return _fold(self.client.iter_event_stream(CartEvent, cart_id="c0"))

    def fold_from_memory(self) -> Callable[[], CartView]:
        """All that is read and decoded before; what is left is the fold."""
        events = list(self.client.iter_event_stream(CartEvent, cart_id="c0"))
        return lambda: _fold(events)

    def query(self, user: str) -> int:
        return len(self.client.query_projections(CartProjection, user_id=user))


# -- eventsourcing ---------------------------------------------------------------------------------------------------


class _Recorder(Contender):
    """What the two recorders share: a datastore with one connection, in its default settings."""

    def open(self) -> None:
        params = parse_dsn(self.url)
        self.datastore = PostgresDatastore(
            params["dbname"],
            params.get("host", ""),
            params.get("port", "5432"),
            params.get("user", ""),
            params.get("password", ""),
            originator_id_type="text",  # so that it takes the same cart ids as everybody
        )
        self.recorder = self._recorder()
        self.last: dict[str, Any] = {}

    def _recorder(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.datastore.close()

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        made = cls(url, shop)
        made.open()
        made.recorder.create_table()
        made.close()

    def _decoded(self, records: Iterable[tuple[str, bytes]]) -> Iterator[Event[Any]]:
        classes: Any = self.shop.classes
        when: Any = None
        for name, data in records:
            yield Event(0, name, instance(classes[name], json.loads(data)), {}, when, when)

    def _decide(self, view: CartView) -> Sample | None:
        if len(view.items) >= FULL_CART:
            return None
        data = b'{"cart_id":"%s","product_id":"p1","quantity":1,"price_at_time":1999}' % view.id.encode()
        tags = [f"cart_id:{view.id}", "product_id:p1"]
        return Sample("ITEM_ADDED_TO_CART", view.id, "", data, None, tags)


class Dcb(_Recorder):
    """`PostgresDCBRecorderTT`: events with tags, appended if a query finds nothing new."""

    tables = "dcb"

    def _recorder(self) -> Any:
        return PostgresDCBRecorderTT(self.datastore)

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        tags = ", ".join(f"'{one}:' || (data::jsonb->>'{one}')" for one in shop.data_indexes)
        return {
            "dcb_events_tt_main": (
                "INSERT INTO dcb_events_tt_main (type, data, tags) SELECT type, convert_to(data, 'UTF8'),"
                f" array_remove(ARRAY[{tags}], NULL) FROM seed ORDER BY n"
            ),
            "dcb_events_tt_tag": (
                "INSERT INTO dcb_events_tt_tag (tag, main_id) SELECT unnest(tags), id FROM dcb_events_tt_main ORDER BY id"
            ),
        }

    def save(self, sample: Sample) -> None:
        self.recorder.append([DCBEvent(sample.type, sample.data, sample.tags)])

    def save_validated(self, sample: Sample) -> None:
        shop, tags = self.shop, [f"cart_id:{sample.cart}"]
        prefix = shop.prefix
        condition = DCBAppendCondition(
            DCBQuery([
                DCBQueryItem([f"{prefix}CART_CREATED", f"{prefix}CART_CHECKED_OUT"], tags),
                DCBQueryItem([f"{prefix}ITEM_ADDED_TO_CART", f"{prefix}ITEM_REMOVED_FROM_CART"], tags),
            ]),
            self.last.get(sample.cart),
        )
        event = DCBEvent(sample.type, sample.data, sample.tags)
        self.last[sample.cart] = self.recorder.append([event], condition)

    def save_batch(self, samples: Sequence[Sample]) -> None:
        self.recorder.append([DCBEvent(sample.type, sample.data, sample.tags) for sample in samples])

    def _query(self, cart: str) -> Any:
        return DCBQuery([DCBQueryItem([], [f"cart_id:{cart}"])])

    def read(self, cart: str) -> list[Any]:
        return list(self.recorder.read(self._query(cart)))

    def _events(self, found: Iterable[Any]) -> Iterator[Event[Any]]:
        return self._decoded((one.event.type, one.event.data) for one in found)

    def view(self, cart: str) -> CartView:
        return CartProjection.reducers.fold(self._events(self.read(cart)), CartView(cart))

    def decide(self, cart: str) -> tuple[int, bool]:
        query = self._query(cart)
        for tries in itertools.count(1):
            found = list(self.recorder.read(query))
            new = self._decide(CartProjection.reducers.fold(self._events(found), CartView(cart)))
            if new is None:
                return tries, True
            condition = DCBAppendCondition(query, found[-1].position if found else None)
            try:
                self.recorder.append([DCBEvent(new.type, new.data, new.tags)], condition)
            except IntegrityError:
                continue
            return tries, False
        raise AssertionError

    def _pages(self) -> Iterator[Any]:
        last: int | None = None
        while True:
            page = list(self.recorder.read(after=last, limit=PAGE))
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].position

    def iterate(self) -> int:
        return _length(self._pages())

    def iterate_decoded(self) -> int:
        return _length(self._events(self._pages()))

    def fold(self) -> CartView:
        return _fold(self._events(self.recorder.read(self._query("c0"))))  # in pages it finds all for each page anew


class Classic(_Recorder):
    """`PostgresApplicationRecorder`: one sequence of versions for each cart; every save is a validated one."""

    tables = "classic"

    def _recorder(self) -> Any:
        self.snapshots = PostgresAggregateRecorder(self.datastore, events_table_name="snapshots")
        return PostgresApplicationRecorder(self.datastore)

    @classmethod
    def create(cls, url: str, shop: Shop) -> None:
        made = cls(url, shop)
        made.open()
        made.recorder.create_table()
        made.snapshots.create_table()
        made.close()

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        return {
            "stored_events": (
                "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
                " SELECT cart, version, type, convert_to(data, 'UTF8') FROM seed ORDER BY n"
            )
        }

    def _stored(self, sample: Sample) -> Any:
        version = self.last.get(sample.cart, 0) + 1
        self.last[sample.cart] = version
        return StoredEvent(sample.cart, version, sample.type, sample.data)

    def save(self, sample: Sample) -> None:
        self.recorder.insert_events([self._stored(sample)])

    save_validated = save

    def save_batch(self, samples: Sequence[Sample]) -> None:
        self.recorder.insert_events([self._stored(sample) for sample in samples])

    def read(self, cart: str) -> list[Any]:
        return list(self.recorder.select_events(cart))

    def _events(self, found: Iterable[Any]) -> Iterator[Event[Any]]:
        return self._decoded((one.topic, one.state) for one in found)

    def view(self, cart: str) -> CartView:
        return CartProjection.reducers.fold(self._events(self.read(cart)), CartView(cart))

    def snapshot(self, cart: str) -> None:
        last = self.recorder.select_events(cart, desc=True, limit=1)[0].originator_version
        if not self.snapshots.select_events(cart, limit=1):
            state = json.dumps(attrs.asdict(self.view(cart))).encode()
            self.snapshots.insert_events([StoredEvent(cart, last, "CartView", state)])

    def view_after_snapshot(self, cart: str) -> CartView:
        (saved,) = self.snapshots.select_events(cart, desc=True, limit=1)
        fields = json.loads(saved.state)
        view = CartView(**{**fields, "items": tuple(CartItem(**item) for item in fields["items"])})
        return CartProjection.reducers.fold(
            self._events(self.recorder.select_events(cart, gt=saved.originator_version)), view
        )

    def decide(self, cart: str) -> tuple[int, bool]:
        for tries in itertools.count(1):
            found = self.recorder.select_events(cart)
            new = self._decide(CartProjection.reducers.fold(self._events(found), CartView(cart)))
            if new is None:
                return tries, True
            version = found[-1].originator_version + 1 if found else 1
            try:
                self.recorder.insert_events([StoredEvent(cart, version, new.type, new.data)])
            except IntegrityError:
                continue
            return tries, False
        raise AssertionError

    def _pages(self) -> Iterator[Any]:
        last: int | None = None
        while True:
            page = self.recorder.select_notifications(last, PAGE, inclusive_of_start=False)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].id

    def iterate(self) -> int:
        return _length(self._pages())

    def iterate_decoded(self) -> int:
        return _length(self._events(self._pages()))

    def _cart_pages(self) -> Iterator[Any]:
        last: int | None = None
        while True:
            page = self.recorder.select_events("c0", gt=last, limit=PAGE)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].originator_version

    def fold(self) -> CartView:
        return _fold(self._events(self._cart_pages()))


def _length(several: Iterable[Any]) -> int:
    """How many there are, each looked at once."""
    count = 0
    for _ in several:
        count += 1
    return count


def _fold(events: Iterable[Event[Any]]) -> CartView:
    """The one long cart, folded by the pipeline of the README."""
    return CartProjection.reducers.fold(events, CartView("c0"))


CONTENDERS: dict[str, type[Contender]] = {
    "limit": Limit,
    "check": Checked,
    "check in function": CheckedInFunction,
    "copy": Copy,
    "pgevents": PgEvents,
    "dcb": Dcb,
    "classic": Classic,
}
