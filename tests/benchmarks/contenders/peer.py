"""Two recorders of the package `eventsourcing`, in their default settings.

They are handed ready-made bytes and give back their own records with bytes in them; only where a state is
needed are these parsed, by `json.loads` and a bare constructor call, and folded by the same pipeline. All of
that is in their
favour: their mappers and aggregates would come on top.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs
from psycopg2.extensions import parse_dsn

from pgevents import Event

from ...shop import CartItem, CartProjection, CartView
from ..carts import Sample, Shop, instance
from .base import FULL_CART, PAGE, Contender, fold_cart, length

__all__ = ["PEER_MISSING", "Classic", "Dcb"]

try:
    from eventsourcing.dcb.api import DCBAppendCondition, DCBEvent, DCBQuery, DCBQueryItem
    from eventsourcing.dcb.postgres_tt import PostgresDCBRecorderTT
    from eventsourcing.persistence import IntegrityError, StoredEvent
    from eventsourcing.postgres import (
        PostgresAggregateRecorder,
        PostgresApplicationRecorder,
        PostgresDatastore,
    )

    PEER_MISSING = ""
except ImportError as error:
    PEER_MISSING = f"eventsourcing is not installed ({error.name}): pip install -e '.[bench]'"


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
                "INSERT INTO dcb_events_tt_tag (tag, main_id)"
                " SELECT unnest(tags), id FROM dcb_events_tt_main ORDER BY id"
            ),
        }

    def save(self, sample: Sample) -> None:
        self.recorder.append([DCBEvent(sample.type, sample.data, sample.tags)])

    def save_validated(self, sample: Sample) -> None:
        shop, tags = self.shop, [f"cart_id:{sample.cart}"]
        prefix = shop.prefix
        condition = DCBAppendCondition(
            DCBQuery(
                [
                    DCBQueryItem([f"{prefix}CART_CREATED", f"{prefix}CART_CHECKED_OUT"], tags),
                    DCBQueryItem([f"{prefix}ITEM_ADDED_TO_CART", f"{prefix}ITEM_REMOVED_FROM_CART"], tags),
                ]
            ),
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
        return length(self._pages())

    def iterate_decoded(self) -> int:
        return length(self._events(self._pages()))

    def fold(self) -> CartView:
        # All at once: the query of a page finds all that match first.
        return fold_cart(self._events(self.recorder.read(self._query("c0"))))


class Classic(_Recorder):
    """`PostgresApplicationRecorder`: one sequence of versions for each cart; every save is a validated
    one."""

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
        return length(self._pages())

    def iterate_decoded(self) -> int:
        return length(self._events(self._pages()))

    def _cart_pages(self) -> Iterator[Any]:
        last: int | None = None
        while True:
            page = self.recorder.select_events("c0", gt=last, limit=PAGE)
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1].originator_version

    def fold(self) -> CartView:
        return fold_cart(self._events(self._cart_pages()))
