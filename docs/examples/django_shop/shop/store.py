"""The event store: what happens, what can be seen of it, what is decided."""

import logging

from attrs import frozen

from pgevents import (
    ProjectionBase,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    hookimpl,
    pipeline,
)
from pgevents.django import DjangoDatabase

log = logging.getLogger("shop")


@event
class OrderPlaced:
    tea: str
    order: int
    tins: int


@event
class TinsDelivered:
    tea: str
    tins: int


ShopEvent = OrderPlaced | TinsDelivered


class SoldOut(Exception):
    """Fewer tins are left than were ordered."""


@frozen
class Shelf:
    tea: str
    tins: int = 0


class ShelfProjection(ProjectionBase[Shelf, ShopEvent]):
    projection_type = "SHELF"
    reducers = pipeline(
        tins=lambda tins, event: (
            tins + (event.data.tins if event.type == "TinsDelivered" else -event.data.tins)
        )
    )

    def initial_view(self) -> Shelf:
        return Shelf(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"tea": self.id}


class Letters:
    """What is sent once an order is certain; here only a line in the log."""

    @hookimpl
    def pgevents_after_commit(self, client, events):
        for saved in events:
            if isinstance(saved.data, OrderPlaced):
                log.info("order %s is certain", saved.data.order)


client = create_event_client(
    DjangoDatabase(),
    create_events_table(name="shop_events", data_indexes=["tea"]),
    create_projections_table(name="shop_views"),
    ShopEvent,
    plugins=[Letters()],
)
