"""Events: the decorator, the envelope, the registry, and events without classes."""

from __future__ import annotations

import dataclasses
import enum
import typing
from datetime import datetime, timezone
from typing import Any, Generic, NamedTuple, TypeVar

import attrs
import pytest
from attrs import frozen

from pgevents import (
    ConfigurationError,
    EventClient,
    EventEncodeError,
    PgEventsError,
    UnknownEventTypeError,
    event,
)
from pgevents.event_types import event_type_of
from pgevents.type_registry import EventTypes

from .conftest import shop_client
from .shop import CartCheckedOut, CartCreated, ItemAddedToCart

T = TypeVar("T")


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
    """A class made of another's attributes, as a decorator above @event makes it, is not what reads give."""

    @event("MARKED")
    class Marked:
        cart_id: str

    mark = {name: value for name, value in vars(Marked).items() if name.startswith("__pgevents")}
    other: Any = attrs.define(type("Other", (), {**mark, "__annotations__": {"else_id": int}}))
    any_type = shop_client(client.db, None)
    for _ in range(3):
        with pytest.raises(UnknownEventTypeError, match="Other was replaced .* put @event on top"):
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
    assert types.cached(Mine) is None


def test_events_stand_in_sets_and_are_keys_of_dicts(client: EventClient) -> None:
    """What two reads give for one event is equal, and found again in a set, whatever its data hold."""
    client.save_events([CartCreated("c1", "u1"), {"type": "LISTED", "data": {"list": [1]}}])
    first, second = client.get_event_stream(), client.get_event_stream()
    assert set(first) == set(second)
    assert len(set(first) | set(second)) == 2
    assert {one: one.id for one in first}[second[1]] == 2
    assert first[1] != attrs.evolve(first[1], data={"list": [2]})


@event("TILL_EVENT")
class TillEvent:
    till: str


@event("TILL_OPENED", formerly="TILL_UNLOCKED")
class TillOpened(TillEvent):
    pass


class Undecorated(TillOpened):
    pass


@event("TILL_COUNTED")
class TillCounted(Undecorated):
    count: int = 0


def test_a_base_class_stands_for_the_event_classes_that_derive_from_it(client: EventClient) -> None:
    """Reads and clients by a decorated base class find the events of its subclasses, at any depth."""
    till = shop_client(client.db, TillEvent)
    events = [TillEvent("t1"), TillOpened("t1"), TillCounted("t1", 3)]
    till.save_events(events)
    till.save_event({"type": "TILL_CLOSED", "data": {"till": "t1"}})
    assert [one.data for one in till.get_event_stream(TillEvent, till="t1")] == events
    assert [one.data for one in till.get_event_stream(TillOpened, till="t1")] == events[1:]
    assert [one.id for one in till.get_event_stream(TillCounted)] == [3]
    assert EventTypes.everything.names(TillOpened) == ("TILL_OPENED", "TILL_UNLOCKED", "TILL_COUNTED")
    with pytest.raises(UnknownEventTypeError, match="Undecorated is not an event class"):
        till.get_event_stream(Undecorated)


def test_a_class_that_derives_later_is_found_by_its_base_from_then_on() -> None:
    """What a base class stands for is not remembered beyond the next decorated class."""
    before = EventTypes.everything.names(TillCounted)

    @event("TILL_RECOUNTED")
    class TillRecounted(TillCounted):
        pass

    assert EventTypes.everything.names(TillCounted) == (*(before or ()), "TILL_RECOUNTED")


def test_a_type_parameter_is_not_known_to_the_log(client: EventClient) -> None:
    """A generic class is named alone; None among types is no type."""

    @event("CHANGED_TO")
    class ChangedTo(Generic[T]):
        to: T

    for wanted in (ChangedTo[int], [ChangedTo[int]]):
        with pytest.raises(ConfigurationError, match="name the class alone"):
            client.get_event_stream(wanted)
    with pytest.raises(ConfigurationError, match="None is not an event type"):
        client.get_event_stream([None])  # type: ignore[list-item]
    assert len(client.get_event_stream(ChangedTo)) == 0


class Kind(str, enum.Enum):
    LETTER = "LETTER_SENT"


def test_a_name_from_an_enum_is_its_text(client: EventClient) -> None:
    """A type named by a member of a str Enum is stored, found and returned as plain text."""
    saved: Any = client.save_event({"type": Kind.LETTER, "data": {}})
    (read,) = client.get_event_stream(Kind.LETTER)
    assert saved == read
    assert type(saved.type) is str


def dataclass_event() -> type[Any]:
    @event("POINT_SEEN")
    @dataclasses.dataclass
    class PointSeen:
        x: int
        tags: list[str] = dataclasses.field(default_factory=list)

        def __post_init__(self) -> None:
            if self.x < 0:
                raise ValueError("x is not negative")

    return PointSeen


def test_a_dataclass_is_an_event_as_it_is(client: EventClient) -> None:
    """@event above @dataclass registers the class and changes nothing in it."""
    cls = dataclass_event()
    points = shop_client(client.db, cls)
    saved = points.save_event(cls(1, ["a"]))
    assert points.get_event_stream(cls)[0] == saved
    with pytest.raises(ValueError, match="not negative"):
        cls(-1)


class ADict(typing.TypedDict):
    x: int


class ATuple(NamedTuple):
    x: int


class AnEnum(enum.Enum):
    X = 1


class OfItsOwn(type):
    pass


class MadeOtherwise(metaclass=OfItsOwn):
    x: int


@dataclasses.dataclass
class ADataclass:
    x: int


class BelowADataclass(ADataclass):
    y: int


class OfDataclasses:
    x: int
    _: dataclasses.KW_ONLY
    y: int = 0


class FieldOfDataclasses:
    x: list[int] = dataclasses.field(default_factory=list)


class SharedDefault:
    tags: list[str] = []  # noqa: RUF012


class PostInit:
    x: int

    def __post_init__(self) -> None:
        pass


class NamedSelf:
    self: int


class Mangled:
    __x: int


class RequiredAfterDefault:
    x: int = 0
    y: int


def a_function() -> None:
    pass


@pytest.mark.parametrize(
    ("unfit", "message"),
    [
        (ADict, "ADict cannot be an event class: it is a TypedDict"),
        (ATuple, "it is a tuple"),
        (AnEnum, "it is an Enum"),
        (MadeOtherwise, "it is made by OfItsOwn"),
        (a_function, "stands above a class, not above <function a_function"),
        (
            BelowADataclass,
            "derives from a dataclass, whose fields attrs does not see; put @dataclass",
        ),
        (OfDataclasses, "KW_ONLY and InitVar belong to dataclasses"),
        (
            FieldOfDataclasses,
            r"FieldOfDataclasses\.x is given by dataclasses\.field; put @dataclass",
        ),
        (SharedDefault, "SharedDefault.tags: all events would share one list as their default"),
        (PostInit, "attrs does not call __post_init__"),
        (NamedSelf, "a field cannot be named self"),
        (Mangled, "a field cannot be named '_Mangled__x'"),
        (RequiredAfterDefault, "attrs refuses it"),
    ],
)
def test_what_cannot_be_an_event_class_is_refused_by_the_decorator(unfit: Any, message: str) -> None:
    """The error stands where the mistake is, and says what to write instead."""
    for decorate in (event, event("UNFIT")):
        with pytest.raises(ConfigurationError, match=message):
            decorate(unfit)
    with pytest.raises(PgEventsError):
        EventTypes.everything.names(unfit)


def test_a_class_that_was_defined_again_is_refused_by_its_former_self(client: EventClient) -> None:
    """After a module was reloaded, the older class would match nothing that a read gives: it is refused where
    a client knows the new one, and the new one where it knows the older."""

    def define() -> type[Any]:
        @event("DEFINED_AGAIN")
        class DefinedAgain:
            n: int

        return DefinedAgain

    older, newer = define(), define()
    everything, narrow = shop_client(client.db, None), shop_client(client.db, older)
    everything.save_event(newer(1))
    with pytest.raises(UnknownEventTypeError, match="DefinedAgain was defined again"):
        everything.save_event(older(1))
    with pytest.raises(UnknownEventTypeError, match="was defined again .* create the client again"):
        narrow.save_event(newer(1))
    narrow.save_event(older(1))
    assert narrow.get_event_stream(older)[0].data == older(1)
    everything.types.require_current([newer, "DEFINED_AGAIN"])
    with pytest.raises(UnknownEventTypeError, match="was defined again"):
        everything.types.require_current(older | newer)


def test_annotations_as_text_may_name_classes_of_the_same_function(client: EventClient) -> None:
    """`from __future__ import annotations` makes text of all annotations, as in this module."""

    @frozen
    class Line:
        count: int

    @event("LINED_UP")
    class LinedUp:
        line: Line

    lined = shop_client(client.db, LinedUp)
    saved = lined.save_event(LinedUp(Line(3)))
    assert lined.get_event_stream(LinedUp)[0] == saved


def test_an_annotation_that_names_nothing_is_refused_in_words(client: EventClient) -> None:
    """A name that is imported for type checkers only cannot be looked up: the save says so."""

    @event("NOWHERE_FOUND")
    class NowhereFound:
        price: Nowhere  # type: ignore[name-defined]  # noqa: F821

    nowhere = shop_client(client.db, NowhereFound)
    with pytest.raises(EventEncodeError, match="name 'Nowhere' is not defined, so an annotation of"):
        nowhere.save_event(NowhereFound(1))
    assert len(nowhere.get_event_stream()) == 0
