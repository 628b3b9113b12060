"""An order that is cancelled when it is not paid in time: a process manager and its timer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from attrs import frozen

from pgevents import (
    Event,
    EventClient,
    ProjectionBase,
    cancel,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    later,
    pipeline,
)
from pgevents.subscriptions import subscription

IN_TIME = timedelta(minutes=30)


@event("LAB_ORDER_PLACED")
class OrderPlaced:
    order_id: str


@event("LAB_PAYMENT_TIMED_OUT")
class PaymentTimedOut:
    order_id: str


@event("LAB_ORDER_PAID")
class OrderPaid:
    order_id: str


@event("LAB_ORDER_CANCELLED")
class OrderCancelled:
    order_id: str


OrderEvent = OrderPlaced | PaymentTimedOut | OrderPaid | OrderCancelled


@frozen
class Order:
    id: str
    state: str = "new"


STATES = {OrderPlaced: "placed", OrderPaid: "paid", OrderCancelled: "cancelled"}


def to_state(state: str, event: Event[OrderEvent]) -> str:
    return STATES.get(type(event.data), state)


class OrderProjection(ProjectionBase[Order, OrderEvent]):
    projection_type = "LAB_ORDER"
    reducers = pipeline(state=to_state)

    def initial_view(self) -> Order:
        return Order(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"order_id": self.id}


def orders_client(db: Any) -> EventClient:
    events = create_events_table(schema="my_app", name="events", data_indexes=["order_id"])
    return create_event_client(
        db, events, create_projections_table(schema="my_app", name="views"), OrderEvent
    )


def place(client: EventClient, order_id: str, until: datetime | None = None) -> None:
    """Place an order that is to be paid until then, or in half an hour."""
    after = None if until else IN_TIME

    def decide(order: Order) -> list[Any]:
        timeout = later(PaymentTimedOut(order.id), at=until, after=after, key=f"pay {order.id}")
        return [OrderPlaced(order.id), timeout]

    client.decide(OrderProjection(order_id, client), decide)


def pay(client: EventClient, order_id: str) -> None:
    """Pay an order, if it still can be."""

    def decide(order: Order) -> list[Any]:
        return [OrderPaid(order.id), cancel(f"pay {order.id}")] if order.state == "placed" else []

    client.decide(OrderProjection(order_id, client), decide, retries=20)


@subscription("lab payments", PaymentTimedOut, key="order_id", lanes=4)
def time_out(event: Event[PaymentTimedOut], client: EventClient) -> None:
    """Cancel the order, unless it is paid."""

    def decide(order: Order) -> OrderCancelled | None:
        return OrderCancelled(order.id) if order.state == "placed" else None

    client.decide(OrderProjection(event.data.order_id, client), decide)


@subscription("lab payments", PaymentTimedOut, key="order_id", lanes=4)
def time_out_without_deciding(event: Event[PaymentTimedOut], client: EventClient) -> None:
    """A broken one: it believes that a timer which fired was not cancelled in time."""
    client.save_event(OrderCancelled(event.data.order_id))
