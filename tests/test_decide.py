"""Deciding: read, decide, save, and again if something came between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    ProjectionBase,
    StagedEventsError,
    everything,
)

from .shop import CartCheckedOut, CartCreated, CartProjection, CartView, ItemAddedToCart

Make = Callable[..., EventClient]


class CartClosed(Exception):
    pass


def add_item(cart: CartView) -> ItemAddedToCart:
    if cart.is_checked_out:
        raise CartClosed(cart.id)
    return ItemAddedToCart(cart.id, f"p{len(cart.items)}", 1, 5)


def intrude(client: EventClient, times: int) -> Callable[[CartView], ItemAddedToCart]:
    """A decider during which another client saves, so many times."""
    left = [times]

    def decider(cart: CartView) -> ItemAddedToCart:
        if left[0]:
            left[0] -= 1
            client.save_event(CartCreated(cart.id, "intruder"))
        return ItemAddedToCart(cart.id, "p", 1, 5)

    return decider


def test_a_decision_is_saved_and_seen(client: EventClient) -> None:
    """The saved events are returned, and the projection shows them afterwards."""
    cart = CartProjection("c1", client)
    saved = client.decide(cart, add_item)
    assert [one.data for one in saved] == [ItemAddedToCart("c1", "p0", 1, 5)]
    assert cart.view.total == 5
    assert [one.id for one in client.decide(cart, lambda view: [add_item(view), add_item(view)])] == [2, 3]
    assert client.decide(cart, lambda view: ()) == client.decide(cart, lambda view: None) == []
    assert len(client.get_event_stream()) == 3


def test_a_refusal_of_the_decider_comes_through(client: EventClient) -> None:
    """What the decider raises is raised, at the first try, and nothing is saved."""
    client.save_event(
        {"type": "CART_CHECKED_OUT", "data": {"cart_id": "c1", "checked_out_at": "2024-01-01T00:00:00Z"}}
    )
    with pytest.raises(CartClosed):
        client.decide(CartProjection("c1", client), add_item)
    assert len(client.get_event_stream()) == 1


def test_a_conflict_is_decided_anew(client: EventClient, make_client: Make) -> None:
    """When somebody else was faster, the decision is made again on what then stands."""
    saved = client.decide(CartProjection("c1", client), intrude(make_client(), 1))
    assert saved[0].id == 2
    assert len(client.get_event_stream()) == 2


def test_giving_up_tells_the_last_conflict(client: EventClient, make_client: Make) -> None:
    """After the last retry the conflict is raised, with the number of tries."""
    with pytest.raises(ConcurrencyError) as caught:
        client.decide(CartProjection("c1", client), intrude(make_client(), 9), retries=1)
    assert caught.value.attempts == 2
    assert caught.value.conflicting_ids
    assert client.get_event_stream(ItemAddedToCart, cart_id="c1").position.count == 0


def test_the_third_try_locks_before_it_reads(client: EventClient, make_client: Make) -> None:
    """After two tries in vain the streams are locked first, so that nobody can come between."""
    other = make_client()
    tries = []

    def decider(cart: CartView) -> ItemAddedToCart:
        tries.append(client.db.in_transaction())
        if len(tries) < 3:
            other.save_event(CartCreated("c1", "intruder"))
        else:
            other.db.execute_sql("SET lock_timeout = '100ms'")
            with pytest.raises(Exception, match="lock timeout"):
                other.save_event(CartCreated("c1", "intruder"))
            other.save_event(CartCreated("c2", "somebody else"))
        return ItemAddedToCart(cart.id, "p", 1, 5)

    assert client.decide(CartProjection("c1", client), decider)
    assert tries == [False, False, True]


def test_a_decision_may_rest_on_several_projections(client: EventClient, make_client: Make) -> None:
    """Views come in order; a change in any of them is a conflict."""
    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u2")])
    other, seen = make_client(), []

    def decider(one: CartView, two: CartView) -> ItemAddedToCart:
        if not seen:
            other.save_event(ItemAddedToCart("c2", "p", 1, 5))
        seen.append((one.user_id, len(two.items)))
        return ItemAddedToCart(one.id, "p", 1, 5)

    client.decide((CartProjection("c1", client), CartProjection("c2", client)), decider)
    assert seen == [("u1", 0), ("u1", 1)]


def test_inside_a_transaction_it_locks_at_once_and_belongs_to_it(client: EventClient) -> None:
    """In the caller's `atomic()` a decision is part of the whole: rolled back with it."""
    with pytest.raises(ZeroDivisionError), client.db.atomic():
        assert client.decide(CartProjection("c1", client), add_item)[0].id == 1
        assert client.decide(CartProjection("c1", client), add_item)[0].data.product_id == "p1"
        1 / 0  # noqa: B018
    assert len(client.get_event_stream()) == 0


def test_a_decision_can_be_repeated_by_its_key(client: EventClient) -> None:
    """With an idempotency key, the same decision again returns what the first one saved."""

    def create(cart: CartView) -> CartCreated:
        return CartCreated(cart.id, "u1")

    first = client.decide(CartProjection("c1", client), create, idempotency_key="k", metadata={"by": "test"})
    assert client.decide(CartProjection("c1", client), create, idempotency_key="k") == first
    assert len(client.get_event_stream()) == 1
    assert first[0].metadata == {"by": "test"}


def test_only_the_saved_present_can_be_decided_on(client: EventClient) -> None:
    """Staged events, hand-fed history and the past are no ground for a decision."""
    client.save_event(CartCreated("c1", "u1"))
    staged = CartProjection("c1", client).apply(ItemAddedToCart("c1", "p", 1, 5))
    fed = CartProjection.from_history("c1", client.get_event_stream(), client)
    for projection in (staged, fed, CartProjection("c1", client, as_of=1)):
        with pytest.raises(StagedEventsError):
            client.decide(projection, add_item)


@pytest.mark.parametrize("arguments", [((), 5), ([], 5)])
def test_nothing_to_decide_on_is_refused(client: EventClient, arguments: Any) -> None:
    """A decision needs a projection, and a number of retries from 0 on."""
    with pytest.raises(ConfigurationError, match="at least one projection"):
        client.decide(arguments[0], add_item)
    with pytest.raises(ConfigurationError, match="0 or more"):
        client.decide(CartProjection("c1", client), add_item, retries=-1)


def test_no_decision_is_lost_among_eight_threads(client: EventClient, make_client: Make) -> None:
    """Eight writers add to one cart by decisions; every item is there, numbered without gap or repetition."""
    errors: list[BaseException] = []

    def work() -> None:
        own = make_client()
        try:
            for _ in range(5):
                own.decide(CartProjection("c1", own), add_item)
        except BaseException as error:
            errors.append(error)
        own.db.close()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [item.product_id for item in CartProjection("c1", client).view.items] == [
        f"p{n}" for n in range(40)
    ]


def test_a_decision_takes_a_projection_of_any_class(client: EventClient) -> None:
    """The projection's class need not carry the client's event types; its streams are what counts."""

    class Whole(ProjectionBase[CartView, Any]):
        projection_type = "EVERYTHING"

        def initial_view(self) -> CartView:
            return CartView(self.id)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return everything

    client.save_event(CartCreated("c1", "u1"))
    assert client.decide(Whole("all", client), lambda view: CartCheckedOut("c1", _now())) != []


def _now() -> Any:
    from datetime import datetime, timezone

    return datetime.now(timezone.utc)
