"""The hotel: a stay books each of its nights, all of them or none."""

from datetime import date, timedelta
from typing import Annotated

from attrs import frozen
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from app.errors import Refused
from app.store import AsyncEventClient, current_store
from pgevents import ProjectionBase, event, pipeline

router = APIRouter(prefix="/hotel")
Store = Annotated[AsyncEventClient, Depends(current_store)]


@event
class NightBooked:
    night: str  # room and day: what can be booked once
    guest: str


@event
class NightFreed:
    night: str


HotelEvent = NightBooked | NightFreed


@frozen
class Night:
    night: str
    guest: str | None = None


class NightProjection(ProjectionBase[Night, HotelEvent]):
    projection_type = "NIGHT"
    reducers = pipeline(
        guest=lambda _, event: event.data.guest if isinstance(event.data, NightBooked) else None
    )

    def initial_view(self) -> Night:
        return Night(self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"night": self.id}


class Stay(BaseModel):
    room: int
    first: date
    nights: int = Field(gt=0, le=30)
    guest: str

    def all_nights(self) -> list[str]:
        return [f"{self.room} {self.first + timedelta(days=day)}" for day in range(self.nights)]


@router.post("/stays", status_code=201)
async def book(stay: Stay, store: Store) -> dict[str, list[str]]:
    def decide(*nights: Night) -> list[NightBooked]:
        taken = [night.night for night in nights if night.guest is not None]
        if taken:
            raise Refused(f"taken: {', '.join(taken)}")
        return [NightBooked(night.night, stay.guest) for night in nights]

    nights = [NightProjection(night, store.client) for night in stay.all_nights()]
    saved = await store.decide(tuple(nights), decide)
    return {"nights": [event.data.night for event in saved]}


@router.delete("/stays", status_code=204)
async def cancel(stay: Stay, store: Store) -> None:
    def decide(*nights: Night) -> list[NightFreed]:
        if any(night.guest != stay.guest for night in nights):
            raise Refused("this is not your stay")
        return [NightFreed(night.night) for night in nights]

    nights = [NightProjection(night, store.client) for night in stay.all_nights()]
    await store.decide(tuple(nights), decide)


@router.get("/nights/{room}/{day}")
async def night(room: int, day: date, store: Store) -> dict[str, str | None]:
    return {"guest": (await store.view(NightProjection(f"{room} {day}", store.client))).guest}
