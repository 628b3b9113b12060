"""Snapshots in the projections table: saved if newer, read back as views, queried by their fields."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Any, Generic, TypeVar, cast

import attrs
import peewee

from pgevents.codec.serialization import Serializer, dump_json, load_json
from pgevents.hooks.details import Operation, Snapshot
from pgevents.hooks.registry import Plugins
from pgevents.store.session import Session
from pgevents.store.tables import ProjectionsModel, TableSpec
from pgevents.streams import check_field_name, identifier_text

__all__ = ["SaveResult", "SavedProjection", "Snapshots"]

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

COLUMNS = "type, id, data::text AS data, latest_event_id, version, created_at, updated_at"

# A newer version replaces any older one; of the same version only the later fold wins.
SAVE_SQL = """\
INSERT INTO {table} AS stands (type, id, data, latest_event_id, version)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (type, id) DO UPDATE SET data = excluded.data, latest_event_id = excluded.latest_event_id,
    version = excluded.version, updated_at = clock_timestamp()
WHERE excluded.version > stands.version
    OR excluded.version = stands.version AND excluded.latest_event_id > stands.latest_event_id
RETURNING {columns}, xmax = 0
"""


@attrs.frozen
class SavedProjection(Generic[V_co]):
    """A snapshot as it stands in the projections table.

    Attributes:
        type: The projection's type.
        id: The projection's id, as text.
        data: The view.
        latest_event_id: Id of the last event that is folded into it.
        version: The version of the projection that folded it.
        created_at: When the first snapshot of this id was saved.
        updated_at: When this one was saved.
    """

    type: str
    id: str
    data: V_co
    latest_event_id: int
    version: int
    created_at: datetime
    updated_at: datetime


@attrs.frozen
class SaveResult(Generic[V_co]):
    """What came of saving a projection.

    Attributes:
        status: "created", "updated" or "skipped".
        projection: The row that stands now. Where a newer version of the projection has saved it, its data
            stays a dict: this program may not know its shape.
    """

    status: str
    projection: SavedProjection[V_co]


@attrs.frozen
class Snapshots:
    """Reads and writes one projections table."""

    session: Session
    model: type[ProjectionsModel]
    serializer: Serializer

    @property
    def _spec(self) -> TableSpec:
        return self.model.pgevents_spec

    def decode(self, row: Sequence[Any], view_class: type[V]) -> SavedProjection[V]:
        """A row of `COLUMNS` as a saved projection."""
        kind, id_text, data, latest, version, created_at, updated_at = row[:7]
        view = self.serializer.decode_text(data, view_class, kind)
        return SavedProjection(kind, id_text, view, latest, version, created_at, updated_at)

    def save(self, snapshot: Snapshot, view_class: type[V]) -> SaveResult[V]:
        """Save a snapshot unless an equal or newer one stands."""
        sql = SAVE_SQL.format(table=self._spec.qualified(), columns=COLUMNS)
        data = dump_json(snapshot.data, f"the view of {snapshot.type} {snapshot.id!r}")
        self.serializer.check(load_json(data), view_class, snapshot.type)  # else every later view would break
        values = [snapshot.type, snapshot.id, data, snapshot.latest_event_id, snapshot.version]
        row = self.session.execute(sql, values).fetchone()
        if row is not None:
            return SaveResult("created" if row[7] else "updated", self.decode(row, view_class))
        sql = f"SELECT {COLUMNS} FROM {self._spec.qualified()} WHERE type = %s AND id = %s"
        row = self.session.execute(sql, values[:2]).fetchone()
        if row[4] == snapshot.version:
            return SaveResult("skipped", self.decode(row, view_class))
        newer: Any = load_json(row[2])  # another version's view, of a shape that this program need not know
        return SaveResult("skipped", SavedProjection(row[0], row[1], newer, *row[3:7]))

    def save_with_hooks(self, plugins: Plugins, snapshot: Snapshot, view_class: type[V]) -> SaveResult[V]:
        """The same in one transaction with the hooks before and after it."""
        with (
            plugins.observed(Operation("snapshot", projection=snapshot.type)) as operation,
            self.session.atomic(),
        ):
            snapshot = plugins.before_snapshot(snapshot)
            result = self.save(snapshot, view_class)
            operation.status = result.status
            plugins.hook.pgevents_after_snapshot(
                client=plugins.client, snapshot=snapshot, status=result.status
            )
            self.session.check_alive()
        return result

    def get(self, kind: str, id_text: str, version: int, view_class: type[V]) -> SavedProjection[V] | None:
        """The snapshot of this version, or None."""
        sql = f"SELECT {COLUMNS} FROM {self._spec.qualified()} WHERE type = %s AND id = %s AND version = %s"
        row = self.session.execute(sql, [kind, id_text, version]).fetchone()
        return None if row is None else self.decode(row, view_class)

    def query(
        self,
        kind: str,
        version: int,
        view_class: type[V],
        match: Mapping[str, Any],
        where: peewee.Expression | None,
        order_by: Any,
        limit: int | None,
        offset: int | None,
    ) -> list[SavedProjection[V]]:
        """Snapshots of one type whose views have these values."""
        texts = {check_field_name(field): _candidates(field, value) for field, value in match.items()}
        if where is None and order_by is None:  # what Peewee would build, without building it anew each time
            ends = {" LIMIT %s": limit, " OFFSET %s": offset}
            sql = (
                f"SELECT {COLUMNS} FROM {self._spec.qualified()} WHERE type = %s AND version = %s"
                + "".join([f" AND data->>'{field}' = ANY(%s)" for field in texts])
                + " ORDER BY id"
                + "".join([end for end, count in ends.items() if count is not None])
            )
            params = [
                kind,
                version,
                *texts.values(),
                *[count for count in ends.values() if count is not None],
            ]
        else:
            sql, params = self._built(kind, version, texts, where, order_by, limit, offset)
        return [self.decode(row, view_class) for row in self.session.execute(sql, params).fetchall()]

    def _built(
        self,
        kind: str,
        version: int,
        texts: Mapping[str, list[str]],
        where: peewee.Expression | None,
        order_by: Any,
        limit: int | None,
        offset: int | None,
    ) -> tuple[str, list[Any]]:
        """The statement of a query with expressions of Peewee's in it."""
        model: Any = self.model
        fields = [
            getattr(model, name)
            for name in ("type", "id", "latest_event_id", "version", "created_at", "updated_at")
        ]
        query = model.select(*fields[:2], peewee.Cast(model.data, "text"), *fields[2:])
        query = query.where((model.type == kind) & (model.version == version))
        for field, several in texts.items():
            column = peewee.SQL(f"\"t1\".data->>'{field}'")
            query = query.where(
                peewee.Expression(column, "=", peewee.fn.ANY(peewee.Value(several, unpack=False)))
            )
        if where is not None:
            query = query.where(where)
        query = query.order_by(*(order_by if isinstance(order_by, (list, tuple)) else [order_by or model.id]))
        if limit is not None:
            query = query.limit(limit)
        if offset is not None:
            query = query.offset(offset)
        sql, params = query.sql()
        return sql, params


def _candidates(field: str, value: Any) -> list[str]:
    """The texts that `data->>'field'` may have: any of a list; of an array field the array itself,
    exactly."""
    if not isinstance(value, (list, tuple)):
        return [identifier_text(field, value)]
    several = cast("Sequence[Any]", value)
    texts = [identifier_text(field, one) for one in several if not isinstance(one, (list, tuple, dict))]
    return [
        *texts,
        json.dumps(
            list(several),
            ensure_ascii=False,
            default=lambda one: one.value if isinstance(one, Enum) else identifier_text(field, one),
        ),
    ]
