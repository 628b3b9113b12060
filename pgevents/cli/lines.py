"""The lines of a file to import: each is an event, or is refused with the reason."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import partial
from typing import IO, Any, cast

import click
from attrs import define

from pgevents.caches import remembered
from pgevents.codec.serialization import VERSION_KEY, dump_json
from pgevents.errors import ConfigurationError, EventEncodeError
from pgevents.event_types import check_type_name
from pgevents.save_options import EARLIEST, LATEST
from pgevents.views import nearest

from .fast_lines import texts_of_line
from .files import COLUMNS, KEY_COLUMN
from .frame import parse_time

__all__ = ["BadLine", "Line", "check_type", "csv_lines", "json_lines", "open_file"]

csv.field_size_limit(2**31 - 1)  # an event's data is one field
MEMBERS = (*COLUMNS, KEY_COLUMN)
KEY_LIMIT, VERSION_LIMIT = 600, 10_000
_between = re.compile(r"[ \t\r\n]*[{,:}][ \t\r\n]*").match
_value_at: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().raw_decode


class BadLine(Exception):
    """A line that does not hold an event; its text is the reason."""


@define
class Line:
    """One event of a file.

    Attributes:
        number: Of the line, from 1.
        type: The event's type.
        data_text: Its data as JSON, as the file has it, so that no number is rounded.
        metadata_text: What is known about the event, likewise.
        created_at: When it happened; None: now.
        time_text: The same as the file has it; empty: none.
        key: The idempotency key as it is stored; None: none.
        is_exported: Whether it has all that `pgevents export` writes, as a stored event.
    """

    number: int
    type: str
    data_text: str
    metadata_text: str
    created_at: datetime | None
    time_text: str
    key: str | None
    is_exported: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """The event's data, as Python reads JSON."""
        return cast("dict[str, Any]", json.loads(self.data_text))

    @property
    def metadata(self) -> dict[str, Any]:
        """Its metadata."""
        return cast("dict[str, Any]", json.loads(self.metadata_text))

    def digest(self) -> bytes:
        """Eight bytes that tell this event from others."""
        parts = (self.type, self.data_text, self.metadata_text, self.time_text, self.key or "")
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).digest()


Texts = Callable[[], Mapping[str, str]]
"""Gives the JSON texts of an event's members, by name."""
Refuse = Callable[[int, object], bool]
"""Called with a line's number and what is wrong with it; whether that ends the import."""


@contextmanager
def open_file(file: str) -> Generator[tuple[Any, IO[str]], None, None]:
    """The bytes of a file, and its text, unpacked if it is gzipped; - is the standard input."""
    with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as raw:
        is_gzip = file != "-" and raw.read(2) == b"\x1f\x8b"
        if file != "-":
            raw.seek(0)
        source: Any = gzip.open(raw) if is_gzip else raw
        yield raw, io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="\n")


def json_lines(text: IO[str], refuse: Refuse) -> Iterator[Line]:
    """The events of JSON Lines, up to the first bad line that ends the import."""
    for number, line in enumerate(text, 1):
        if line.strip(" \t\r\n"):
            try:
                texts = texts_of_line(line)
                if texts is None:
                    _check_text(line)
                    yield _line(number, _members(line), partial(_texts_of_members, line))
                else:
                    check_type(texts.type)
                    at, key = _created_at(texts.created_at), _key(texts.key)
                    is_exported, time = texts.is_exported, texts.created_at or ""
                    yield Line(number, texts.type, texts.data, texts.metadata, at, time, key, is_exported)
            except (BadLine, EventEncodeError, ValueError, RecursionError) as reason:
                if refuse(number, reason):
                    return


def csv_lines(text: IO[str], type_name: str | None, refuse: Refuse) -> Iterator[Line]:
    """The events of a CSV, likewise; with a type's name each row is the data of an event of that type."""
    rows = csv.DictReader(text)
    try:
        names = list(rows.fieldnames or ())
        _check_text("".join(names))
    except (csv.Error, BadLine) as error:
        raise click.UsageError(f"the CSV's header cannot be read: {error}") from error
    missing = [name for name in (() if type_name else ("type", "data")) if name not in names]
    if missing:
        raise click.UsageError(f"the CSV has no column {missing[0]!r}; for a CSV of another form give --type")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise click.UsageError(f"the CSV has two columns {twice[0]!r}")
    unknown = [] if type_name else [name for name in names if name not in MEMBERS]
    if unknown:
        raise click.UsageError(
            f"the CSV has a column {unknown[0]!r}; {nearest(unknown[0], MEMBERS)} For a CSV of another form "
            "give --type"
        )
    number = 1
    while True:
        number += 1
        try:
            row = next(rows, None)
            if row is None:
                return
            yield _line(number, *_csv_members(row, type_name))
        except (BadLine, EventEncodeError, ValueError, RecursionError, csv.Error) as reason:
            if refuse(number, reason):
                return


def _csv_members(row: dict[Any, Any], type_name: str | None) -> tuple[dict[str, Any], Texts]:
    """The members of an event, and what gives their JSON text."""
    if None in row or None in row.values():
        raise BadLine("it has another number of fields than the header")
    _check_text("".join(row.values()))
    if type_name:
        return {"type": type_name, "data": dict(row)}, lambda: {"data": json.dumps(row, ensure_ascii=False)}
    found: dict[str, Any] = {
        name: row[name] for name in ("id", "type", "created_at", KEY_COLUMN) if row.get(name)
    } | {name: json.loads(row[name]) for name in ("data", "metadata") if row.get(name)}
    return found, lambda: row


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadLine("it is not in UTF-8") from None


def _members(text: str) -> dict[str, Any]:
    """The members of a JSON object; a name that occurs twice is refused."""
    objects: list[list[tuple[str, Any]]] = []

    def noted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        objects.append(pairs)
        return dict(pairs)

    try:
        found = json.loads(text, object_pairs_hook=noted)
    except ValueError as error:
        raise BadLine(f"it is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise BadLine("an event is a JSON object")
    members = cast("dict[str, Any]", found)
    if len(members) < len(objects[-1]):  # the outermost object comes last
        raise BadLine("a name stands twice in the event")
    return members


def _texts_of_members(text: str) -> dict[str, str]:
    """The texts of the members of a JSON object, for numbers that Python would round."""
    texts: dict[str, str] = {}
    at = _skip(text, 0)
    while at < len(text):
        name, end = _value_at(text, at)
        begin = _skip(text, end)
        _, end = _value_at(text, begin)
        texts[name] = text[begin:end]
        at = _skip(text, end)
    return texts


def _skip(text: str, at: int) -> int:
    """The place behind a sign and the blanks around it, in text that is known to be JSON."""
    found = _between(text, at)
    return at if found is None else found.end()


def _line(number: int, members: Mapping[str, Any], texts: Texts) -> Line:
    for member in members:
        if member not in MEMBERS:
            raise BadLine(f"an event has no {member!r:.80}; {nearest(member, MEMBERS)}")
    name, data = members.get("type"), members.get("data")
    metadata: Any = members.get("metadata") or {}
    if not isinstance(name, str) or not isinstance(data, dict):
        raise BadLine('an event has a "type", which is text, and "data", which is an object')
    check_type(name)
    if not isinstance(metadata, dict):
        raise BadLine('"metadata" is an object')
    version: Any = cast("dict[str, Any]", metadata).get(VERSION_KEY, 1)
    if type(version) is not int or not 1 <= version <= VERSION_LIMIT:
        raise BadLine(f"{VERSION_KEY} in the metadata is a whole number from 1 to {VERSION_LIMIT:,}")
    return Line(
        number,
        name,
        _exact_text("data", cast(object, data), texts),
        _exact_text("metadata", cast(object, metadata), texts) if metadata else "{}",
        _created_at(members.get("created_at")),
        members.get("created_at") or "",
        _key(members.get(KEY_COLUMN)),
        str(members.get("id")).isdecimal() and "metadata" in members and bool(members.get("created_at")),
    )


def _exact_text(member: str, value: object, texts: Texts) -> str:
    """The JSON text of data or metadata, as the file has it.

    Raises:
        EventEncodeError: A save would refuse it, too.
    """
    dump_json(value, f"the {member}")
    return _one_line(texts()[member])


def _one_line(text: str) -> str:
    """JSON without line breaks, which stand between values only."""
    return text.replace("\n", " ").replace("\r", " ") if "\n" in text or "\r" in text else text


@remembered("types of imported lines")
def check_type(name: str) -> None:
    """Check that a save takes the name of a type; those that pass are remembered.

    Raises:
        EventEncodeError: It cannot be one.
    """
    try:
        check_type_name(name)
    except ConfigurationError as error:
        raise EventEncodeError(str(error)) from error


def _created_at(value: Any) -> datetime | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadLine(f"created_at is a time as text, not {value!r}")
    when = parse_time(value)
    if not EARLIEST < when < LATEST:
        raise BadLine(f"created_at lies between {EARLIEST.date()} and {LATEST.date()}, not at {value}")
    return when


def _key(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= KEY_LIMIT or "\0" in value:
        raise BadLine(f"{KEY_COLUMN} is a text of 1 to {KEY_LIMIT} characters")
    return value
