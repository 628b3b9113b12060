"""Handlers with effects outside whose decisions save nothing, or not at the first try: keys of their own."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pgevents import Event, EventClient, later
from pgevents.subscriptions import replay, retry, subscription
from pgevents.testing import drain

from .shop import CartCheckedOut, CartCreated, CartProjection, ItemAddedToCart


def test_a_decision_that_saved_nothing_keeps_its_place_among_the_keys(client: EventClient) -> None:
    """When the event comes again and it saves something, what comes after it is not saved again."""
    given: list[list[str]] = []

    @subscription("gifts", CartCreated, key="cart_id", effects="outside", on_error=retry(1).then_park())
    def give(event: Event[CartCreated], client: EventClient) -> None:
        is_again = bool(given)
        first = client.decide(
            CartProjection("gift", client), lambda _: [ItemAddedToCart("gift", "first", 1, 0)] * is_again
        )
        second = client.decide(
            CartProjection("card", client), lambda _: ItemAddedToCart("card", "second", 1, 0)
        )
        given.append([saved.data.product_id for saved in (*first, *second)])
        if not is_again:
            raise ConnectionError("after the saves")

    client.save_event(CartCreated("c1", "u1"))
    drain(client, [give])
    replay(client, "gifts")
    drain(client, [give])
    assert given == [["second"], ["first", "second"]]
    assert [item.data.product_id for item in client.get_event_stream(ItemAddedToCart)] == ["second", "first"]


def test_a_decision_that_saves_at_a_later_try_has_a_key_of_its_own(
    client: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """Its first try is refused before it saves; it does not take the key of the save before it."""
    other, tries = make_client(), list[int]()

    @subscription("gifts", CartCreated, effects="outside")
    def give(event: Event[CartCreated], client: EventClient) -> None:
        client.save_event(ItemAddedToCart("gift", "before", 1, 0))

        def decide(_: Any) -> Any:
            tries.append(1)
            if len(tries) == 1:
                other.save_event(ItemAddedToCart("card", "meanwhile", 1, 0))
                return later(CartCheckedOut("card", event.created_at), after=timedelta(days=1))
            return ItemAddedToCart("card", "decided", 1, 0)

        client.decide(CartProjection("card", client), decide)

    client.save_event(CartCreated("c1", "u1"))
    drain(client, [give])
    items = [item.data.product_id for item in client.get_event_stream(ItemAddedToCart)]
    assert items == ["before", "meanwhile", "decided"]
