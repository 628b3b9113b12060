"""Mistakes that the type checkers must find; a comment that is not needed is itself an error."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pgevents import Event, EventClient

from .user_code import CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart, TodoProjection


def mistakes(client: EventClient) -> None:
    CartCreated(cart_id="c1")  # type: ignore[call-arg]
    CartCreated("c1", 5)  # type: ignore[arg-type]
    created = CartCreated("c1", "u1")
    created.cart_id = "c2"  # type: ignore[misc]
    saved: Event[ItemAddedToCart] = client.save_event(created)  # type: ignore[arg-type]
    print(saved)
    for event in client.get_event_stream(CartEvent, cart_id="c1"):
        print(event.data.user_id)  # type: ignore[union-attr]
    print(CartProjection("c1", client).view.usr_id)  # type: ignore[attr-defined]

    TodoProjection("l1", client)  # type: ignore[arg-type]
    client.query_projections(CartProjection("c1", client))  # type: ignore[call-overload]

    def wrong(view: str) -> CartCreated:
        return CartCreated(view, view)

    def of_the_view(view: CartView) -> CartCreated:
        return CartCreated(view.id, view.user_id)

    client.decide(CartProjection("c1", client), of_the_view)
    client.decide(CartProjection("c1", client), wrong)  # type: ignore[arg-type]
