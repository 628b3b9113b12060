"""pgevents, as its documentation uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from peewee import PostgresqlDatabase
from psycopg2.extensions import parse_dsn

from pgevents import (
    ConcurrencyError,
    EventStream,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)

from ...shop import CartEvent, CartProjection, CartView
from ..carts import Sample, Shop
from .base import FILL_EVENTS, FILL_VIEWS, FULL_CART, Contender, fold_cart, length

__all__ = ["PgEvents"]


class PgEvents(Contender):
    """The library, as its documentation uses it."""

    tables = "pgevents"
    view_shape: ClassVar[str]
    """What a snapshot of a cart has in `shape`, for rows that are not saved one by one."""

    def open(self) -> None:
        params = parse_dsn(self.url)
        self.db = PostgresqlDatabase(params.pop("dbname"), **params)
        self.client = self._client(self.db, self.shop)

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
        cls.view_shape = CartProjection("c0", made.client).snapshot_key().shape or ""
        made.close()

    @classmethod
    def fill(cls, shop: Shop) -> dict[str, str]:
        return {"shop.events": FILL_EVENTS.format(table="shop.events")}

    @classmethod
    def fill_views(cls) -> dict[str, str]:
        shape = f"ALTER TABLE shop.views ALTER shape SET DEFAULT '{cls.view_shape}'; "
        return {"shop.views": shape + FILL_VIEWS.format(table="shop.views")}

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
        return length(self.client.iter_event_stream())

    def iterate_dicts(self) -> int:
        return length(self._client(self.db, self.shop, types=()).iter_event_stream())

    def fold(self) -> CartView:
        return fold_cart(self.client.iter_event_stream(CartEvent, cart_id="c0"))

    def fold_from_memory(self) -> Callable[[], CartView]:
        """All that is read and decoded before; what is left is the fold."""
        events = list(self.client.iter_event_stream(CartEvent, cart_id="c0"))
        return lambda: fold_cart(events)

    def query(self, user: str) -> int:
        return len(self.client.query_projections(CartProjection, user_id=user))
