"""Events in the tables of other event stores, read as lines of an import."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timezone
from typing import Any, cast

import click
import psycopg2
from attrs import frozen
from psycopg2 import sql

from pgevents.codec.times import parse_datetime
from pgevents.errors import EventEncodeError

from .frame import fail
from .lines import Line, Refuse, check_type

__all__ = ["PEERS", "TOTALS_SQL", "Peer", "PeerTable", "Totals"]

Totals = tuple[int, int, int]
"""How many events and streams, and the sum of the versions, which tell whether anything is missing."""

FIND_SQL = """\
SELECT c.table_schema::text, c.table_name::text FROM information_schema.columns AS c
JOIN information_schema.tables AS t USING (table_schema, table_name)
WHERE t.table_type = 'BASE TABLE' AND c.column_name = ANY (%s)
GROUP BY 1, 2 HAVING count(*) = %s ORDER BY 1, 2
"""


@frozen
class Peer:
    """Another event store's form of an events table.

    Attributes:
        columns: The columns by which its table is recognised.
        position: The column of its total order.
        stream: The column of the stream's name.
        version: The column of the place within a stream.
        time: SQL of the time, or None if the event itself has it.
        extra_columns: Columns that are read, too.
        read: Type, JSON text of the data, other metadata and time of a row.
    """

    columns: tuple[str, ...]
    position: str
    stream: str
    version: str
    time: str | None
    extra_columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], tuple[str, str, dict[str, Any], datetime | None]]


def _eventsourcing(row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any], datetime | None]:
    """The state is JSON of the library's transcoder; a topic is "module:Class", of which the class is the
    type."""
    try:
        state: Any = json.loads(bytes(row["state"]), object_hook=_untagged)
    except ValueError:
        raise EventEncodeError(
            "its state is not JSON: it is compressed or encrypted, or has another transcoder. Export it by "
            "its program, and import the file"
        ) from None
    if not isinstance(state, dict):
        raise EventEncodeError("its state is not a JSON object")
    topic = str(row["topic"])
    found = cast("dict[str, Any]", state)
    when: Any = found.pop("timestamp", None)
    try:
        time = parse_datetime(when) if isinstance(when, str) else None
    except ValueError:
        time = None
    if time is None:
        raise EventEncodeError("its state has no timestamp, so its time is not known")
    return topic.rpartition(":")[2], json.dumps(found, ensure_ascii=False), {"topic": topic}, time


def _untagged(found: dict[str, Any]) -> Any:
    """What the library's own transcodings have made of ids, decimals and times: their text."""
    if set(found) == {"_type_", "_data_"} and found["_type_"] in ("uuid_hex", "decimal_str", "datetime_iso"):
        text = str(found["_data_"])
        is_id = found["_type_"] == "uuid_hex"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}" if is_id else text
    return found


def _message_db(row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any], datetime | None]:
    metadata = {"id": row["id"]} | ({"metadata": json.loads(row["metadata"])} if row["metadata"] else {})
    return row["type"], row["data"] or "{}", metadata, row["time"]


def _marten(row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any], datetime | None]:
    metadata = {"id": row["id"], "tenant": row["tenant_id"], "dotnet_type": row["mt_dotnet_type"]}
    if row["is_archived"]:
        metadata["is_archived"] = True
    return row["type"], row["data"], metadata, row["time"]


PEERS = {
    "eventsourcing": Peer(
        ("originator_id", "originator_version", "topic", "state", "notification_id"),
        "notification_id",
        "originator_id",
        "originator_version",
        None,
        ("topic", "state"),
        _eventsourcing,
    ),
    "message-db": Peer(
        ("global_position", "position", "time", "stream_name", "type", "data", "metadata", "id"),
        "global_position",
        "stream_name",
        "position",
        "time AT TIME ZONE 'UTC'",
        ("type", "data", "metadata", "id"),
        _message_db,
    ),
    "marten": Peer(
        ("seq_id", "id", "stream_id", "version", "data", "type", "timestamp", "tenant_id", "mt_dotnet_type"),
        "seq_id",
        "stream_id",
        "version",
        "timestamp",
        ("type", "data", "id", "tenant_id", "mt_dotnet_type", "is_archived"),
        _marten,
    ),
}


class PeerTable:
    """An events table of another store, read in one transaction that changes nothing."""

    def __init__(self, name: str, url: str, table: str | None) -> None:
        """Find the table.

        Args:
            name: Of the store.
            url: Its database.
            table: "schema.table"; needed if there are several.
        """
        self.name, self.peer = name, PEERS[name]
        try:
            self._connection = psycopg2.connect(url)
        except (psycopg2.Error, ValueError) as error:
            fail(f"no connection to the database of {name}: {str(error).strip()}")
        self._connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        columns = list(self.peer.columns)
        with self._connection.cursor() as cursor:
            cursor.execute(FIND_SQL, [columns, len(columns)])
            found = cursor.fetchall()
        fitting = [place for place in found if table in (None, place[1], ".".join(place))]
        if len(fitting) != 1:
            names = ", ".join(map(".".join, found)) or "none"
            raise click.UsageError(
                f"--table SCHEMA.TABLE names one events table of {name}; there are: {names}"
            )
        self.schema, self.table = fitting[0]
        self.source = f"{name} {self.schema}.{self.table}"

    def lines(self, refuse: Refuse) -> Iterator[Line]:
        """Its events in their order; the number of each is its position.

        Args:
            refuse: Called with the position of an event that cannot be imported, and the reason; whether that
                ends the import.
        """
        peer = self.peer
        named = [("position", peer.position), ("stream", peer.stream), ("version", peer.version)]
        columns: list[sql.Composable] = [
            sql.SQL("{}::text AS {}").format(sql.Identifier(c), sql.Identifier(a)) for a, c in named
        ]
        for column in peer.extra_columns:
            as_text = "" if column in ("state", "is_archived") else "::text"
            columns.append(sql.SQL("{}" + as_text).format(sql.Identifier(column)))
        columns.append(sql.SQL(f"{peer.time or 'NULL::timestamptz'} AS time"))
        query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
            sql.SQL(", ").join(columns),
            sql.Identifier(self.schema, self.table),
            sql.Identifier(peer.position),
        )
        opened: Any = self._connection.cursor("pgevents_import")
        with closing(opened) as cursor:
            cursor.execute(query)
            for values in cursor:
                row = {column.name: value for column, value in zip(cursor.description, values, strict=True)}
                try:
                    yield self._line(row)
                except (EventEncodeError, ValueError, RecursionError) as reason:
                    if refuse(int(row["position"]), reason):
                        return

    def _line(self, row: Mapping[str, Any]) -> Line:
        event_type, text, metadata, time = self.peer.read(row)
        data: Any = json.loads(text)
        if not isinstance(data, dict):
            raise EventEncodeError("its data are not a JSON object")
        check_type(event_type)
        metadata = {
            "imported_from": self.source,
            "stream": row["stream"],
            "version": int(row["version"]),
            "position": int(row["position"]),
            **metadata,
        }
        metadata_text = json.dumps(metadata, ensure_ascii=False)
        when = time.astimezone(timezone.utc) if time is not None else None
        return Line(int(row["position"]), event_type, text, metadata_text, when, str(when), None)

    def totals(self) -> Totals:
        """Its numbers of events and streams, and the sum of the versions."""
        query = sql.SQL("SELECT count(*), count(DISTINCT {}), coalesce(sum({}), 0) FROM {}").format(
            sql.Identifier(self.peer.stream),
            sql.Identifier(self.peer.version),
            sql.Identifier(self.schema, self.table),
        )
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            found: Any = cursor.fetchone()
        events, streams, versions = found
        return int(events), int(streams), int(versions)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


TOTALS_SQL = """\
SELECT count(*), count(DISTINCT metadata->>'stream'), coalesce(sum((metadata->>'version')::numeric), 0)
FROM {events} WHERE metadata->>'imported_from' = %s
"""
