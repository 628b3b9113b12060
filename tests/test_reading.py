"""Reading: ordered, complete, without repetition; in pages for any size; as of any moment."""

from __future__ import annotations

import copy
import pickle
import time
import tracemalloc
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any, cast

import pytest

from pgevents import ConcurrencyError, ConfigurationError, EventClient, RetryableError, Stream, stream
from pgevents.store import read as reading

from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]


class Field(str, Enum):
    """Names of fields as some programs keep them."""

    CART = "cart_id"


def items(count: int, cart: str = "c1") -> list[ItemAddedToCart]:
    return [ItemAddedToCart(cart, f"p{n % 10}", n, n) for n in range(count)]


def ids(events: Any) -> list[int]:
    return [one.id for one in events]


def test_latest_is_the_latest(client: EventClient) -> None:
    """`get_latest_event` gives the event with the greatest id, or None."""
    assert client.get_latest_event(cart_id="c1") is None
    client.save_events([CartCreated("c1", "u1"), *items(3), CartCreated("c2", "u1")])
    for final in (True, False):
        latest = client.get_latest_event(CartEvent, cart_id="c1", final=final)
        assert latest is not None
        assert (latest.id, latest.data) == (4, items(3)[-1])
        assert client.get_latest_event(CartCreated, final=final).id == 5  # type: ignore[union-attr]
        assert client.get_latest_event(final=final).id == 5  # type: ignore[union-attr]
        assert client.get_latest_event(cart_id=["c1", "c3"], final=final).id == 4  # type: ignore[union-attr]
        assert client.get_latest_event(quantity=0, cart_id="c1", final=final).id == 2  # type: ignore[union-attr]


def test_after_leaves_out_what_is_known(client: EventClient) -> None:
    """`after=` gives only events above an id, and its position starts there."""
    client.save_events(items(5))
    read = client.get_event_stream(cart_id="c1", after=3)
    assert ids(read) == [4, 5]
    assert (read.position.base, read.position.last_id, read.position.count) == (3, 5, 2)
    assert ids(client.get_event_stream(after=5)) == []
    assert ids(client.iter_event_stream(after=3)) == [4, 5]
    assert ids(client.get_event_stream(cart_id="c1", after=3, final=True)) == [4, 5]


@pytest.mark.parametrize("count", [0, 20, 999, 1_000, 1_001, 1_500])
def test_the_function_that_reads_gives_what_a_statement_gives(
    client: EventClient, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Of any types, above any id, however many there are, in between those of others: the same events and
    position."""
    for first in range(0, count, 300):
        own = [CartCreated("c1", f"u{first}"), *items(299)]
        client.save_events([CartCreated("other", "u"), *own[: count - first]])
    client.save_event({"type": "NOTE", "data": {"cart_id": "c1"}}, metadata={"by": "me"})
    middle = client.get_latest_event(final=False).id // 2  # type: ignore[union-attr]

    def read() -> list[Any]:
        found: list[Any] = [CartProjection("c1", client).view]
        for types in (None, CartEvent, CartCreated, "NOTE", [], ["CART_CREATED", "NOTE"]):
            for after in (0, middle):
                for final in (False, True):
                    events = client.get_event_stream(types, cart_id="c1", after=after, final=final)
                    found += [list(events), events.position, list(events.position.ids)]
        return found

    by_function = read()
    monkeypatch.setattr("pgevents.store.source.single_value", lambda *asked: None)
    assert by_function == read()


def test_a_position_is_that_of_the_read_whenever_it_is_asked_for(client: EventClient) -> None:
    """It is made late; neither what is saved in between nor what becomes of the list of streams is of
    account."""
    client.save_events([CartCreated("c1", "u"), CartCreated("c2", "u")])
    asked = [stream(cart_id="c1")]
    early, late = (client.get_event_streams(asked) for _ in range(2))
    known = early.position
    with client.db.atomic():
        client.save_event(CartCreated("c1", "v"))
        asked[0] = stream(cart_id="c2")
        assert late.position == known
    for copied in (
        late,
        pickle.loads(pickle.dumps(late)),
        copy.deepcopy(client.get_event_streams([stream(cart_id="c1")], as_of=2)),
    ):
        assert copied.position == known and list(copied.position.ids) == [1]
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(CartCreated("c1", "v"), late)


def test_a_position_fits_the_streams_that_were_read(client: EventClient) -> None:
    """Whatever becomes of them on the way: those that fall together, those that match nothing, a field's name
    as an Enum."""
    client.save_events([CartCreated("c1", "u"), CartCreated("c2", "u")])
    created, items, cart = "CART_CREATED", "ITEM_ADDED_TO_CART", cast(str, Field.CART)
    for asked in (
        [stream(created, cart_id=["c1", "c2"]), stream(items, cart_id="c1"), stream(items, cart_id="c2")],
        [stream(created, cart_id="c1"), stream([], cart_id="c2")],
        [stream(created, cart_id="c1"), stream(items, cart_id="c1"), stream(cart_id="c2")],
        [Stream((created, "OTHER"), ((cart, ("c1",)),))],
    ):
        found, final = (client.get_event_streams(asked, final=final) for final in (False, True))
        assert found.position.streams == final.position.streams
        assert list(found) == list(final) != []
        saved = client.save_event_with_stream_validation(CartCreated("c1", "u"), found, asked)
        for read in (found, final, found[-1].id):
            with pytest.raises(ConcurrencyError):
                client.save_event_with_stream_validation(CartCreated("c1", "u"), read, asked)
        assert client.save_event_with_stream_validation(CartCreated("c1", "u"), saved.id, asked).id > saved.id


def test_odd_text_in_events_stays_where_it_is(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters, also those that stand between the fields of what the function gives; and a redacted
    event."""
    odd = 'a\x1f\x1e\n\t\\ "\u00e9\U0001f600'
    for cart in ("c1", odd):
        client.save_event(CartCreated(cart, odd), metadata={odd: odd})
        client.save_event({"type": "NOTE", "data": {"cart_id": cart, odd: [odd, {}]}})
        sql = (
            "SELECT my_app.events_append(jsonb_build_array("
            "jsonb_build_object('type', %s, 'data', jsonb_build_object('cart_id', %s))))"
        )
        client.db.execute_sql(sql, ["N\x1fT", cart])  # no name that the client would take
    with client.maintenance("a test"):
        client.db.execute_sql("UPDATE my_app.events SET metadata = metadata WHERE type = 'NOTE'")

    def read() -> list[Any]:
        asked = [
            (types, cart, final)
            for types in (None, CartEvent, "NOTE")
            for cart in ("c1", odd)
            for final in (False, True)
        ]
        return [
            list(client.get_event_stream(types, cart_id=cart, final=final)) for types, cart, final in asked
        ]

    by_function = read()
    assert [len(events) for events in by_function] == [3] * 4 + [1] * 8
    created, note, other = by_function[2]
    assert (created.data, created.metadata) == (CartCreated(odd, odd), {odd: odd})
    assert (note.data, note.metadata) == ({"cart_id": odd, odd: [odd, {}]}, {})
    assert created.updated_at == created.created_at and note.updated_at > note.created_at
    assert other.type == "NT"
    monkeypatch.setattr("pgevents.store.source.single_value", lambda *asked: None)
    by_statement = read()
    assert by_statement[2][2].type == "N\x1fT"
    assert by_function[4:] == by_statement[4:]


@pytest.mark.long
def test_more_text_than_one_value_holds_is_refused_in_plain_words(client: EventClient) -> None:
    """A gigabyte, which takes little to make of numbers in exponential form."""
    many = ",".join(["1e131000"] * 100)
    data = f'{{"cart_id": "c1", "n": [{many}]}}'
    sql = (
        "SELECT my_app.events_append_many(array_fill('N'::text, ARRAY[10]), array_fill(%s::text, ARRAY[10]), "
        "NULL, NULL, NULL, NULL, NULL)"
    )
    for _ in range(9):
        client.db.execute_sql(sql, [data])
    with pytest.raises(ConfigurationError, match="more than a gigabyte.*iter_event_stream"):
        client.get_event_stream(cart_id="c1")


def test_times_are_read_in_any_time_zone(client: EventClient) -> None:
    """The session's time zone changes how PostgreSQL writes a time, and nothing else."""
    when = datetime(2026, 1, 31, 12, 0, 0, 120, tzinfo=timezone.utc)
    client.save_event(CartCreated("c1", "u1"), created_at=when)
    for zone in ("UTC", "Asia/Kolkata", "America/St_Johns"):
        client.db.execute_sql(f"SET TimeZone = '{zone}'")
        (read,) = client.get_event_stream(cart_id="c1")
        assert read.created_at == read.updated_at == when


@pytest.mark.parametrize("value", ["3", True, 1.5, -1, 2**63, None])
def test_after_and_as_of_are_ids(client: EventClient, value: Any) -> None:
    """Text, truth values and impossible numbers are refused as ids."""
    with pytest.raises(ConfigurationError, match="whole number"):
        client.get_event_stream(after=value)
    if value is not None:
        with pytest.raises(ConfigurationError, match="whole number"):
            client.get_event_stream(as_of=value)
        with pytest.raises(ConfigurationError, match="whole number"):
            CartProjection("c1", client, as_of=value)


def test_a_read_is_a_sequence(client: EventClient) -> None:
    """A read has a length, indexes, slices and can be walked again and again."""
    client.save_events(items(5))
    read = client.get_event_stream()
    assert (len(read), read[0].id, read[-1].id, ids(read[1:3]), bool(read)) == (5, 1, 5, [2, 3], True)
    assert ids(read) == ids(read) == [1, 2, 3, 4, 5]
    assert read[2] in read
    assert not client.get_event_stream("NONE")


def test_as_of_an_id_or_a_time(client: EventClient) -> None:
    """The past can be read up to an id or a moment."""
    old = datetime(2020, 1, 1, tzinfo=timezone.utc)
    for day in range(4):
        client.save_event(CartCreated("c1", f"u{day}"), created_at=old + timedelta(days=day))
    assert ids(client.get_event_stream(as_of=2)) == [1, 2]
    assert ids(client.get_event_stream(as_of=0)) == []
    assert ids(client.get_event_stream(as_of=old + timedelta(days=1))) == [1, 2]
    berlin = timezone(timedelta(hours=1))
    assert ids(client.get_event_stream(as_of=(old + timedelta(days=1, seconds=-1)).astimezone(berlin))) == [1]
    assert ids(client.iter_event_stream(as_of=3, after=1)) == [2, 3]
    assert ids(client.get_event_streams([stream(cart_id="c1"), stream(user_id="u3")], as_of=3)) == [1, 2, 3]
    with pytest.raises(ConfigurationError, match="time zone"):
        client.get_event_stream(as_of=datetime(2020, 1, 1))
    with pytest.raises(ConfigurationError, match="exclude each other"):
        client.get_event_stream(as_of=3, final=True)


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 25])
def test_pages_give_each_event_once(client: EventClient, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Whatever the number of events, crossing pages loses none and repeats none."""
    monkeypatch.setattr(reading, "PAGE", 10)
    client.save_events(items(count))
    streams = [
        stream(cart_id="c1"),
        stream(product_id=["p1", "p2"]),
        stream("ITEM_ADDED_TO_CART", quantity=3),
    ]
    assert ids(client.iter_event_stream()) == list(range(1, count + 1))
    assert ids(client.iter_event_streams(streams)) == list(range(1, count + 1))


def test_the_loop_may_save(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events may be saved while a stream is walked; the walk holds no transaction and meets them at its
    end."""
    monkeypatch.setattr(reading, "PAGE", 10)
    client.save_events(items(25))
    met = []
    for event in client.iter_event_stream(cart_id="c1"):
        met.append(event.id)
        assert not client.db.in_transaction()
        if event.id <= 25 and event.id % 10 == 0:
            client.save_event(items(1)[0])
    assert met == list(range(1, 28))


def test_memory_stays_constant(client: EventClient) -> None:
    """Walking forty thousand events takes no more memory than walking ten thousand."""
    for _ in range(4):
        client.save_events(items(10_000))

    def peak(count: int) -> int:
        tracemalloc.start()
        walked = 0
        for _ in client.iter_event_stream(as_of=count):
            walked += 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert walked == count
        return most

    peak(10)
    small, large = peak(10_000), peak(40_000)
    assert large < small * 1.3
    assert large < 20_000_000


def test_a_final_read_waits_for_those_in_the_middle_of_a_save(client: EventClient, make_client: Make) -> None:
    """A final read returns only when no event can appear below what it has seen; an ordinary one does not
    wait."""
    import threading

    slow = make_client()
    begun, go_on = threading.Event(), threading.Event()

    def save_slowly() -> None:
        with slow.db.atomic():
            slow.save_event(CartCreated("c1", "slow"))
            begun.set()
            go_on.wait(5)
            time.sleep(0.3)
        slow.db.close()

    thread = threading.Thread(target=save_slowly)
    thread.start()
    begun.wait(5)
    client.save_event(CartCreated("c1", "quick"))
    start = time.monotonic()
    assert ids(client.get_event_stream(cart_id="c1")) == [2]
    assert client.get_latest_event(cart_id="c1", final=False).id == 2  # type: ignore[union-attr]
    assert ids(client.get_event_stream(cart_id="c2", final=True)) == []
    assert time.monotonic() - start < 0.2
    go_on.set()
    assert ids(client.get_event_stream(cart_id="c1", final=True)) == [1, 2]
    assert time.monotonic() - start > 0.2
    thread.join()


def test_a_final_read_that_waits_in_vain_names_the_holder(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its time limit a final read gives up with a retryable error that names the backend in the way."""
    monkeypatch.setattr(EventClient, "final_wait", 0.2)
    slow = make_client()
    with slow.db.atomic():
        slow.save_event(CartCreated("c1", "slow"))
        (pid,) = slow.db.execute_sql("SELECT pg_backend_pid()").fetchone()
        client.save_event(CartCreated("c1", "quick"))
        for read in (
            lambda: client.get_event_stream(cart_id="c1", final=True),
            lambda: client.get_latest_event(cart_id="c1"),
        ):
            with pytest.raises(RetryableError, match=f"backend {pid}"):
                read()
        horizon = client.horizon()
        assert (horizon.id, horizon.last_issued) == (0, 2)
        assert [holder.pid for holder in horizon.holders] == [pid]
    assert client.horizon().id == 2
