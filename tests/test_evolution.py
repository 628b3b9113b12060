"""Evolution: types are renamed and change their shape; the log is never rewritten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    EventDecodeError,
    event,
    stream,
)

Make = Callable[..., EventClient]


@frozen
class Line:
    quantity: int


def ordered_v1() -> type[Any]:
    @event("ORDERED")
    class Ordered:
        order_id: str
        name: str

    return Ordered


def ordered_v3() -> type[Any]:
    """Version 2 split the name, version 3 gave a currency."""

    def split(data: dict[str, Any]) -> dict[str, Any]:
        first, last = data.pop("name").split(" ")
        return {**data, "first": first, "last": last}

    @event("ORDERED", version=3, upcasters={1: split, 2: lambda data: {**data, "currency": "GBP"}})
    class Ordered:
        order_id: str
        first: str
        last: str
        currency: str

    return Ordered


def test_old_data_passes_all_upcasters_in_order(client: EventClient, make_client: Make) -> None:
    """An event of version 1 is read by version 3 through both steps, and stays in the log as it was."""
    old, new = ordered_v1(), ordered_v3()
    make_client(event_types=old).save_event(old("o1", "Ada Lovelace"))
    reader = make_client(event_types=new)
    (read,) = reader.get_event_stream(new, order_id="o1")
    assert read.data == new("o1", "Ada", "Lovelace", "GBP")
    (stored,) = reader.db.execute_sql("SELECT data FROM my_app.events").fetchone()
    assert stored == {"order_id": "o1", "name": "Ada Lovelace"}


def test_new_events_are_stored_with_their_version_out_of_sight(
    client: EventClient, make_client: Make
) -> None:
    """The version stands beside the event's metadata in the log, and no reader sees it there."""
    new = ordered_v3()
    writer = make_client(event_types=new)
    saved = writer.save_event(new("o1", "Ada", "Lovelace", "USD"), metadata={"actor": "a"})
    (read,) = writer.get_event_stream()
    assert saved == read
    assert read.metadata == {"actor": "a"}
    assert read.data.currency == "USD"
    (stored,) = writer.db.execute_sql("SELECT metadata FROM my_app.events").fetchone()
    assert stored == {"actor": "a", "$version": 3}
    repeated = writer.save_event(new("o2", "Ada", "Lovelace", "USD"), idempotency_key="k")
    assert writer.save_event(new("o2", "Ada", "Lovelace", "USD"), idempotency_key="k") == repeated
    assert repeated.metadata == {}


def test_an_event_from_a_newer_program_is_an_error_that_says_so(
    client: EventClient, make_client: Make
) -> None:
    """An old program does not guess at data that a newer one wrote: it names event, type and versions."""
    new, old = ordered_v3(), ordered_v1()
    make_client(event_types=new).save_event(new("o1", "Ada", "Lovelace", "USD"))
    with pytest.raises(EventDecodeError, match="version 3, this program knows 1") as caught:
        make_client(event_types=old).get_event_stream()
    assert (caught.value.event_id, caught.value.event_type) == (1, "ORDERED")


def test_a_failing_upcaster_names_the_event(client: EventClient, make_client: Make) -> None:
    """When an upcaster cannot handle some old data, the error names the event that it stumbled over."""
    old, new = ordered_v1(), ordered_v3()
    make_client(event_types=old).save_event(old("o1", "Voltaire"))
    with pytest.raises(
        EventDecodeError, match="event 1 of type 'ORDERED': the upcaster from version 1 failed"
    ):
        make_client(event_types=new).get_event_stream()


def test_a_version_may_need_no_upcaster(client: EventClient, make_client: Make) -> None:
    """A version whose new fields have defaults reads old data without a step."""
    old = ordered_v1()
    make_client(event_types=old).save_event(old("o1", "Ada"))

    @event("ORDERED", version=2)
    class Ordered:
        order_id: str
        name: str
        gift: bool = False

    assert make_client(event_types=Ordered).get_event_stream()[0].data == Ordered("o1", "Ada", False)


def test_a_renamed_type_is_found_under_its_former_names(client: EventClient, make_client: Make) -> None:
    """Reads by class find what was saved under the old name, mixed with the new one, in order."""

    @event("BASKET_OPENED")
    class BasketOpened:
        cart_id: str

    make_client(event_types=BasketOpened).save_event(BasketOpened("c1"))

    @event("CART_OPENED", formerly=["TROLLEY_OPENED", "BASKET_OPENED"])
    class CartOpened:
        cart_id: str

    now = make_client(event_types=CartOpened)
    now.save_event(CartOpened("c1"))
    read = now.get_event_stream(CartOpened, cart_id="c1")
    assert [(one.id, one.type, one.data) for one in read] == [
        (1, "BASKET_OPENED", CartOpened("c1")),
        (2, "CART_OPENED", CartOpened("c1")),
    ]
    assert now.get_latest_event(CartOpened).id == 2  # type: ignore[union-attr]


def test_validation_sees_events_under_former_names(client: EventClient, make_client: Make) -> None:
    """A program that still saves the old name is a conflict for one that knows the new name."""

    @event("BASKET_LEFT")
    class BasketLeft:
        cart_id: str

    @event("CART_LEFT", formerly=["BASKET_LEFT"])
    class CartLeft:
        cart_id: str

    before, after = make_client(event_types=BasketLeft), make_client(event_types=CartLeft)
    seen = after.get_event_stream(CartLeft, cart_id="c1")
    before.save_event(BasketLeft("c1"))
    with pytest.raises(ConcurrencyError) as caught:
        after.save_event_with_stream_validation(CartLeft("c1"), seen)
    assert caught.value.conflicting_ids == (1,)
    with pytest.raises(ConcurrencyError):
        after.save_event_with_stream_validation(CartLeft("c1"), None, [stream(CartLeft)])


def test_fields_that_the_class_no_longer_has_are_passed_over(client: EventClient, make_client: Make) -> None:
    """A field that was dropped from the class does not keep old events from being read."""
    client.save_event({"type": "PARCEL_SENT", "data": {"parcel": "x", "colour": "red"}})

    @event("PARCEL_SENT")
    class ParcelSent:
        parcel: str
        weight: int = 1

    assert make_client(event_types=ParcelSent).get_event_stream()[0].data == ParcelSent("x", 1)


def test_a_missing_field_is_named_with_event_and_type(client: EventClient, make_client: Make) -> None:
    """An old event that lacks a field without default gives an error with event id, type and field."""
    client.save_event({"type": "PARCEL_LOST", "data": {"parcel": "x"}})

    @event("PARCEL_LOST")
    class ParcelLost:
        parcel: str
        weight: int

    with pytest.raises(
        EventDecodeError, match="event 1 of type 'PARCEL_LOST', field 'weight': it is missing"
    ) as caught:
        make_client(event_types=ParcelLost).get_event_stream()
    assert (caught.value.event_id, caught.value.event_type, caught.value.field) == (
        1,
        "PARCEL_LOST",
        "weight",
    )


def test_a_field_of_another_kind_is_named_down_to_its_place(client: EventClient, make_client: Make) -> None:
    """A stored value that does not fit is named by its path, also inside lists; "3" is no quantity."""
    client.save_event({"type": "BOX_PACKED", "data": {"lines": [{"quantity": 1}, {"quantity": "3"}]}})

    @event("BOX_PACKED")
    class BoxPacked:
        lines: list[Line]

    with pytest.raises(EventDecodeError, match="expected int, got '3'") as caught:
        make_client(event_types=BoxPacked).get_event_stream()
    assert caught.value.field == "lines.1.quantity"


def keep(data: dict[str, Any]) -> dict[str, Any]:
    """An upcaster that changes nothing."""
    return data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"version": 0}, "version is a whole number from 1"),
        ({"version": "2"}, "version is a whole number from 1 to 10000, not '2'"),
        ({"version": True}, "not True"),
        ({"version": 2.0}, "not 2.0"),
        ({"version": 10_001}, "not 10001"),
        ({"version": 10**8}, "not 100000000"),
        ({"version": 2, "upcasters": {2: keep}}, "upcasters for the versions from 1 to 1, not for 2"),
        ({"version": 2, "upcasters": {"1": keep}}, "not for '1'"),
        ({"version": 2, "upcasters": {1: None}}, "the upcaster from version 1 is a function, not None"),
        ({"version": 2, "upcasters": [keep]}, "a dict from each older version to a function"),
        ({"version": 4, "upcasters": {1: keep, 3: keep}}, "none for version 2; where nothing changes"),
        ({"version": 10_000, "upcasters": {1: keep}}, "none for version 2"),
        ({"formerly": [""]}, "non-empty string"),
        ({"formerly": [3]}, "non-empty string, not 3"),
    ],
)
def test_versions_that_cannot_work_are_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    """A version, an upcaster or a name that cannot be meant is a mistake in the program."""
    with pytest.raises(ConfigurationError, match=message):

        @event("NEVER", **arguments)
        class Never:
            n: int


def test_a_large_version_costs_nothing(client: EventClient, make_client: Make) -> None:
    """Versions are compared, not counted through."""
    old = ordered_v1()
    make_client(event_types=old).save_event(old("o1", "Ada"))

    @event("ORDERED", version=10_000)
    class Ordered:
        order_id: str
        name: str

    client = make_client(event_types=Ordered)
    assert client.get_event_stream()[0].data == Ordered("o1", "Ada")
    client.save_event(Ordered("o2", "Eve"))
    assert client.get_event_stream()[1].data == Ordered("o2", "Eve")


@pytest.mark.parametrize("returned", [None, ["x"], "x"])
def test_an_upcaster_that_returns_no_dict_is_named(
    client: EventClient, make_client: Make, returned: Any
) -> None:
    """An upcaster that changes its argument and returns nothing is an easy slip."""
    old = ordered_v1()
    make_client(event_types=old).save_event(old("o1", "Ada"))

    @event("ORDERED", version=2, upcasters={1: lambda data: returned})
    class Ordered:
        order_id: str

    with pytest.raises(EventDecodeError, match="event 1 .* upcaster from version 1 returned .*, not a dict"):
        make_client(event_types=Ordered).get_event_stream()


def test_one_former_name_may_be_a_text() -> None:
    """A text is one name, not a sequence of letters."""

    @event("CART_OPENED_NOW", formerly="BASKET_OPENED_THEN")
    class CartOpenedNow:
        cart_id: str

    assert stream(CartOpenedNow).types == ("BASKET_OPENED_THEN", "CART_OPENED_NOW")
