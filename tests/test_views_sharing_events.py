"""An event of several views that is parked for one of them: the others are folded with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from pgevents import Event, EventClient, EventTypes, MultiStreamProjectionBase, event, pipeline, stream
from pgevents.subscriptions import Runner, keep, parked, retry
from pgevents.subscriptions.change import settle
from pgevents.testing import drain

ACCOUNTS = [f"a{n}" for n in range(8)]


@frozen
class Seen:
    id: str
    ids: tuple[int, ...] = ()


@pytest.mark.parametrize("is_said", [False, True], ids=["from streams", "by ids_of"])
def test_an_event_parked_for_one_view_is_not_missing_in_another(
    make_client: Callable[..., EventClient], monkeypatch: pytest.MonkeyPatch, is_said: bool
) -> None:
    """Also where the lane of the other view comes later."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("SENT")
    class Sent:
        cart_id: str
        product_id: str

    def to_ids(seen: Seen, event: Event[Any]) -> Seen:
        if (seen.id, event.id) == ("a0", 2):
            raise ValueError("not for this one")
        return Seen(seen.id, (*seen.ids, event.id))

    class Account(MultiStreamProjectionBase[Seen, Sent]):
        projection_type = "ACCOUNT"
        reducers = pipeline(to_ids)

        def get_stream_options(self) -> Any:
            return [stream(Sent, cart_id=self.id), stream(Sent, product_id=self.id)]

    if is_said:
        Account.ids_of = staticmethod(lambda event: {event.data.cart_id, event.data.product_id})  # type: ignore[attr-defined]
    client = make_client(event_types=[Sent])
    client.create_tables()
    client.save_events([Sent("a0", "a0"), *(Sent("a0", other) for other in ACCOUNTS[1:])])
    client.save_event(Sent("a0", "a1"))
    client.save_events([Sent("a0", other) for other in ACCOUNTS[1:]])
    kept = keep(Account, on_error=retry(1).then_park())
    work = Runner(client, [kept]).works[0]
    settle(work)
    work.setup()
    ((hashed,),) = client.db.execute_sql("SELECT hashtextextended('a0', 0)").fetchall()
    work.keeper.step(work, [hashed % work.lanes], 1)  # this lane alone
    assert [one.event_id for one in parked(client, work.name)][:1] == [2]
    client.save_event(Sent("a0", "a0"))
    work.keeper.step(work, range(work.lanes), work.lanes)
    drain(client, [kept])
    for other in ACCOUNTS[1:]:
        saved = client.get_projection(Account, other)
        assert saved is not None and saved.data == Account(other, client, load_existing_projection=False).view
