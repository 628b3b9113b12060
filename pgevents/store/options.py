"""The options of a read, checked."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import attrs

from pgevents.errors import ConfigurationError, InvalidValueError, shown

__all__ = [
    "PLAIN",
    "AsOf",
    "OnUndecodable",
    "ReadOptions",
    "check_as_of",
    "check_flag",
    "check_id",
    "check_limit",
    "check_seconds",
]

AsOf = int | datetime
OnUndecodable = Literal["raise", "skip", "raw"]
"""What becomes of events that cannot be read."""


def check_id(value: object, what: str) -> int:
    """An event id as an int.

    Raises:
        InvalidValueError: Text, a bool, a negative number or anything else.
    """
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidValueError(f"{what} is the id of an event, a whole number from 0 on, not {shown(value)}")
    return value


def check_as_of(as_of: object) -> AsOf | None:
    """An `as_of` argument: an id, or a time with its zone.

    Raises:
        InvalidValueError: Anything else.
    """
    if isinstance(as_of, datetime):
        if as_of.tzinfo is None:
            raise InvalidValueError(
                f"as_of={shown(as_of)} has no time zone; use datetime.now(timezone.utc) or alike"
            )
        return as_of
    if as_of is not None and (type(as_of) is not int or not 0 <= as_of < 2**63):
        raise InvalidValueError(
            "as_of is the id of an event, a whole number from 0 on, or a datetime with a time zone, not "
            f"{shown(as_of)}"
        )
    return as_of


def check_on_undecodable(value: object) -> None:
    """Check that `on_undecodable` is one of its three values.

    Raises:
        ConfigurationError: Another text, or something else.
    """
    if value not in ("raise", "skip", "raw"):
        raise ConfigurationError(f'on_undecodable is "raise", "skip" or "raw", not {shown(value)}')


def check_limit(value: object) -> int | None:
    """How many at most; None for no limit.

    Raises:
        InvalidValueError: Not a whole number from 0 on.
    """
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 2**62:
        raise InvalidValueError(f"limit is a whole number from 0 on, not {shown(value)}")
    return value


def check_flag(value: object, name: str) -> bool:
    """A bool.

    Raises:
        ConfigurationError: Anything else.
    """
    if type(value) is not bool:
        raise ConfigurationError(f"{name} is True or False, not {shown(value)}")
    return value


def check_seconds(value: object, name: str) -> float:
    """A number of seconds from 0 on.

    Raises:
        ConfigurationError: Anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise ConfigurationError(f"{name} is a number of seconds from 0 on, not {shown(value)}")
    return value


@attrs.frozen
class ReadOptions:
    """Which part of its streams a read gives, and in which order.

    Attributes:
        after: Where the read goes on: at events above this id, or below it in reverse; 0 for the beginning.
        limit: At most this many events.
        reverse: Whether the newest come first.
        as_of: Only events up to this id, or created up to this time.
        on_undecodable: What becomes of events that cannot be read.

    Raises:
        ConfigurationError: A value that is not valid.
    """

    after: int = 0
    limit: int | None = None
    reverse: bool = False
    as_of: AsOf | None = None
    on_undecodable: OnUndecodable = "raise"

    def __attrs_post_init__(self) -> None:
        check_id(self.after, "after")
        check_limit(self.limit)
        check_flag(self.reverse, "reverse")
        check_as_of(self.as_of)
        check_on_undecodable(self.on_undecodable)

    @property
    def is_plain(self) -> bool:
        """Whether all events above an id are wanted, in order."""
        return self.limit is None and not self.reverse and self.as_of is None

    @property
    def keeps_undecodable(self) -> bool:
        """Whether an event that cannot be read is no error."""
        return self.on_undecodable != "raise"

    @property
    def order(self) -> str:
        """The order as SQL."""
        return "ORDER BY id DESC" if self.reverse else "ORDER BY id"


PLAIN = ReadOptions()
"""Everything, in order."""
