"""The filters of a page of the log: a query string, as SQL conditions and as links."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

import attrs

from pgevents.errors import ConfigurationError
from pgevents.fields import check_field, text_sql
from pgevents.store.layout import TableSpec
from pgevents.texts import is_text

__all__ = ["LARGEST_ID", "Filter", "FilterError", "check_text", "number"]

LARGEST_ID = 2**63 - 1


class FilterError(ConfigurationError):
    """A query string that is not valid; the message says what to write."""


@attrs.frozen
class Filter:
    """Which events a page shows.

    Attributes:
        types: Stored names of event types; any of them.
        where: Field and value pairs of the data; all of them.
        metadata: Key and value pairs of the metadata; all of them.
        since: Events created at or after this time.
        until: Events created before this time.
        text: A text that occurs anywhere in the data, in upper or lower case.
    """

    types: tuple[str, ...] = ()
    where: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""

    @classmethod
    def of(cls, args: Any) -> Filter:
        """The filter that a query string (a werkzeug `MultiDict`) describes.

        Raises:
            FilterError: A value that is not valid.
        """
        for values in args.listvalues():
            check_text("".join(values))
        return cls(
            types=tuple(value for value in args.getlist("type") if value),
            where=tuple(_pair(text, "where") for text in args.getlist("where") if text),
            metadata=tuple(_pair(text, "meta") for text in args.getlist("meta") if text),
            since=_time(args.get("since", ""), "since"),
            until=_time(args.get("until", ""), "until"),
            text=args.get("text", ""),
        )

    @property
    def is_empty(self) -> bool:
        """Whether every event passes."""
        return self == Filter()

    def query(self, **paging: Any) -> str:
        """The query string of this filter, and of what else is given."""
        pairs: list[tuple[str, Any]] = [("type", name) for name in self.types]
        pairs += [("where", f"{field}={value}") for field, value in self.where]
        pairs += [("meta", f"{key}={value}") for key, value in self.metadata]
        for name, when in (("since", self.since), ("until", self.until)):
            if when is not None:
                pairs.append((name, when.isoformat()))
        if self.text:
            pairs.append(("text", self.text))
        pairs += [(name, value) for name, value in paging.items() if value is not None]
        return urlencode(pairs)

    def residual(self, spec: TableSpec) -> tuple[list[str], list[Any]]:
        """The conditions that no index answers, as SQL and parameters."""
        sql: list[str] = []
        params: list[Any] = []
        indexed = self._indexed(spec)
        for field, value in self.where:
            if (field, value) != indexed:
                sql.append(_has_sql(spec, field))
                params.append(value)
        if indexed is not None and self.types:
            sql.append("type = ANY (%s)")
            params.append(list(self.types))
        for key, value in self.metadata:
            sql.append("metadata->>%s = %s")
            params += [key, value]
        if self.since is not None:
            sql.append("created_at >= %s")
            params.append(self.since)
        if self.until is not None:
            sql.append("created_at < %s")
            params.append(self.until)
        if self.text:
            sql.append("data::text ILIKE %s")
            params.append(f"%{_literal(self.text)}%")
        return sql, params

    def _indexed(self, spec: TableSpec) -> tuple[str, str] | None:
        """The first pair of `where` whose field is a data index, or None."""
        return next((pair for pair in self.where if pair[0] in spec.data_indexes), None)

    def ranges(self, spec: TableSpec) -> list[tuple[str, list[Any], str]]:
        """The index ranges that hold all matching events: condition, parameters, and the index's order."""
        indexed = self._indexed(spec)
        if indexed is not None:
            field, value = indexed
            column = "" if field in spec.lists else text_sql(field)
            return [(_has_sql(spec, field), [value], column)]
        if self.types:
            return [("type = %s", [name], "type") for name in self.types]
        return [("true", [], "")]


def _has_sql(spec: TableSpec, field: str) -> str:
    if field not in spec.lists:
        return f"{text_sql(field)} = %s"
    lists = spec.qualified("_lists")
    return f"id IN (SELECT l.id FROM {lists} AS l WHERE l.field = '{field}' AND l.value = %s)"


def check_text(text: str) -> None:
    """Refuse what PostgreSQL has no text for.

    Raises:
        FilterError: A NUL, or half of a surrogate pair.
    """
    if "\0" in text or not is_text(text):
        raise FilterError("a filter holds a character that PostgreSQL has no text for")


def number(args: Mapping[str, str], name: str) -> int | None:
    """An event's id in a query string, or None.

    Raises:
        FilterError: Not an id.
    """
    text = args.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= LARGEST_ID):
        raise FilterError(f"{name} is the id of an event, not {text[:40]!r}")
    return int(text)


def _pair(text: str, name: str) -> tuple[str, str]:
    field, sign, value = text.partition("=")
    if not sign or not field:
        raise FilterError(f"{name} is written FIELD=VALUE, as in {name}=cart_id=c1, not {text[:80]!r}")
    try:
        return (check_field(field) if name == "where" else field), value
    except ConfigurationError as error:
        raise FilterError(f"{name}={field[:40]}: {error}") from error


def _time(text: str, name: str) -> datetime | None:
    if not text:
        return None
    try:
        when = datetime.fromisoformat(text.strip().replace("Z", "+00:00").replace(" ", "+"))
    except ValueError:
        raise FilterError(f"{name} is a time, as in 2026-01-31T12:00, not {text[:40]!r}") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)


def _literal(text: str) -> str:
    """A text in which LIKE finds nothing special."""
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
