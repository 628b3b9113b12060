"""Reads of a part: so many events, the newest first, page by page; one event by its id or its key."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    InvalidValueError,
    RetryableError,
    UndecodedData,
    is_not,
    stream,
)
from pgevents.store import read as reading

from .shop import CartCheckedOut, CartCreated, CartProjection, ItemAddedToCart, ItemRemovedFromCart
from .test_undecodable import Counted, TimesNoted, insert

Make = Callable[..., EventClient]


def fill(client: EventClient, count: int = 7) -> None:
    """Events of two carts in turn, ids from 1 on."""
    client.save_events([CartCreated(f"c{n % 2}", f"u{n}") for n in range(1, count + 1)])


def ids(events: Any) -> list[int]:
    return [event.id for event in events]


@contextmanager
def held_open(make_client: Make, *events: Any) -> Iterator[None]:
    """A transaction of somebody else that has saved these, and does not end."""
    other = make_client()
    with other.db.atomic() as transaction:
        other.save_events(list(events))
        yield
        transaction.rollback()


READS: list[tuple[dict[str, Any], list[int]]] = [
    ({"limit": 2}, [1, 2]),
    ({"limit": 2, "after": 2}, [3, 4]),
    ({"limit": 0}, []),
    ({"limit": 100}, [1, 2, 3, 4, 5, 6, 7]),
    ({"reverse": True}, [7, 6, 5, 4, 3, 2, 1]),
    ({"reverse": True, "limit": 3}, [7, 6, 5]),
    ({"reverse": True, "limit": 3, "after": 5}, [4, 3, 2]),
    ({"reverse": True, "limit": 3, "after": 1}, []),
]


@pytest.mark.parametrize(("options", "expected"), READS)
@pytest.mark.parametrize("final", [False, True])
def test_a_part_of_the_log(
    client: EventClient, options: dict[str, Any], expected: list[int], final: bool
) -> None:
    """`limit`, `reverse` and `after` mean the same in each call that reads, ordinary or final."""
    fill(client)
    assert ids(client.get_event_stream(final=final, **options)) == expected
    several = [stream(cart_id="c0"), stream(cart_id="c1"), stream(CartCreated, user_id="u3")]
    assert ids(client.get_event_streams(several, final=final, **options)) == expected
    assert ids(client.iter_event_stream(final=final, **options)) == expected
    assert ids(client.iter_event_streams(several, final=final, **options)) == expected


AFTER = {"CART_CREATED": 5, "ITEM_ADDED_TO_CART": 9}
"""Where streams of these types go on."""


def is_beyond(event: Any, after: int, *, reverse: bool) -> bool:
    return event.id < after if reverse else event.id > after


def test_a_few_events_of_some_types(client: EventClient) -> None:
    """They are read along the index of types, and are those that a walk along the log gives."""
    kinds: list[Any] = [
        CartCreated("c", "u"),
        ItemAddedToCart("c", "p", 1, 2),
        CartCreated("c", "v"),
        ItemRemovedFromCart("c", "p", 1),
    ]
    client.save_events([kinds[n * 5 % 7 % 4] for n in range(24)])
    log = client.get_event_stream()
    two = [stream(CartCreated, after=5), stream(ItemAddedToCart, after=9)]
    questions: list[tuple[list[Any], Callable[[Any, bool], bool]]] = [
        ([stream(CartCreated)], lambda e, reverse: e.type == "CART_CREATED"),
        ([stream(CartCreated | ItemRemovedFromCart)], lambda e, reverse: e.type != "ITEM_ADDED_TO_CART"),
        (two, lambda e, reverse: e.type in AFTER and is_beyond(e, AFTER[e.type], reverse=reverse)),
        ([stream(CartCreated, user_id=is_not("v"))], lambda e, reverse: e.data == CartCreated("c", "u")),
        ([stream(CartCheckedOut)], lambda e, reverse: False),
    ]
    for (streams, fits), reverse in itertools.product(questions, (False, True)):
        fitting = [e for e in (reversed(log) if reverse else log) if fits(e, reverse)]
        for after, as_of in itertools.product((0, 4, 11, 24), (None, 1, 3, 17, log[9].created_at)):
            bound = as_of if isinstance(as_of, int) else 24
            expected = [
                e.id for e in fitting if e.id <= bound and (not after or is_beyond(e, after, reverse=reverse))
            ]
            for limit in (0, 1, 2, 5, 50):
                options: dict[str, Any] = {"reverse": reverse, "after": after, "as_of": as_of, "limit": limit}
                found = client.get_event_streams(streams, **options)
                assert ids(found) == expected[:limit], (streams, options)


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_pages_follow_each_other(client: EventClient, reverse: bool, final: bool) -> None:
    """`after` the last event of a page is where the next one goes on, in either direction."""
    fill(client)
    found: list[int] = []
    while page := client.get_event_stream(
        cart_id="c1", limit=3, reverse=reverse, after=found[-1] if found else 0, final=final
    ):
        found += ids(page)
    assert found == ([7, 5, 3, 1] if reverse else [1, 3, 5, 7])


def test_pages_of_an_iteration_end_where_they_should(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the stream ends at the end of a page, and when the limit does."""
    fill(client, 6)
    for page in (1, 2, 3, 4, 6, 7):
        monkeypatch.setattr(reading, "PAGE", page)
        for final in (False, True):
            assert ids(client.iter_event_stream(final=final)) == [1, 2, 3, 4, 5, 6]
            assert ids(client.iter_event_stream(final=final, reverse=True, limit=5)) == [6, 5, 4, 3, 2]
            assert ids(client.iter_event_stream(final=final, as_of=None, limit=4, after=1)) == [2, 3, 4, 5]


def test_the_newest_up_to_then(client: EventClient) -> None:
    """`as_of` bounds a part, too."""
    fill(client)
    assert ids(client.get_event_stream(as_of=5, reverse=True, limit=2)) == [5, 4]
    assert ids(client.iter_event_stream(as_of=5, reverse=True, after=4)) == [3, 2, 1]


def test_options_that_cannot_be_meant_are_refused(client: EventClient) -> None:
    """At the call, also where the events come only later."""
    for options, message in (
        ({"limit": -1}, "limit is a whole number from 0 on"),
        ({"limit": True}, "limit is a whole number"),
        ({"limit": "5"}, "limit is a whole number"),
        ({"reverse": 1}, "reverse is True or False"),
        ({"final": 1}, "final is True or False"),
        ({"after": -1}, "after is the id of an event"),
        ({"final": True, "as_of": 3}, "final and as_of exclude each other"),
    ):
        calls: list[Callable[..., Any]] = [client.get_event_stream, client.iter_event_stream]
        for call in calls:
            with pytest.raises(ConfigurationError, match=message):
                call(**options)
    with pytest.raises(ConfigurationError, match=r"limit= is not an option here.*data=\{'limit': 3\}"):
        client.get_latest_event(limit=3)
    with pytest.raises(ConfigurationError, match=r"reverse= is not an option here.*data=\{'reverse': True\}"):
        client.get_latest_event(reverse=True)


def test_a_field_may_be_called_like_an_option(client: EventClient) -> None:
    """A keyword that is an option never identifies; `data` does."""
    for limit in (1, 2, 2):
        client.save_event({"type": "QUOTA_SET", "data": {"limit": limit, "reverse": "yes", "after": "noon"}})
    assert ids(client.get_event_stream("QUOTA_SET", limit=1, data={"limit": 2})) == [2]
    assert ids(client.get_event_stream(data={"reverse": "yes", "after": "noon"}, reverse=True)) == [3, 2, 1]


# -- positions ------------------------------------------------------------


def test_a_save_is_not_validated_against_what_a_limit_has_cut_off(client: EventClient) -> None:
    """It would never be accepted, so it is refused with the reason; a limit that cuts nothing off is none."""
    fill(client)
    for final in (False, True):
        cut = client.get_event_stream(cart_id="c1", limit=3, final=final)
        assert cut.position.is_cut
        assert "3 events" in repr(cut)
        with pytest.raises(ConfigurationError, match="cut off by its limit"):
            client.save_event_with_stream_validation(CartCreated("c1", "u"), cut)
        whole = client.get_event_stream(cart_id="c1", limit=4, final=final)
        assert not whole.position.is_cut
        with client.db.atomic() as transaction:
            client.save_event_with_stream_validation(CartCreated("c1", "u"), whole)
            transaction.rollback()
    client.save_event_with_stream_validation(
        CartCreated("c5", "u"), client.get_event_stream(cart_id="c5", limit=1)
    )


@pytest.mark.parametrize("final", [False, True])
def test_a_save_validated_against_the_newest(client: EventClient, final: bool) -> None:
    """The newest events are all that such a save rests on: a new one is a conflict, and so is it if one of
    them is removed."""
    fill(client)
    newest = client.get_event_stream(cart_id="c1", limit=2, reverse=True, final=final)
    assert ids(newest) == [7, 5]
    assert (newest.position.base, newest.position.count, newest.position.last_id) == (4, 2, 7)
    client.save_event_with_stream_validation(CartCreated("c1", "next"), newest)
    with pytest.raises(ConcurrencyError) as refused:
        client.save_event_with_stream_validation(CartCreated("c1", "next"), newest)
    assert refused.value.conflicting_ids == (8,)
    newest = client.get_event_stream(cart_id="c1", limit=2, reverse=True, final=final)
    assert ids(newest) == [8, 7]
    with client.maintenance("test"):
        client.db.execute_sql("DELETE FROM my_app.events WHERE id = 7")
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(CartCreated("c1", "next"), newest)
    whole = client.get_event_stream(cart_id="c1", limit=9, reverse=True, final=final)
    assert (whole.position.base, ids(whole)) == (0, [8, 5, 3, 1])
    client.save_event_with_stream_validation(CartCreated("c1", "next"), whole)


def test_the_newest_of_nothing_is_a_position_too(client: EventClient) -> None:
    """The first of a stream is saved against its emptiness, once."""
    none = client.get_event_stream(cart_id="c1", limit=1, reverse=True)
    assert list(none) == []
    client.save_event_with_stream_validation(CartCreated("c1", "u"), none)
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(CartCreated("c1", "u"), none)


def test_the_newest_that_a_savepoint_takes_back(client: EventClient) -> None:
    """An event of one's own that is rolled back is not the newest any more."""
    fill(client)
    with client.db.atomic():
        with client.db.atomic() as inner:
            client.save_event(CartCreated("c1", "gone"))
            newest = client.get_event_stream(cart_id="c1", limit=1, reverse=True)
            inner.rollback()
        client.save_event(CartCreated("c1", "in its place"))
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(CartCreated("c1", "next"), newest)


# -- final ------------------------------------------------------------


def test_a_final_page_waits_for_no_more_than_itself(client: EventClient, make_client: Make) -> None:
    """Somebody who saves after the page does not hold it up, whoever may still add to it does."""
    client.final_wait = 0.2
    fill(client)
    with held_open(make_client, CartCreated("c1", "slow")):
        client.save_event(CartCreated("c1", "quick"))
        assert ids(client.get_event_stream(cart_id="c1", limit=4, final=True)) == [1, 3, 5, 7]
        assert ids(client.get_event_stream(cart_id="c1", after=1, limit=2, final=True)) == [3, 5]
        assert ids(client.get_event_stream(cart_id="c1", reverse=True, after=7, limit=2, final=True)) == [
            5,
            3,
        ]
        for options in ({"after": 7}, {"reverse": True, "limit": 1}, {"limit": 5}):
            with pytest.raises(RetryableError, match="was not final within"):
                client.get_event_stream(cart_id="c1", final=True, **options)  # type: ignore[call-overload]
        pages = client.iter_event_stream(cart_id="c1", final=True)
        with pytest.raises(RetryableError, match="was not final within"):
            list(pages)
    assert ids(client.iter_event_stream(cart_id="c1", final=True)) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_final_read_has_what_was_in_flight(client: EventClient, make_client: Make, reverse: bool) -> None:
    """It waits until the late event is there, and gives it in its place."""
    fill(client)
    slow, saved, go_on = make_client(), threading.Event(), threading.Event()

    def save_slowly() -> None:
        with slow.db.atomic():
            slow.save_event(CartCreated("c1", "late"))
            saved.set()
            go_on.wait(10)
        slow.db.close()

    thread = threading.Thread(target=save_slowly)
    thread.start()
    saved.wait(10)
    client.save_event(CartCreated("c1", "quick"))
    threading.Timer(0.2, go_on.set).start()
    newest = ids(
        client.get_event_stream(cart_id="c1", reverse=reverse, after=0 if reverse else 5, final=True)
    )
    assert newest == ([9, 8, 7, 5, 3, 1] if reverse else [7, 8, 9])
    thread.join()


def test_the_newest_final_events_without_waiting(client: EventClient, make_client: Make) -> None:
    """Cut at the bound, a page is full all the same."""
    fill(client)
    from pgevents.store.options import ReadOptions

    with held_open(make_client, CartCreated("c1", "slow")):
        client.save_event(CartCreated("c1", "quick"))
        found = client.reader.read_final([stream(cart_id="c1")], ReadOptions(limit=2, reverse=True))
        assert ids(found) == [7, 5]


# -- one event ------------------------------------------------------------


def test_one_event_by_its_id(client: EventClient) -> None:
    """`get_event` gives it as any read does, or None."""
    fill(client)
    found = client.get_event(3)
    assert found is not None
    assert found == client.get_event_stream()[2]
    assert client.get_event(0) is client.get_event(8) is None
    for wrong in ("3", 3.0, True, -1, None):
        with pytest.raises(InvalidValueError, match="event_id is the id of an event"):
            client.get_event(wrong)  # type: ignore[arg-type]


def test_what_a_key_has_saved(client: EventClient) -> None:
    """`get_saved` gives the events of a save, of a batch, or of a decision, and nothing of another key."""
    one = client.save_event(CartCreated("c1", "u1"), idempotency_key="k")
    batch = client.save_events([CartCreated("c2", "u"), CartCreated("c3", "u")], idempotency_key="k 2")
    decided = client.decide(
        CartProjection("c1", client),
        lambda cart: ItemAddedToCart(cart.id, "p1", 1, 2),
        idempotency_key="command",
    )
    assert client.get_saved("k") == [one]
    assert client.get_saved("k 2") == batch
    assert client.get_saved("command") == decided
    assert client.get_saved("k 3") == []
    for wrong in ("", "a\nb", 7, None):
        with pytest.raises(InvalidValueError, match="an idempotency key is a text"):
            client.get_saved(wrong)  # type: ignore[arg-type]


def test_the_latest_above_an_id(client: EventClient, make_client: Make) -> None:
    """`get_latest_event(after=...)` is None unless there is something newer."""
    fill(client)
    for final in (True, False):
        for after, expected in ((0, 7), (6, 7), (7, None), (100, None)):
            found = client.get_latest_event(cart_id="c1", after=after, final=final)
            assert (found and found.id) == expected
    with pytest.raises(InvalidValueError, match="after is the id of an event"):
        client.get_latest_event(after="7")  # type: ignore[call-overload]


# -- events that cannot be read ------------------------------------------------------------


@pytest.fixture
def broken(make_client: Make) -> EventClient:
    """Ten events, of which those of even ids cannot be read."""
    client = make_client(event_types=TimesNoted | Counted)
    client.create_tables()
    for number in range(1, 11):
        if number % 2:
            client.save_event(TimesNoted("c1"))
        else:
            insert(client, "TIMES_NOTED", '{"cart_id": "c1", "at": "never"}')
    return client


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_page_is_full_unless_it_is_the_last(broken: EventClient, final: bool, reverse: bool) -> None:
    """Events that are left out do not count: whoever stops at a short page has read them all."""
    pages: list[list[int]] = []
    while not pages or len(pages[-1]) == 2:
        found = broken.get_event_stream(
            cart_id="c1",
            limit=2,
            reverse=reverse,
            final=final,
            after=pages[-1][-1] if pages else 0,
            on_undecodable="skip",
        )
        pages.append(ids(found))
    assert pages == ([[9, 7], [5, 3], [1]] if reverse else [[1, 3], [5, 7], [9]])
    raw = broken.get_event_stream(limit=3, reverse=reverse, final=final, on_undecodable="raw")
    assert ids(raw) == ([10, 9, 8] if reverse else [1, 2, 3])
    assert len(list(broken.iter_event_stream(final=final, reverse=reverse, on_undecodable="skip"))) == 5


def test_the_position_counts_what_was_left_out(broken: EventClient) -> None:
    """As in other reads, it is of what stands in the log."""
    first = broken.get_event_stream(cart_id="c1", reverse=True, limit=3, on_undecodable="skip")
    assert (ids(first), first.position.base, first.position.count) == ([9, 7, 5], 4, 6)
    assert [error.event_id for error in first.undecodable] == [10, 8, 6]
    broken.save_event_with_stream_validation(TimesNoted("c1"), first)


def test_one_event_that_cannot_be_read(broken: EventClient) -> None:
    """`get_event` has the same way on as streams have."""
    raw = broken.get_event(2, on_undecodable="raw")
    assert raw is not None
    assert isinstance(raw.data, UndecodedData)
    assert broken.get_event(2, on_undecodable="skip") is None
    with pytest.raises(ConfigurationError, match="on_undecodable"):
        broken.get_event(2, on_undecodable="no")  # type: ignore[arg-type]
