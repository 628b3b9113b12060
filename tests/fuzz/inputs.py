"""Inputs at random: values of every kind, classes of fields of every type, events, identifiers and options.

Everything comes from one `random.Random`: the suite gives one that Hypothesis draws from, so that a failing
input is made small; the soak gives one by seed, so that a million inputs take minutes.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
import random
import re
import struct
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs

from pgevents import event

LONDON = ZoneInfo("Europe/London")
ZONES = (
    timezone.utc,
    LONDON,
    timezone(timedelta(hours=5, minutes=30)),
    timezone(timedelta(seconds=-1)),
    None,
)
CHARACTERS = "abZ09_ -'\"\\%{}[]:,.\x1f\x7f\x85\u2028\u00e9\u017d\ufffe\U0001f40e"
RARE_CHARACTERS = "\0\ud800\udfff"
NUMBERS = (0, 1, -1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**16, 10**400)
FLOATS = (0.0, -0.0, 1.0, 1e15, 1e16, -1e22, 1.2345e20, 1e-7, 5e-324, 1.7976931348623157e308)
ODD_FLOATS = (float("nan"), float("inf"), float("-inf"))


class Colour(enum.Enum):
    RED = "red"
    ONE = 1


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Channel(str, enum.Enum):
    WEB = "web"


class Right(enum.IntFlag):
    READ = 4
    WRITE = 2


class Name(str):
    """A text of a class of its own."""


class Pence(int):
    """A number of a class of its own."""


class Moment(datetime):
    """A datetime of a class of its own."""


class Incomparable:
    """An object that equals nothing but itself."""


@attrs.frozen
class Part:
    name: str
    count: int = 1


@attrs.frozen
class RarePart(Part):
    rarity: float = 0.5


@attrs.frozen
class Money:
    amount: Decimal
    at: datetime | None = None


@attrs.define
class Tree:
    n: int
    kids: list[Tree] = attrs.field(factory=list)


@dataclasses.dataclass
class Point:
    x: int
    y: float


def text(rng: random.Random) -> str:
    """A text, now and then one that PostgreSQL cannot hold."""
    characters = CHARACTERS if rng.random() < 0.97 else CHARACTERS + RARE_CHARACTERS
    return "".join(rng.choice(characters) for _ in range(rng.choice((0, 1, 3, 8, 30))))


def number(rng: random.Random) -> int:
    return rng.choice(NUMBERS) if rng.random() < 0.3 else rng.randint(-(2**40), 2**40)


def real(rng: random.Random) -> float:
    kind = rng.random()
    if kind < 0.02:
        return rng.choice(ODD_FLOATS)
    if kind < 0.3:
        return rng.choice(FLOATS)
    if kind < 0.6:
        return round(rng.uniform(-1000, 1000), 2)
    (made,) = struct.unpack("d", rng.getrandbits(64).to_bytes(8, "little"))
    return made if made == made and abs(made) != float("inf") else 0.5


def moment(rng: random.Random) -> datetime:
    zone = rng.choice(ZONES)
    day = rng.choice((1, 1890, 1970, 2024, 2024, 9999)), rng.randint(1, 12), rng.randint(1, 28)
    clock = rng.randint(0, 23), rng.randint(0, 59), rng.randint(0, 59), rng.choice((0, 500_000, 1, 999_999))
    made = datetime(*day, *clock, tzinfo=zone)
    if rng.random() < 0.1:
        return datetime(2024, 10, 27, 1, 30, fold=rng.randint(0, 1), tzinfo=LONDON)
    return Moment.fromtimestamp(0, timezone.utc) if rng.random() < 0.02 else made


def json_value(rng: random.Random, depth: int = 3) -> Any:
    """A value as JSON has it."""
    kind = rng.randrange(9 if depth else 6)
    if kind < 6:
        return rng.choice((None, True, False, text(rng), number(rng), real(rng)))
    if kind < 8:
        return {text(rng): json_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [json_value(rng, depth - 1) for _ in range(rng.randrange(4))]


def odd(rng: random.Random) -> Any:
    """A value that may stand in the wrong place."""
    choice = rng.randrange(26)
    simple: tuple[Any, ...] = (
        b"x", bytearray(b"x"), {1, 2}, frozenset({"a"}), (1, "a"), collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"), collections.deque([1]), {1: "a", "1": "b"}, {None: 1}, Colour.RED,
        Level.LOW, Channel.WEB, Right.READ | Right.WRITE, Name("x"), Pence(5), Part("p"), RarePart("p", 2),
        UUID(int=1), Decimal("1.10"), timedelta(days=99_000, microseconds=1), 1 + 2j, Incomparable(),
    )  # fmt: skip
    if choice < len(simple):
        return simple[choice]
    if choice == 23:
        nested: Any = 1
        for _ in range(rng.choice((50, 99, 101, 1100))):
            nested = [nested] if rng.random() < 0.5 else {"a": nested}
        return nested
    return json_value(rng) if choice == 24 else moment(rng)


def value(rng: random.Random, kind: Any, depth: int = 2) -> Any:
    """A value that fits an annotation; now and then one that does not."""
    if rng.random() < 0.06:
        return odd(rng)
    if isinstance(kind, tuple):
        shape, *inner = kind
        size = rng.randrange(3)
        if shape == "list":
            return [value(rng, inner[0], depth - 1) for _ in range(size)]
        if shape == "tuple":
            return tuple(value(rng, inner[0], depth - 1) for _ in range(size))
        if shape == "pair":
            return (value(rng, inner[0], depth - 1), value(rng, inner[1], depth - 1))
        if shape == "dict":
            return {text(rng): value(rng, inner[0], depth - 1) for _ in range(size)}
        if shape == "set":
            return {value(rng, inner[0], 0) for _ in range(size)} if inner[0] in (str, int) else set()
        return value(rng, rng.choice(inner), depth - 1)  # a union
    made = PLAIN[kind](rng)
    return made


PLAIN: dict[Any, Any] = {
    str: text,
    int: number,
    float: real,
    bool: lambda rng: rng.random() < 0.5,
    type(None): lambda rng: None,
    Decimal: lambda rng: Decimal(rng.choice(("1.10", "0", "-0", "1E+3", "NaN", "Infinity", "0.000"))),
    datetime: moment,
    date: lambda rng: rng.choice((date.min, date.max, date(2024, 2, 29), datetime(2024, 2, 29))),
    time: lambda rng: time(rng.randrange(24), 5, 6, rng.choice((0, 50)), tzinfo=rng.choice(ZONES)),
    timedelta: lambda rng: timedelta(rng.choice((0, 1, 99_000, 999_999)), 5, rng.randrange(10**6)),
    UUID: lambda rng: UUID(int=rng.getrandbits(128)),
    bytes: lambda rng: rng.randbytes(rng.randrange(4)),
    Colour: lambda rng: rng.choice(list(Colour)),
    Level: lambda rng: rng.choice(list(Level)),
    Channel: lambda rng: Channel.WEB,
    Right: lambda rng: Right(rng.choice((2, 4, 6))),
    Name: lambda rng: Name(text(rng)),
    Part: lambda rng: (RarePart if rng.random() < 0.1 else Part)(text(rng), number(rng)),
    Money: lambda rng: Money(Decimal(number(rng)) / 100, rng.choice((None, moment(rng)))),
    Tree: lambda rng: Tree(1, [Tree(2, [Tree(number(rng))])]),
    Point: lambda rng: Point(number(rng), real(rng)),
    Any: json_value,
    Literal["a", 1]: lambda rng: rng.choice(("a", 1, "b")),
}  # fmt: skip


def annotation(rng: random.Random, depth: int = 2) -> tuple[Any, Any]:
    """A type, and its description for `value`."""
    kind = rng.randrange(10) if depth else 9
    if kind > 4:
        plain = rng.choice((str, int, *PLAIN))
        return plain, plain
    inner, described = annotation(rng, depth - 1)
    if kind == 0:
        return list[inner], ("list", described)
    if kind == 1:
        return tuple[inner, ...], ("tuple", described)
    if kind == 2:
        return dict[str, inner], ("dict", described)
    if kind == 3:
        other, its = annotation(rng, 0)
        return tuple[inner, other], ("pair", described, its)
    other, its = rng.choice([(type(None), type(None)), (str, str), (int, int)])
    try:
        return inner | other, ("union", described, its)
    except TypeError:  # such as Any | None on Python 3.10
        return inner, described


def event_class(rng: random.Random, name: str) -> tuple[type[Any], dict[str, Any]]:
    """An event class of random fields, and what describes them."""
    fields, described = {}, {}
    for n in range(rng.randint(1, 4)):
        kind, its = annotation(rng)
        fields[f"f{n}"], described[f"f{n}"] = attrs.field(type=kind), its
    fields["cart_id"], described["cart_id"] = attrs.field(type=str, default="c1"), str
    make = attrs.make_class(name, fields, frozen=rng.random() < 0.7, slots=rng.random() < 0.9)
    return event(name)(make), described


def instance(rng: random.Random, cls: type[Any], described: dict[str, Any]) -> Any:
    return cls(**{name: value(rng, kind) for name, kind in described.items()})


def dict_event(rng: random.Random, name: str) -> dict[str, Any]:
    """An event as a dict, now and then with a value or a key that JSON does not have."""
    data = {text(rng): json_value(rng) for _ in range(rng.randrange(4))}
    if rng.random() < 0.15:
        data["odd"] = odd(rng)
    return {"type": name, "data": data}


def json_text(rng: random.Random, is_broken: bool) -> str:
    """JSON as another program might write it, now and then broken."""
    value = json_value(rng)
    made = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if not is_broken:
        return made if not re.search(r"NaN|Infinity|\\u0000|[\ud800-\udfff\0]|\\ud[89a-f]", made) else "null"
    if rng.random() < 0.1:
        made = made.replace("1", rng.choice(("1e5000", "1.0", "-0", "01", "1e400")), 1)
    if rng.random() < 0.05:
        place = rng.randrange(len(made) + 1)
        made = made[:place] + rng.choice(("}", '"', "\\", "\\u0000", "\\ud800")) + made[place:]
    return made
