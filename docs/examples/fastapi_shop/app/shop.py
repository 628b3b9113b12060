"""The shop: tins on a shelf, and orders for them."""

from typing import Annotated

from attrs import frozen
from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, Field

from app.errors import Refused
from app.store import AsyncEventClient, current_store
from pgevents import ProjectionBase, event, pipeline

router = APIRouter(prefix="/shop")
Store = Annotated[AsyncEventClient, Depends(current_store)]


@event
class TinsDelivered:
    tea: str
    tins: int


@event
class TinsOrdered:
    tea: str
    tins: int
    customer: str


ShopEvent = TinsDelivered | TinsOrdered


@frozen
class Shelf:
    tea: str
    tins: int = 0


class ShelfProjection(ProjectionBase[Shelf, ShopEvent]):
    projection_type = "SHELF"
    reducers = pipeline(
        tins=lambda tins, event: (
            tins + event.data.tins if isinstance(event.data, TinsDelivered) else tins - event.data.tins
        )
    )

    def initial_view(self) -> Shelf:
        return Shelf(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"tea": self.id}


class Delivery(BaseModel):
    tins: int = Field(gt=0)


class Order(BaseModel):
    tins: int = Field(gt=0)
    customer: str


@router.get("/{tea}")
async def shelf(tea: str, store: Store) -> dict[str, int]:
    return {"tins": (await store.view(ShelfProjection(tea, store.client))).tins}


@router.post("/{tea}/deliveries", status_code=201)
async def deliver(tea: str, delivery: Delivery, store: Store) -> dict[str, int]:
    saved = await store.save_event(TinsDelivered(tea, delivery.tins))
    return {"event": saved.id}


@router.post("/{tea}/orders", status_code=201)
async def order(
    tea: str, order: Order, store: Store, idempotency_key: Annotated[str | None, Header()] = None
) -> dict[str, int]:
    def decide(shelf: Shelf) -> TinsOrdered:
        if shelf.tins < order.tins:
            raise Refused(f"{shelf.tins} tins of {tea} are left")
        return TinsOrdered(tea, order.tins, order.customer)

    (saved,) = await store.decide(ShelfProjection(tea, store.client), decide, idempotency_key=idempotency_key)
    return {"event": saved.id}
