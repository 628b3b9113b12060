"""Events from which no view can be told: texts that are no ids of the projection, and what `ids_of` cannot
say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from pgevents import Event, EventClient, EventTypes, MultiStreamProjectionBase, event, pipeline, stream
from pgevents.subscriptions import (
    SubscriptionReport,
    far_folding,
    keep,
    overview,
    parked,
    replay,
    resume,
    retry,
    view_folding,
)
from pgevents.testing import drain

Make = Callable[..., EventClient]
KEPT = "view SEATS 1 in views"


@frozen
class Seats:
    id: int
    count: int = 0
    last: int = 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("TAKEN")
    class Taken:
        cart_id: str
        product_id: str = ""
        seat: int = 0

    return Taken


@pytest.fixture
def seats(taken: Any) -> Any:
    class SeatsProjection(MultiStreamProjectionBase[Seats, Any]):
        projection_type = "SEATS"
        id: int
        reducers = pipeline(count=lambda count, event: count + 1, last=lambda last, event: event.id)

        def get_stream_options(self) -> Any:
            return [stream(taken, cart_id=str(self.id))]

    return SeatsProjection


def said(cls: Any) -> Any:
    """The same class, which says whose view an event changes."""
    cls.ids_of = staticmethod(lambda event: {event.data.cart_id})
    return cls


def check(client: EventClient, cls: Any, ids: list[int]) -> None:
    for number in ids:
        whole = cls(number, client, load_existing_projection=False)
        saved = client.get_projection(cls, number)
        assert saved is not None and saved.data == whole.view


@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize(
    ("text", "is_said"),
    [("abc", False), ("007", False), ("", False), ("[1]", False), ("abc", True), ("", True)],
)
def test_a_text_that_is_no_id_holds_up_no_other_view(
    make_client: Make,
    taken: Any,
    seats: Any,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    is_said: bool,
    is_far: bool,
) -> None:
    """It is parked under its text, with what comes behind it; trying again changes nothing."""
    monkeypatch.setattr(view_folding, "PAGE", 4)
    if is_far:
        monkeypatch.setattr(far_folding, "FAR", 4)
    cls = said(seats) if is_said else seats
    client = make_client(event_types=[taken])
    client.create_tables()
    for _ in range(4):
        client.save_events([taken(str(number)) for number in range(5)])
        client.save_event(taken(text))
    kept = keep(cls, lanes=1, on_error=retry(1).then_park())
    for _ in range(2):
        drain(client, [kept])
        check(client, cls, list(range(5)))
        waiting = parked(client, KEPT)
        assert [(one.key, one.event_id, one.state) for one in waiting] == [
            (text, 6, "parked"),
            *((text, id, "queued") for id in (12, 18, 24)),
        ]
        replay(client, KEPT)


def status(client: EventClient) -> SubscriptionReport:
    (found,) = (one for one in overview(client) if one.name == KEPT)
    return found


@pytest.mark.parametrize("fault", ["data", "ids_of"])
def test_an_event_of_which_ids_of_cannot_say_whose_it_is_is_not_passed(
    make_client: Make, taken: Any, seats: Any, fault: str
) -> None:
    """It may change any view: the keeping stops there, until the event can be read."""
    client, cls = make_client(event_types=[taken]), said(seats)
    client.create_tables()
    client.save_events([taken(str(n % 3), seat=n) for n in range(9)])
    if fault == "data":
        change(client, '{"seat": []}')
    else:
        cls.ids_of = staticmethod(refusing)
    drain(client, [keep(cls)])
    assert status(client).state == "stopped"
    assert "event 5: SeatsProjection.ids_of cannot say whose views it changes" in str(status(client))
    assert list(client.query_projections(cls, partial="allow")) == []
    if fault == "data":
        change(client, '{"seat": 4}')
    said(cls)
    resume(client, KEPT)
    drain(client, [keep(cls)])
    check(client, cls, [0, 1, 2])
    assert status(client).state == "active"


def change(client: EventClient, data: str) -> None:
    with client.maintenance("an odd value"):
        client.db.execute_sql("UPDATE my_app.events SET data = data || %s WHERE id = 5", [data])


def refusing(event: Event[Any]) -> set[str]:
    if event.id == 5:
        raise KeyError("seat")
    return {event.data.cart_id}
