"""Saving: all or nothing, in order, in one transaction, with metadata and times."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from enum import Enum
from typing import Any, cast

import attrs
import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    EventEncodeError,
    IdempotencyError,
    InvalidValueError,
    NewEvent,
    UnknownEventTypeError,
    create_event_client,
    event,
    hookimpl,
    stream,
)

from .shop import CartCheckedOut, CartCreated, ItemAddedToCart

NOW = datetime.now(timezone.utc)


def test_ids_follow_the_order_given(client: EventClient) -> None:
    """A batch comes back in the order in which it was given, with ids that follow that order."""
    given = [ItemAddedToCart("c1", f"p{n}", n, n) for n in range(200)]
    saved = client.save_events(given)
    assert [one.data for one in saved] == given
    assert [one.id for one in saved] == list(range(1, 201))
    assert [one.data for one in client.get_event_stream()] == given


def test_no_events_are_no_save(client: EventClient) -> None:
    """An empty list is `[]`, and not even the tables are asked for."""
    assert client.save_events([]) == []
    assert client.save_events(()) == []
    unreachable = create_event_client("postgresql://127.0.0.1:1/x", client.events, client.projections)
    assert unreachable.save_events([]) == []
    client.db.bind([client.events, client.projections])


def test_a_batch_is_all_or_nothing(client: EventClient) -> None:
    """One event that cannot be saved keeps the whole batch out."""
    with pytest.raises(UnknownEventTypeError):
        client.save_events([CartCreated("c1", "u1"), object()])
    assert len(client.get_event_stream()) == 0


def test_ten_thousand_events_are_one_transaction(client: EventClient) -> None:
    """A large batch is saved whole, in one transaction and in order."""
    given = [ItemAddedToCart(f"c{n % 700}", f"p{n}", n, n) for n in range(10_000)]
    saved = client.save_events(given)
    assert [one.id for one in saved] == list(range(1, 10_001))
    assert client.db.execute_sql(
        "SELECT count(DISTINCT xmin::text), count(*) FROM my_app.events"
    ).fetchone() == (1, 10_000)
    assert [one.data.quantity for one in client.get_event_stream(ItemAddedToCart, cart_id="c699")] == list(
        range(699, 10_000, 700)
    )


def test_metadata_is_kept_beside_the_data(client: EventClient) -> None:
    """Metadata is given to each event of a save and read back with it."""
    client.save_events(
        [CartCreated("c1", "u1"), CartCreated("c2", "u1")], metadata={"request": "r1", "n": [1, None]}
    )
    assert [one.metadata for one in client.get_event_stream()] == [{"request": "r1", "n": [1, None]}] * 2


def test_events_of_the_past_keep_their_time(client: EventClient) -> None:
    """An import says when its events happened; order is still by id."""
    then = datetime(2010, 12, 1, 8, 26, tzinfo=timezone(timedelta(hours=1)))
    saved = client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1")], created_at=then)
    assert (
        [one.created_at for one in saved]
        == [then, then]
        == [one.created_at for one in client.get_event_stream()]
    )
    assert saved[0].updated_at == then


@pytest.mark.parametrize("when", [datetime(2024, 1, 1), "2024-01-01", date(2024, 1, 1), 0])
def test_a_time_without_zone_is_refused(client: EventClient, when: Any) -> None:
    """`created_at` is a datetime with a zone; anything else is refused before the write."""
    with pytest.raises(ConfigurationError, match="time zone"):
        client.save_event(CartCreated("c1", "u1"), created_at=when)
    assert len(client.get_event_stream()) == 0


@pytest.mark.parametrize(
    "when",
    [
        datetime.max.replace(tzinfo=timezone.utc),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone.utc),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_a_time_that_could_not_be_read_everywhere_is_refused(client: EventClient, when: datetime) -> None:
    """In another time zone it would lie outside the years that Python knows, and break every read of its
    stream."""
    with pytest.raises(ConfigurationError, match="created_at lies between 0001-01-03"):
        client.save_event(CartCreated("c1", "u1"), created_at=when)
    for near in (datetime(1, 1, 4, tzinfo=timezone.utc), datetime(9999, 12, 28, tzinfo=timezone.utc)):
        client.save_event(CartCreated("c1", "u1"), created_at=near)
        for zone in ("Etc/GMT+12", "Etc/GMT-14"):
            client.db.execute_sql(f"SET TimeZone = '{zone}'")
            assert client.get_event_stream()[-1].created_at == near


def test_each_event_of_a_batch_may_have_its_time(client: EventClient) -> None:
    """The saved events have the times given, in UTC, and so has a read; plain or validated."""
    times = [datetime(2020, 1, day, tzinfo=timezone(timedelta(hours=2))) for day in (2, 3, 1)]
    batch = [CartCreated("c1", "u1")] * 3
    saved = client.save_events(batch, created_at=times)
    saved += client.save_events_with_stream_validation(
        batch, client.get_event_stream(), created_at=tuple(times), idempotency_key="k"
    )
    assert [one.created_at for one in saved] == times * 2
    assert {one.created_at.utcoffset() for one in saved} == {timedelta(0)}
    assert client.get_event_stream() == saved
    (single,) = client.save_events(batch[:1], created_at=times[:1])
    assert single.created_at == times[0]


@pytest.mark.parametrize("times", [[], [NOW], [NOW] * 3, [NOW, None], [NOW, NOW.replace(tzinfo=None)], "now"])
def test_there_are_as_many_times_as_events(client: EventClient, times: Any) -> None:
    """Each with its zone; else nothing is saved."""
    with pytest.raises(InvalidValueError, match="created_at"):
        client.save_events([CartCreated("c1", "u1")] * 2, created_at=times)
    assert len(client.get_event_stream()) == 0


@pytest.mark.parametrize(
    "given", ["text", b"bytes", {"type": "T", "data": {}}, CartCreated("c1", "u1"), iter([]), None, 3]
)
def test_a_batch_is_a_list(client: EventClient, given: Any) -> None:
    """What is no list of events is refused, with a hint at the singular method."""
    with pytest.raises(ConfigurationError, match="events are a list"):
        client.save_events(given)
    assert len(client.get_event_stream()) == 0


@pytest.mark.parametrize("given", [None, 3, object(), CartCreated, [CartCreated("c1", "u1")]])
def test_what_is_no_event_is_refused(client: EventClient, given: Any) -> None:
    """An object of no registered type, the class itself, or a list in the singular method is refused by
    name."""
    with pytest.raises(UnknownEventTypeError, match="is not an event class|is a class"):
        client.save_event(given)
    assert len(client.get_event_stream()) == 0


def test_a_saved_event_is_not_saved_again_by_mistake(client: EventClient) -> None:
    """Handing a saved envelope back to `save_event` is refused; its data may be saved again."""
    saved = client.save_event(CartCreated("c1", "u1"))
    with pytest.raises(UnknownEventTypeError):
        client.save_event(saved)
    assert client.save_event(saved.data).id == 2


def test_preview_shows_what_would_be_saved_and_saves_nothing(client: EventClient) -> None:
    """A preview has the envelope, id 0, and leaves the log alone."""
    shown = client.preview(CartCreated("c1", "u1"))
    assert (shown.id, shown.type, shown.data) == (0, "CART_CREATED", CartCreated("c1", "u1"))
    assert len(client.get_event_stream()) == 0


def test_a_value_too_long_for_its_index_is_refused_whole(client: EventClient) -> None:
    """A data-index value beyond what an index entry can hold is refused with the index's name; the batch with
    it."""
    import secrets

    with pytest.raises(EventEncodeError, match=r"cart_id.*2,700 bytes"):
        client.save_events([CartCreated("c1", "u1"), CartCreated(secrets.token_hex(4000), "u1")])
    assert len(client.get_event_stream()) == 0
    assert client.save_event(CartCreated("c" * 2000, "u1")).data.cart_id == "c" * 2000


@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize(
    "said", [{}, {"created_at": datetime(2026, 1, 5, tzinfo=timezone.utc)}, {"metadata": {"actor": "me"}}]
)
def test_the_first_save_of_a_class_and_the_next_are_alike(
    client: EventClient, make_client: Any, count: int, said: dict[str, Any]
) -> None:
    """A client that has saved events of these classes before takes fewer steps, and stores and returns the
    same."""
    given = [
        CartCreated("c1", "ü\U0001f600'\\\""),
        ItemAddedToCart("c1", "%s", 2, 2**70),
        CartCheckedOut("c1", datetime(2026, 1, 31, tzinfo=timezone(timedelta(hours=2)))),
        {"type": "NOTED", "data": {"cart_id": "c1", "note": [1, None, 1.5]}},
    ][:count]
    client.save_events(given)
    if count == 1:
        saved = [[client.save_event(given[0], **said)], [make_client().save_event(given[0], **said)]]
    else:
        saved = [client.save_events(given, **said), make_client().save_events(given, **said)]
    short, general = [[(one.type, one.data, one.metadata) for one in several] for several in saved]
    assert short == general
    assert {one.created_at for one in saved[0]} == {said.get("created_at", saved[0][0].created_at)}
    sql = "SELECT type, data::text, metadata::text FROM my_app.events WHERE id = ANY(%s) ORDER BY id"
    rows = [client.session.execute(sql, [[one.id for one in several]]).fetchall() for several in saved]
    assert rows[0] == rows[1] and len(rows[0]) == count
    assert list(client.get_event_stream(after=saved[0][0].id - 1))[:count] == saved[0]


def test_a_key_is_kept_by_known_classes_too(client: EventClient) -> None:
    """A key that saved a batch before gives back that batch, or refuses other content, whichever way the save
    goes."""
    given = [CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 1, 5)]
    for _ in range(2):
        first = client.save_events(given, idempotency_key="k")
        assert client.save_events(given, idempotency_key="k") == first
        assert client.save_event(given[0], idempotency_key="one") == client.save_event(
            given[0], idempotency_key="one"
        )
        with pytest.raises(IdempotencyError):
            client.save_events(given[:1], idempotency_key="k")
    assert len(client.get_event_stream()) == 3


class Lazy(Sequence[Any]):
    """A sequence that makes its events anew whenever it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        if index >= 2:
            raise IndexError
        self.asked += 1
        return ItemAddedToCart("c1", f"p{self.asked}", 1, 5)


def test_events_are_looked_at_once(client: EventClient) -> None:
    """What a sequence gives at the first look is what is stored and returned, of known classes too."""
    client.save_event(ItemAddedToCart("c0", "p0", 1, 5))
    saved = client.save_events(Lazy())
    assert [one.data.product_id for one in saved] == ["p1", "p2"]
    assert list(client.get_event_stream(cart_id="c1")) == saved


def test_a_mixed_batch_is_encoded_once(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that takes more than the others, at the end of a batch, does not have them all encoded
    again."""
    client.save_event(ItemAddedToCart("c1", "p0", 1, 5))
    encoded: list[Any] = []
    prepare, dump = client.serializer.prepare[ItemAddedToCart], client.serializer.dump

    def counted(data: Any) -> Any:
        encoded.append(data)
        return prepare(data)

    def dumped(data: Any, cls: type[Any] | None, what: str) -> tuple[str, Any]:
        if cls is not data.__class__:
            encoded.append(data)
        return dump(data, cls, what)

    monkeypatch.setattr(client.serializer, "dump", dumped)
    monkeypatch.setitem(client.serializer.prepare, ItemAddedToCart, counted)
    given = [
        *(ItemAddedToCart("c1", f"p{n}", 1, 5) for n in range(5)),
        {"type": "NOTED", "data": {"cart_id": "c1"}},
    ]
    assert len(client.save_events(given)) == len(encoded) == 6


def test_what_is_known_of_a_class_holds_only_while_nothing_changes(client: EventClient) -> None:
    """A plugin that comes later is asked, and one that goes no longer; a type that is defined anew is another
    one."""

    class Upper:
        @hookimpl
        def pgevents_before_save(self, events: list[NewEvent]) -> list[NewEvent]:
            return [
                attrs.evolve(one, data=CartCreated(one.data.cart_id, one.data.user_id.upper()))
                for one in events
            ]

    def saved() -> str:
        return client.save_event(CartCreated("c1", "u")).data.user_id

    plugin = Upper()
    assert [saved(), saved()] == ["u", "u"]
    client.plugins.register(plugin)
    assert [saved(), saved()] == ["U", "U"]
    client.plugins.unregister(plugin)
    assert [saved(), saved()] == ["u", "u"]

    @event("NOTED")
    class Noted:
        cart_id: str

    client = create_event_client(client.db, client.events, client.projections)  # of all types there are
    for _ in range(3):
        assert client.save_event(Noted("c1")).type == "NOTED"

    @event("NOTED", version=2)
    class Noted:  # type: ignore[no-redef]
        cart_id: str

    client.save_event(Noted("c1"))
    assert client.session.execute(
        "SELECT metadata::text FROM my_app.events ORDER BY id DESC LIMIT 1"
    ).fetchone() == ('{"$version": 2}',)
    assert client.save_event(Noted("c1")).data == Noted("c1")


@pytest.mark.parametrize(
    "setting", ["DateStyle = 'ISO, YMD'", "TimeZone = 'Asia/Kathmandu'", "TimeZone = 'America/St_Johns'"]
)
def test_a_saved_event_has_its_time_whatever_the_session_writes_times_like(
    client: EventClient, setting: str
) -> None:
    """An error after the commit would make a program save once more."""
    client.db.execute_sql(f"SET {setting}")
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    for streams in (None, [stream(cart_id="c2")], [stream("NOTED")]):
        for _ in range(2):
            saved = (
                client.save_event(CartCreated("c1", "u1"))
                if streams is None
                else client.save_event_with_stream_validation(CartCreated("c1", "u1"), None, streams)
            )
            assert saved.created_at.tzinfo is timezone.utc
            assert (
                before
                < saved.created_at
                == saved.updated_at
                < datetime.now(timezone.utc) + timedelta(seconds=1)
            )


class Name(str, Enum):
    """Names of types as some programs keep them."""

    ENUM = "OF_AN_ENUM"


@pytest.mark.parametrize(
    "name",
    [
        "PLAIN",
        "cart.created:v1",
        Name.ENUM,
        "NULL",
        "it's",
        "100 %s",
        'a"b',
        "{a},b",
        "back\\slash",
        "%",
        "\u00e9",
        "a b",
    ],
)
def test_a_type_may_have_any_name(client: EventClient, name: str) -> None:
    """Plain names stand in the statement, all others are parameters: events are saved, checked and found
    alike."""
    cls = event(name)(type("Named", (), {"__annotations__": {"cart_id": str}}))
    other = event(f"other {name}")(type("Other", (), {"__annotations__": {"cart_id": str}}))
    client = create_event_client(client.db, client.events, client.projections, [cls, other])
    asked = [stream(cls, cart_id="c1"), stream(f"other {name}", cart_id="c1")]
    for given in (cls("c1"), cls("c1"), other("c1"), cls("c2")):  # the second one is of a known class
        last = client.save_event(given)
    found = client.get_event_streams(asked)
    assert [(one.id, one.type, one.data) for one in found] == [
        (1, name, cls("c1")),
        (2, name, cls("c1")),
        (3, f"other {name}", other("c1")),
    ]
    assert [one.id for one in client.get_event_stream(name, cart_id="c1", final=True)] == [1, 2]
    assert client.save_event_with_stream_validation(cls("c1"), found).id == 5
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(cls("c1"), found)
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(cls("c1"), last.id, [stream(name, cart_id="c1")])
    assert (
        client.save_event_with_stream_validation(
            cls("c1"), last.id, [stream(f"other {name}", cart_id="c1")]
        ).type
        == name
    )


def test_the_argument_at_fault_is_told_before_the_event(client: EventClient) -> None:
    """Errors come in one order, whether a class has been saved before or not."""
    bad = CartCreated("\0", "u1")
    for _ in range(2):
        for latest, streams in ((0, []), (None, None), (True, [stream(cart_id="c1")])):
            with pytest.raises(ConfigurationError):
                client.save_event_with_stream_validation(bad, cast(Any, latest), cast(Any, streams))
        with pytest.raises(EventEncodeError):
            client.save_events([bad, object()])
        with pytest.raises(UnknownEventTypeError):
            client.save_events([object(), bad])
        client.save_event(CartCreated("c1", "u1"))
