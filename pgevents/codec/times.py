"""Dates and times from ISO text, as PostgreSQL and other languages write it; alike on every Python."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo

__all__ = ["parse_date", "parse_datetime", "parse_time", "time_of"]

_DAY = r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
_CLOCK = r"([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]+))?)?"
_ZONE = r"([Zz]|[+-][0-9]{2}(?::?[0-9]{2}(?::?[0-9]{2}(?:\.[0-9]{1,6})?)?)?)?"
_DATE = re.compile(_DAY)
_TIME = re.compile(_CLOCK + _ZONE)
_DATETIME = re.compile(f"{_DAY}[ Tt]{_CLOCK}{_ZONE}")


def parse_datetime(text: str) -> datetime:
    """A point in time; digits of a second beyond the sixth are cut off.

    Raises:
        ValueError: Another form, a time that does not exist, or no time zone.
    """
    if text.endswith("+00:00"):  # the usual form, parsed fast
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            if parsed.isoformat() == text:  # only some versions of Python accept other forms
                return parsed
    match = _DATETIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a date with time and zone in ISO form")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if zone is None:
        raise ValueError(f"{text!r} has no time zone, so nobody knows when it was")
    parts = int(year), int(month), int(day), int(hour), int(minute), int(second or 0)
    return datetime(*parts, _microseconds(fraction), _zone(zone))


def parse_date(text: str) -> date:
    """A day.

    Raises:
        ValueError: Another form, or a day that does not exist.
    """
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a date in ISO form (2024-02-29)")
    year, month, day = map(int, match.groups())
    return date(year, month, day)


def parse_time(text: str) -> time:
    """A time of day, with or without an offset.

    Raises:
        ValueError: Another form, or a time that does not exist.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time of day in ISO form (12:30:15)")
    hour, minute, second, fraction, zone = match.groups()
    return time(
        int(hour),
        int(minute),
        int(second or 0),
        _microseconds(fraction),
        None if zone is None else _zone(zone),
    )


def _microseconds(fraction: str | None) -> int:
    return int(f"{fraction or '':0<6}"[:6])


def _zone(text: str) -> tzinfo:
    if text in "Zz":
        return timezone.utc
    digits = text[1:].replace(":", "")
    whole, _, fraction = digits.partition(".")
    hours, minutes, seconds = int(whole[:2]), int(whole[2:4] or 0), int(whole[4:6] or 0)
    if minutes > 59 or seconds > 59:
        raise ValueError(f"{text!r} is not an offset from UTC")
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds, microseconds=_microseconds(fraction))
    return timezone(-offset if text[0] == "-" else offset) if offset else timezone.utc


# Python 3.10 takes neither fewer than six digits of a second nor an offset of hours alone.
time_of: Callable[[str], datetime] = datetime.fromisoformat if sys.version_info >= (3, 11) else parse_datetime
"""A time of a row of the log, as PostgreSQL writes it."""
