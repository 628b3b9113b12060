"""Snapshots in the projections table: proven, saved if newer, read back as views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import attrs

from pgevents.caches import Cache, TimedCache
from pgevents.codec import fast
from pgevents.codec.serialization import Serializer, dump_json, load_json
from pgevents.errors import ConfigurationError, EventDecodeError, EventEncodeError
from pgevents.hooks.details import OperationRecord, Snapshot
from pgevents.hooks.registry import Plugins
from pgevents.ids import id_of
from pgevents.projection_classes import fold_alike
from pgevents.store.layout import TableSpec
from pgevents.store.ownership import snapshots_mark
from pgevents.store.session import Session
from pgevents.store.tables import ProjectionsModel
from pgevents.type_registry import EventTypes
from pgevents.views import digest, first_difference, is_alike, is_dict_class, jsonb_text

__all__ = ["UPSERT_SQL", "Noted", "SaveResult", "SavedProjection", "SavedViews", "SnapshotKey", "Snapshots"]

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

COLUMNS = "type, id, coalesce(exact, data::text) AS data, latest_event_id, version, created_at, updated_at"

UPSERT_SQL = """\
ON CONFLICT (type, id, version) DO UPDATE SET data = excluded.data, exact = excluded.exact,
    latest_event_id = excluded.latest_event_id, shape = excluded.shape, updated_at = clock_timestamp()
WHERE excluded.shape IS DISTINCT FROM stands.shape OR excluded.latest_event_id > stands.latest_event_id"""
"""Each version has a row of its own, and of the same shape only the later fold wins."""
# Of one that was folded anew from the start, other data win, too. Nothing is written if the log was changed
# under maintenance since the fold began, or if the snapshot that it began with was removed: what was erased
# must not come back.
SAVE_SQL = f"""\
WITH base AS (SELECT FROM {{table}} WHERE %(has_base)s AND type = %(type)s AND id = %(id)s
    AND version = %(version)s FOR UPDATE)
INSERT INTO {{table}} AS stands (type, id, data, exact, latest_event_id, version, shape)
SELECT %(type)s, %(id)s, %(data)s::jsonb, %(exact)s, %(latest)s, %(version)s, %(shape)s
WHERE {{hold_redactions}}() = coalesce(%(noted)s, {{redactions}}())
    AND (NOT %(has_base)s OR EXISTS (SELECT FROM base))
{UPSERT_SQL}
    OR %(anew)s AND excluded.latest_event_id = stands.latest_event_id AND excluded.data <> stands.data
RETURNING {{columns}}, xmax = 0
"""
STANDS_SQL = """\
SELECT {columns}, shape FROM {table}
WHERE type = %s AND id = %s AND version = %s AND {redactions}() = coalesce(%s, {redactions}())
"""
# Both as the same statement sees them: a snapshot that is read here was not removed by a redaction before.
NOTE_SQL = """\
SELECT {redactions}(), s.* FROM (VALUES (1)) AS always
LEFT JOIN (SELECT {columns} FROM {table} WHERE type = %s AND id = %s AND version = %s AND shape = %s) AS s ON
true
"""
GET_SQL = """\
SELECT {columns} FROM {table} WHERE type = %s AND id = %s AND (%s::int IS NULL OR version = %s)
ORDER BY version DESC LIMIT 1
"""
DELETE_SQL = "DELETE FROM {table} WHERE type = %s AND id = %s"


@attrs.frozen
class SavedProjection(Generic[V_co]):
    """A snapshot as it stands in the projections table.

    Attributes:
        type: The projection's type.
        id: The projection's id: as its class says by its third type argument or an annotation, a tuple if it
            was one, else as text.
        data: The view.
        latest_event_id: Id of the last event that is folded into it.
        version: The version of the projection that folded it.
        created_at: When the first snapshot of this id and version was saved.
        updated_at: When this one was saved.
    """

    type: str
    id: Any
    data: V_co
    latest_event_id: int
    version: int
    created_at: datetime
    updated_at: datetime


class SavedViews(list[SavedProjection[V]], Generic[V]):
    """What a query of saved projections found: a list of them.

    Attributes:
        position: Of views that a runner keeps: they stand as of this id in the log. None for others, each of
            which stands as of its own `latest_event_id`.
        is_whole: Of views that a runner keeps: whether none is missing as of the position. False only with
            `partial="allow"`. None if no runner keeps them, or not all of them: these are the snapshots that
            were saved, and which views have none is not known.
        is_stale: Whether the position has not moved for longer than `max_lag`, though there are events for
            it.
    """

    position: int | None = None
    is_whole: bool | None = None
    is_stale: bool = False


@attrs.frozen
class SaveResult(Generic[V_co]):
    """The result of saving a projection.

    Attributes:
        status: "created", "updated" or "skipped".
        projection: The row of this version that stands now.
    """

    status: str
    projection: SavedProjection[V_co]


@attrs.frozen
class SnapshotKey:
    """Where a projection's snapshot stands, and what it is read back as.

    Attributes:
        type: The projection's type.
        id: Its id, as text.
        version: Its version.
        shape: The shape of its view; None matches no snapshot.
        view_class: The view's class.
        id_class: The id's type, or Any.
    """

    type: str
    id: str
    version: int
    shape: str | None
    view_class: Any
    id_class: Any = Any


@attrs.frozen
class Noted(Generic[V_co]):
    """What stood when a fold began.

    Attributes:
        redactions: How often the log had been changed under maintenance.
        row: The snapshot to fold on from, as it is stored; None if there is none.
        saved: The same as a saved projection.
    """

    redactions: str
    row: tuple[Any, ...] | None
    saved: SavedProjection[V_co] | None


@attrs.frozen
class Snapshots:
    """Reads and writes one projections table.

    Attributes:
        session: Runs SQL.
        model: The projections table's model.
        serializer: Makes JSON of views, and the reverse.
        events: The events table that the views are folded from.
        kinds: By class, which saved projections are meant, and of what that was found; see `view_kind`.
        uniform: Types, versions and shapes of which no snapshot has another shape.
        kept: By type and version, whether a runner keeps the views; by type and None, the version that
            queries by the type's name read, None if none is kept. As it was found lately.
    """

    session: Session
    model: type[ProjectionsModel]
    serializer: Serializer
    events: TableSpec
    kinds: Cache[Any, Any] = attrs.field(factory=lambda: Cache("kinds of views"))
    uniform: Cache[tuple[str, int | None, str], bool] = attrs.field(
        factory=lambda: Cache("views of one shape")
    )
    kept: TimedCache[tuple[str, int | None], Any] = attrs.field(factory=lambda: TimedCache("kept views"))
    _claims: dict[tuple[str, int], tuple[Any, ...]] = attrs.field(factory=dict[tuple[str, int], Any])
    _stored_shapes: Cache[str, str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_stored_shapes", Cache("stored shapes", self._find_stored_shape))

    def sql(self, template: str) -> str:
        """A statement with the names of tables and functions filled in."""
        return template.format(
            table=self.model.pgevents_spec.qualified(),
            columns=COLUMNS,
            redactions=self.events.qualified("_redactions"),
            hold_redactions=self.events.qualified("_hold_redactions"),
        )

    def stored_shape(self, shape: str) -> str:
        """The shape as it is stored: two logs that share a table do not take each other's snapshots."""
        return self._stored_shapes[shape]

    def _find_stored_shape(self, shape: str) -> str:
        return digest(f"{shape} {snapshots_mark(self.events, self.model.pgevents_spec)}")

    def claim(self, cls: Any, types: EventTypes) -> bool:
        """Note which class saves a type and version.

        A class of the same name that is defined again takes over, and so does one that folds alike.

        Returns:
            Whether it is seen for the first time since the client's types changed, and is to be looked at.

        Raises:
            ConfigurationError: Another class has them: each would fold on from the other's snapshots.
        """
        key = (cls.projection_type, cls.version)
        claimed = self._claims.get(key)
        if claimed is not None and claimed == (cls, types, types.revision):
            return False
        if claimed is not None and claimed[0] is not cls and not fold_alike(claimed[0], cls):
            raise ConfigurationError(
                f"two classes are saved as {cls.projection_type!r}, version {cls.version}: {claimed[0]!r} "
                f"and {cls!r}; each would fold on from the other's snapshots. Give one another "
                "projection_type, or raise the version"
            )
        self._claims[key] = (cls, types, types.revision)
        return True

    # -- reading ------------------------------------------------------------

    def decode(self, row: Sequence[Any], view_class: Any, id_class: Any = Any) -> SavedProjection[Any]:
        """A row of `COLUMNS` as a saved projection."""
        kind, id_text, data, latest, version, created_at, updated_at = row[:7]
        view = self.view_of(data, view_class, kind)
        return SavedProjection(kind, id_of(id_text, id_class), view, latest, version, created_at, updated_at)

    def decoder(
        self, view_class: Any, id_class: Any = Any
    ) -> Callable[[Sequence[Any]], SavedProjection[Any]]:
        """The same for many rows of one kind: what follows from the kind is found out once."""
        read = load_json if is_dict_class(view_class) else self.serializer.from_text[view_class]
        is_text = id_class is str or id_class is Any

        def decode(row: Sequence[Any]) -> SavedProjection[Any]:
            kind, text, data, latest, version, created_at, updated_at, *_ = row
            try:
                view = read(data)
            except Exception:  # the slower form's error names the field at fault
                view = self.view_of(data, view_class, kind)
            id = text if is_text and text[:1] != "[" else id_of(text, id_class)
            return SavedProjection(kind, id, view, latest, version, created_at, updated_at)

        return decode

    def view_of(self, text: str, view_class: Any, kind: str) -> Any:
        """A view from stored JSON text."""
        if is_dict_class(view_class):
            return load_json(text)
        return self.serializer.decode_text(text, view_class, kind)

    def note(self, key: SnapshotKey) -> Noted[Any]:
        """What a fold begins with: the snapshot, and the count of redactions to check when it is saved."""
        values = [key.type, key.id, key.version, key.shape]
        redactions, *row = self.session.execute(self.sql(NOTE_SQL), values).fetchone()
        if row[0] is None:
            return Noted(redactions, None, None)
        return Noted(redactions, tuple(row), self.decode(row, key.view_class, key.id_class))

    def get(
        self, kind: str, id_text: str, version: int | None, view_class: Any, id_class: Any = Any
    ) -> SavedProjection[Any] | None:
        """The snapshot of this version (None: of the newest there is), or None."""
        row = self.session.execute(self.sql(GET_SQL), [kind, id_text, version, version]).fetchone()
        return None if row is None else self.decode(row, view_class, id_class)

    # -- writing ------------------------------------------------------------

    def delete(self, kind: str, id_text: str) -> bool:
        """Remove the snapshots of an id, of all versions; whether there was one."""
        return bool(self.session.execute(self.sql(DELETE_SQL), [kind, id_text]).rowcount)

    def save(
        self,
        snapshot: Snapshot,
        key: SnapshotKey,
        noted: Noted[Any] | None = None,
        *,
        anew: bool = False,
        is_changed: bool = False,
    ) -> SaveResult[Any] | None:
        """Save a snapshot unless an equal or newer one stands.

        Args:
            snapshot: The view and its data.
            key: Where it is saved.
            noted: What stood when the fold began; None: do not look.
            anew: Whether it was folded from the start, so that it may replace other data of the same event.
            is_changed: Whether a plugin has put other data in place of the view's: they are the view from
                now on.

        Returns:
            The result; None if what was noted has changed since: then fold again.

        Raises:
            EventEncodeError: Reading the snapshot would give another view.
            RetryableError: The log is being changed under maintenance.
        """
        data, exact = self.proven(snapshot, key, is_changed)
        redactions = None if noted is None else noted.redactions
        values = {
            "type": key.type,
            "id": key.id,
            "data": data,
            "exact": exact,
            "latest": snapshot.latest_event_id,
            "version": key.version,
            "shape": key.shape,
            "noted": redactions,
            "has_base": noted is not None and noted.row is not None,
            "anew": anew,
        }
        row = self.session.execute(self.sql(SAVE_SQL), values).fetchone()
        if row is not None:
            return SaveResult(
                "created" if row[7] else "updated", self.decode(row, key.view_class, key.id_class)
            )
        row = self.session.execute(
            self.sql(STANDS_SQL), [key.type, key.id, key.version, redactions]
        ).fetchone()
        if row is None:
            return None
        view_class = key.view_class if row[7] == key.shape else dict  # of another shape, unknown here
        return SaveResult("skipped", self.decode(row, view_class, key.id_class))

    def save_with_hooks(
        self,
        plugins: Plugins,
        snapshot: Snapshot,
        key: SnapshotKey,
        noted: Noted[Any] | None = None,
        *,
        anew: bool = False,
    ) -> SaveResult[Any] | None:
        """The same in one transaction with the hooks before and after it."""
        with (
            plugins.observed(OperationRecord("snapshot", projection=snapshot.type)) as operation,
            self.session.atomic(),
        ):
            data = snapshot.data
            snapshot = plugins.before_snapshot(snapshot)
            is_changed = snapshot.data is not data
            result = self.save(snapshot, key, noted, anew=anew, is_changed=is_changed)
            if result is not None:
                operation.status = result.status
                plugins.hook.pgevents_after_snapshot(
                    client=plugins.client, snapshot=snapshot, status=result.status
                )
            self.session.check_alive()
        return result

    def proven(
        self, snapshot: Snapshot, key: SnapshotKey, is_changed: bool = False
    ) -> tuple[str, str | None]:
        """The data as JSON text, and the same to be kept as it is written if jsonb would give back another
        view.

        The proof reads back the texts that will be stored. If neither gives the view, every later view would
        differ from a fold from the start.
        """
        quick = None if is_changed else self._proven_in_one_step(snapshot, key)
        if quick is not None:
            return quick, None
        what = f"the view of {snapshot.type} {snapshot.id!r}"
        text = dump_json(snapshot.data, what)
        plain = load_json(text)
        of_jsonb = self._read_back(jsonb_text(plain), plain, key)
        as_written = self._read_back(text, plain, key) if is_changed else snapshot.view
        if first_difference(as_written, of_jsonb) is None:
            return text, None
        found = first_difference(as_written, self._read_back(text, plain, key))
        if found is not None:
            path, view, read = found
            raise EventEncodeError(
                f"{what}, {path or 'as a whole'}: {view!r} would come back from a snapshot as {read!r}, and "
                "later views would differ from a fold from the start; give the field a type that says "
                "what it is (an attrs class, datetime, tuple[...]), or keep in it what JSON has"
            )
        return text, text

    def _proven_in_one_step(self, snapshot: Snapshot, key: SnapshotKey) -> str | None:
        """The same for most views, in less time; None where the slower form must decide."""
        is_simple = self.serializer.reads_any_order[key.view_class]
        text = fast.dump(snapshot.data, has_floats=not is_simple)
        if text is None:
            return None
        stored = text if is_simple else jsonb_text(load_json(text))
        try:
            read = self.view_of(stored, key.view_class, key.type)
        except EventDecodeError:
            return None
        return text if is_alike(snapshot.view, read) else None

    def _read_back(self, text: str, plain: Any, key: SnapshotKey) -> Any:
        try:
            return self.view_of(text, key.view_class, key.type)
        except EventDecodeError as error:
            self.serializer.check(plain, key.view_class, key.type)
            raise EventEncodeError(str(error)) from error
