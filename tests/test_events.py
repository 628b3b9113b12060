"""Events: the decorator, the envelope, the registry, and events without classes."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import attrs
import pytest
from attrs import frozen

from pgevents import ConfigurationError, EventClient, EventEncodeError, UnknownEventTypeError, event
from pgevents.events import EventTypes, event_type_of

from .conftest import shop_client
from .shop import CartCheckedOut, CartCreated, ItemAddedToCart


def test_event_makes_a_frozen_class_with_a_name() -> None:
    """`@event("NAME")` gives an attrs class that cannot be changed."""
    created = CartCreated(cart_id="c1", user_id="u1")
    assert attrs.has(CartCreated)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        created.cart_id = "c2"  # type: ignore[misc]


def test_bare_event_is_named_after_its_class(client: EventClient) -> None:
    """`@event` without a name stores the class's name."""

    @event
    class LampLit:
        room: str

    client.types.add(vars(LampLit)["__pgevents_type__"])
    assert client.save_event(LampLit("attic")).type == "LampLit"


def test_an_attrs_class_stays_as_it_was_made() -> None:
    """A class that is already attrs is registered, not made again."""

    @event("TEMPERATURE_READ")
    @frozen(kw_only=True)
    class TemperatureRead:
        celsius: float

    with pytest.raises(TypeError):
        TemperatureRead(21.5)  # type: ignore[misc]


def test_the_envelope_of_a_saved_event(client: EventClient) -> None:
    """A saved event knows id, type, data, metadata and when it was saved, in a time with zone."""
    before = datetime.now(timezone.utc)
    saved = client.save_event(CartCreated("c1", "u1"), metadata={"actor": "u1"})
    after = datetime.now(timezone.utc)
    assert (saved.id, saved.type, saved.data) == (1, "CART_CREATED", CartCreated("c1", "u1"))
    assert saved.metadata == {"actor": "u1"}
    assert before <= saved.created_at <= after
    assert saved.updated_at == saved.created_at


def test_what_is_saved_is_what_is_read(client: EventClient) -> None:
    """The envelope that a save returns equals the one that a read gives."""
    saved = client.save_events([CartCreated("c1", "u1"), CartCheckedOut("c1", datetime.now(timezone.utc))])
    assert list(client.get_event_stream()) == saved


def test_dict_events_need_no_class(client: EventClient) -> None:
    """An event of a type that nobody registered goes in and comes back as a dict."""
    given = {"type": "LETTER_SENT", "data": {"to": "Ada", "pages": 3}, "metadata": {"actor": "clerk"}}
    saved = client.save_event(given)
    (read,) = client.get_event_stream("LETTER_SENT", to="Ada")
    assert saved.data == read.data == {"to": "Ada", "pages": 3}  # type: ignore[comparison-overlap]
    assert read.metadata == {"actor": "clerk"}


def test_a_dict_of_a_registered_type_becomes_its_class(client: EventClient) -> None:
    """A script's dict and an application's class are the same event."""
    saved: Any = client.save_event({"type": "CART_CREATED", "data": {"cart_id": "c1", "user_id": "u1"}})
    assert saved.data == client.get_event_stream(cart_id="c1")[0].data == CartCreated("c1", "u1")


def test_a_type_may_be_named_in_every_way(client: EventClient) -> None:
    """A class, a union, a name, or a sequence of these name types; none at all means any."""
    client.save_events([CartCreated("c1", "u1"), ItemAddedToCart("c1", "p1", 1, 5)])
    for types in (
        CartCreated | ItemAddedToCart,
        [CartCreated, "ITEM_ADDED_TO_CART"],
        ["CART_CREATED", CartCreated | ItemAddedToCart],
        None,
    ):
        assert [one.id for one in client.get_event_stream(types)] == [1, 2]
    assert [one.id for one in client.get_event_stream(ItemAddedToCart)] == [2]
    assert [one.id for one in client.get_event_stream("CART_CREATED")] == [1]
    assert list(client.get_event_stream([])) == []


def test_a_class_that_is_no_event_is_named(client: EventClient) -> None:
    """Saving or reading by a class without `@event` says which class and what to do."""

    @frozen
    class Stranger:
        name: str

    with pytest.raises(UnknownEventTypeError, match="Stranger is not an event class: decorate it"):
        client.save_event(Stranger("x"))
    with pytest.raises(UnknownEventTypeError, match="CartCreated is a class; an event is an instance of it"):
        client.save_event(CartCreated)
    with pytest.raises(UnknownEventTypeError, match="Stranger"):
        client.get_event_stream(Stranger)
    assert len(client.get_event_stream()) == 0


def test_a_client_saves_only_the_types_that_it_was_made_for(client: EventClient) -> None:
    """An event of another part of the program is refused by a client that was made without it."""
    narrow = shop_client(client.db, CartCreated)
    with pytest.raises(UnknownEventTypeError, match="ITEM_ADDED_TO_CART") as caught:
        narrow.save_event(ItemAddedToCart("c1", "p1", 1, 5))
    assert caught.value.event_type is ItemAddedToCart


def test_a_client_of_few_types_reads_the_others_as_dicts(client: EventClient) -> None:
    """Types that a client was not made for come back with their data as a dict."""
    client.save_event(ItemAddedToCart("c1", "p1", 1, 5))
    (read,) = shop_client(client.db, CartCreated).get_event_stream()
    assert read.data == {"cart_id": "c1", "product_id": "p1", "quantity": 1, "price_at_time": 5}


def test_two_classes_of_one_name_are_refused_when_it_matters() -> None:
    """Two classes that claim one type's name cannot both be decoded: the client says so when it is made."""

    @event("SHARED_NAME")
    class One:
        a: int

    @event("SHARED_NAME")
    class Two:
        b: int

    with pytest.raises(ConfigurationError, match="two classes claim the event type 'SHARED_NAME'"):
        EventTypes([One, Two])
    with pytest.raises(ConfigurationError, match="several classes claim"):
        EventTypes.everything.find("SHARED_NAME")


def test_a_reloaded_class_replaces_its_former_self() -> None:
    """Defining the same class again, as a reloaded module does, is no clash."""

    def define(default: int) -> type[Any]:
        @event("RELOADED")
        class Reloaded:
            n: int = default

        return Reloaded

    define(1)
    latest = define(2)
    found = EventTypes.everything.find("RELOADED")
    assert found is not None and found.cls is latest


@pytest.mark.parametrize("name", ["", "X" * 201, "TAB\tTED", "NUL\0", "\ud800"])
def test_names_that_cannot_be_stored_are_refused(name: str) -> None:
    """A type's name is text without control characters, of a length that fits an index."""
    with pytest.raises(ConfigurationError):

        @event(name)
        class Unnamed:
            n: int


def test_a_class_with_the_mark_of_another_is_checked_each_time(client: EventClient) -> None:
    """A class made of another's attributes has its mark, but not its fields: what a read could not give back
    is refused."""

    @event("MARKED")
    class Marked:
        cart_id: str

    mark = {name: value for name, value in vars(Marked).items() if name.startswith("__pgevents")}
    other: Any = attrs.define(type("Other", (), {**mark, "__annotations__": {"else_id": int}}))
    any_type = shop_client(client.db, None)
    for _ in range(3):
        with pytest.raises(EventEncodeError, match="MARKED"):
            any_type.save_event(other(3))


def test_a_preview_does_not_mind_whose_name_it_is(client: EventClient) -> None:
    """An ambiguous name is refused where it would be stored or read, not where an event is only looked at."""

    @event("PREVIEWED_TWICE")
    class Mine:
        cart_id: str

    @event("PREVIEWED_TWICE")
    class Yours:
        cart_id: str

    any_type = shop_client(client.db, None)
    for cls in (Mine, Yours):
        assert any_type.preview(cls("c1")).data == cls("c1")
        with pytest.raises(ConfigurationError, match="several classes claim"):
            any_type.save_event(cls("c1"))


def test_a_class_that_comes_while_another_is_looked_up_is_not_overlooked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was found out of the names before they changed is not remembered."""
    types = EventTypes(())
    types.restricted = False

    @event("CLAIMED_MEANWHILE")
    class Mine:
        cart_id: str

    @event("CLAIMED_MEANWHILE")
    class Yours:
        cart_id: str

    types.add(event_type_of(Mine))

    class Slow(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            found = super().get(key, default)
            monkeypatch.setattr(types, "_by_name", dict(self))
            types.add(event_type_of(Yours))
            return found

    monkeypatch.setattr(types, "_by_name", Slow(types._by_name))
    types.of(Mine("c1"))
    assert types.known(Mine) is None
