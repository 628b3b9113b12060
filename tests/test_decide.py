"""Deciding: read, decide, save, and again if something came between."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    IdempotencyError,
    PgEventsError,
    ProjectionBase,
    StagedEventsError,
    create_event_client,
    create_events_table,
    create_projections_table,
    everything,
    hookimpl,
)
from pgevents.deciding import kind_of

from .shop import CartCheckedOut, CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart

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


def check_out_once(cart: CartView) -> CartCheckedOut:
    if cart.is_checked_out:
        raise CartClosed(cart.id)
    return CartCheckedOut(cart.id, _now())


@pytest.mark.parametrize(
    "decider",
    [
        check_out_once,
        lambda cart: None if cart.is_checked_out else CartCheckedOut(cart.id, _now()),
        lambda cart: CartCheckedOut(cart.id, _now()),
        lambda cart: [CartCheckedOut(cart.id, _now())] * (1 + cart.is_checked_out),
    ],
    ids=["refuses when done", "decides nothing when done", "decides by the clock", "decides more"],
)
def test_a_command_that_is_repeated_gives_its_first_result(
    client: EventClient, make_client: Make, decider: Callable[[CartView], Any]
) -> None:
    """The key names the command: the decider is not asked again, whatever it would say now, in another
    process or in a transaction, and when others have saved since."""
    first = client.decide(CartProjection("c1", client), decider, idempotency_key="k")
    client.save_event(ItemAddedToCart("c1", "p", 1, 5))
    other = make_client()
    asked: list[CartView] = []

    def note(cart: CartView) -> Any:
        asked.append(cart)
        return decider(cart)

    assert other.decide(CartProjection("c1", other), note, idempotency_key="k") == first
    with other.db.atomic():
        assert other.decide(CartProjection("c1", other), note, idempotency_key="k") == first
    assert not asked and len(client.get_event_stream()) == 2


def test_two_that_decide_one_command_at_once_get_the_same(client: EventClient, make_client: Make) -> None:
    """The one who comes second, after it had looked for the key, is given what the first one saved."""
    other = make_client()

    def decider(cart: CartView) -> ItemAddedToCart:
        if not cart.items:
            other.decide(
                CartProjection("c1", other),
                lambda cart: [ItemAddedToCart("c1", "theirs", 1, 5)] * 2,
                idempotency_key="k",
            )
        return ItemAddedToCart("c1", "ours", 1, 5)

    saved = client.decide(CartProjection("c1", client), decider, idempotency_key="k")
    assert [event.data.product_id for event in saved] == ["theirs", "theirs"]
    assert len(client.get_event_stream()) == 2


@pytest.mark.parametrize("nothing", [None, [], ()], ids=repr)
def test_a_command_that_decided_nothing_is_not_decided_anew(
    client: EventClient, make_client: Make, nothing: Any
) -> None:
    """Its first result is nothing, also for another process, in a transaction, and when others have saved
    since. Another save of that key is refused."""
    assert client.decide(CartProjection("c1", client), lambda view: nothing, idempotency_key="k") == []
    client.save_event(CartCreated("c1", "u1"))
    other = make_client()
    cart = CartProjection("c1", other)
    assert other.decide(cart, add_item, idempotency_key="k") == []
    with other.db.atomic():
        assert other.decide(cart, add_item, idempotency_key="k") == []
    with pytest.raises(IdempotencyError, match="'k' is of an empty decision"):
        other.save_event(CartCreated("c2", "u1"), idempotency_key="k")
    assert other.get_saved("k") == [] and len(other.get_event_stream()) == 1
    assert len(other.decide(cart, add_item, idempotency_key="k2")) == 1


def test_a_command_that_decides_nothing_while_another_saves_gives_what_was_saved(
    client: EventClient, make_client: Make
) -> None:
    """And the other way round: whoever comes second gets the first result."""
    other = make_client()

    def nothing_but(first: Any, second: Any) -> Callable[[CartView], Any]:
        def decider(cart: CartView) -> Any:
            if not cart.items:
                other.decide(CartProjection(cart.id, other), lambda view: first, idempotency_key=cart.id)
            return second

        return decider

    item = ItemAddedToCart("c1", "p1", 1, 5)
    saved = client.decide(CartProjection("c1", client), nothing_but(item, None), idempotency_key="c1")
    assert [event.data for event in saved] == [item]
    item = ItemAddedToCart("c2", "p1", 1, 5)
    assert client.decide(CartProjection("c2", client), nothing_but(None, item), idempotency_key="c2") == []
    assert len(client.get_event_stream()) == 1


def test_programs_that_decide_one_command_at_once_all_get_the_same(
    client: EventClient, make_client: Make
) -> None:
    """Whether it saves something or nothing is chosen by each at random."""
    clients, keys = [make_client() for _ in range(6)], [f"k{n}" for n in range(40)]
    results: dict[str, list[list[int]]] = {key: [] for key in keys}
    start = threading.Barrier(len(clients))

    def decide_all(own: EventClient) -> None:
        for key in keys:
            start.wait(30)
            cart = CartProjection(key, own)
            saved = own.decide(cart, lambda view: random.choice([None, add_item(view)]), idempotency_key=key)
            results[key].append([event.id for event in saved])

    threads = [threading.Thread(target=decide_all, args=(own,)) for own in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(len(found) == len(clients) for found in results.values())
    assert [key for key, found in results.items() if any(ids != found[0] for ids in found)] == []
    saved = {ids[0] for found in results.values() for ids in found if ids}
    assert saved == {event.id for event in client.get_event_stream()} and 0 < len(saved) < len(keys)


def test_an_empty_decision_is_recorded_with_the_transaction_around_it(client: EventClient) -> None:
    """Rolled back, the command is new."""
    cart = CartProjection("c1", client)
    with pytest.raises(ZeroDivisionError), client.db.atomic():
        assert client.decide(cart, lambda view: None, idempotency_key="k") == []
        1 / 0  # noqa: B018
    assert len(client.decide(cart, add_item, idempotency_key="k")) == 1


# -- what is taken for a decision ------------------------------------------------------------


def yields(cart: CartView) -> Any:
    yield ItemAddedToCart(cart.id, "p1", 1, 5)
    if cart.items:
        raise CartClosed(cart.id)
    yield ItemAddedToCart(cart.id, "p2", 1, 5)


def test_a_decider_may_yield_events(client: EventClient) -> None:
    """They are saved together; what it raises on the way saves nothing."""
    saved = client.decide(CartProjection("c1", client), yields)
    assert [event.data.product_id for event in saved] == ["p1", "p2"]
    with pytest.raises(CartClosed):
        client.decide(CartProjection("c1", client), yields)
    assert len(client.decide(CartProjection("c2", client), lambda cart: (e for e in yields(cart)))) == 2
    assert len(client.decide(CartProjection("c3", client), lambda cart: deque(yields(cart)))) == 2
    assert len(client.get_event_stream()) == 6


async def add_later(cart: CartView) -> ItemAddedToCart:
    return add_item(cart)


async def yield_later(cart: CartView) -> Any:
    yield add_item(cart)


@pytest.mark.parametrize(
    ("decider", "words"),
    [
        (add_later, "async"),
        (yield_later, "async"),
        (lambda cart: add_later(cart), "async"),
        (lambda cart: yield_later(cart), "async"),
        (lambda cart: {add_item(cart)}, "a set, which has no order"),
        (lambda cart: [add_item(cart), None], "a list with None in it"),
        (lambda cart: False, "bool"),
        (lambda cart: ItemAddedToCart, "ItemAddedToCart is a class; an event is an instance"),
        (lambda cart: "ITEM_ADDED", "str"),
        (CartCreated("c1", "u1"), "a decider is a function"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_no_decision_is_refused(client: EventClient, decider: Any, words: str) -> None:
    """Async functions, sets, classes, truth values: the error says what is meant, and nothing is saved."""
    with pytest.raises(PgEventsError, match=words):
        client.decide(CartProjection("c1", client), decider)
    assert len(client.get_event_stream()) == 0


def test_a_view_of_another_log_is_no_premise(client: EventClient, make_client: Make) -> None:
    """Its position could be one of this log, too."""
    other = make_client()
    client.save_event(CartCreated("c1", "u1"))
    events = create_events_table(schema="my_app", name="other", data_indexes=["cart_id"])
    views = create_projections_table(schema="my_app", name="other_views")
    beside = create_event_client(client.db, events, views, CartEvent)
    beside.create_tables()
    beside.save_event(CartCreated("c1", "u2"))
    for reader in (other, beside):
        with pytest.raises(ConfigurationError, match="reads another log"):
            client.decide(CartProjection("c1", reader), lambda cart: ItemAddedToCart("c1", "p1", 1, 1))
    assert len(client.get_event_stream()) == 1


def test_what_is_no_projection_is_refused(client: EventClient) -> None:
    """A class, a dict, an id, or both arguments exchanged."""
    cart: Any = CartProjection("c1", client)
    for given, words in (
        (CartProjection, r"CartProjection is a class.*CartProjection\(id, client\)"),
        ([CartProjection], "is a class"),
        ({"cart": cart}, "a list or tuple of them"),
        ("c1", "takes a projection"),
        (add_item, "first the projection"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            client.decide(cast(Any, given), add_item)
    with pytest.raises(ConfigurationError, match="first the projection"):
        client.decide(cast(Any, add_item), cart)
    for retries in ("5", True, 1.5, None):
        with pytest.raises(ConfigurationError, match="whole number"):
            client.decide(cart, add_item, retries=cast(Any, retries))


# -- transactions and plugins ------------------------------------------------------------


@pytest.mark.parametrize("is_hot", [False, True])
def test_a_transaction_begun_without_peewee_is_joined(
    client: EventClient, make_client: Make, is_hot: bool
) -> None:
    """A raw BEGIN: the decision is part of it, and the caller's ROLLBACK
    takes
    back
    all."""
    client.db.execute_sql("CREATE TABLE app (i int)")
    if is_hot:
        kind = kind_of(CartProjection("c1", client).get_streams())
        client.decider.busy[kind] = time.monotonic() + 60, 1.0
    client.db.execute_sql("BEGIN")
    client.db.execute_sql("INSERT INTO app VALUES (1)")
    assert client.decide(CartProjection("c1", client), add_item)[0].id == 1
    client.db.execute_sql("ROLLBACK")
    assert client.db.execute_sql("SELECT count(*) FROM app").fetchone() == (0,)
    assert len(make_client().get_event_stream()) == 0


def test_a_plugin_that_asks_for_tries_without_end_is_named(client: EventClient, make_client: Make) -> None:
    """A decider that saves to its own stream conflicts with itself for ever; after so many tries the error
    names the plugin."""

    class Forever:
        @hookimpl
        def pgevents_validation_conflict(self) -> float:
            return 0.0

    own = make_client(plugins=[Forever()])

    def decider(cart: CartView) -> ItemAddedToCart:
        own.save_event(CartCreated(cart.id, "by the decider"))
        return add_item(cart)

    words = "pgevents_validation_conflict of Forever asked for 100"
    with pytest.raises(ConcurrencyError, match=words) as caught:
        own.decide(CartProjection("c1", own), decider, retries=2)
    assert caught.value.attempts == 103


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
