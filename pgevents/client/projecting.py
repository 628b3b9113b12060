"""Projections without a class, and saved projections: one, many, their fields, their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, overload

import attrs
import peewee

from pgevents import saved_views
from pgevents.client.parts import ClientParts
from pgevents.errors import ConfigurationError, shown
from pgevents.events import Event
from pgevents.hooks.details import Snapshot
from pgevents.premises import PlainProjection, Projection
from pgevents.querying import Question
from pgevents.reducers import Pipeline
from pgevents.saved_terms import Partial, terms_of
from pgevents.snapshots import Noted, SavedProjection, SavedViews, SaveResult
from pgevents.view_conditions import values_by_field
from pgevents.view_fields import ViewFields
from pgevents.view_kinds import view_kind, view_kinds

__all__ = ["ProjectionCalls", "use_maker"]

V = TypeVar("V")
Maker = Callable[..., Any]

_makers: dict[str, Maker] = {}
SNAPSHOT_HOOKS = {"pgevents_before_snapshot", "pgevents_after_snapshot", "pgevents_observe"}


def use_maker(name: str, maker: Maker) -> None:
    """Take up what makes projections of some kind, from the module of projections, which stands above this
    one."""
    _makers[name] = maker


class ProjectionCalls(ClientParts):
    """The calls about projections and their snapshots."""

    def project(
        self,
        projection_type: str,
        identifiers: Mapping[str, Any],
        reducer: Callable[[V, Event[Any]], V] | Pipeline,
        initial: V | Callable[[], V],
        *,
        types: Any = None,
        version: int = 1,
    ) -> PlainProjection[V]:
        """A projection without a class of its own, for small programs.

        Args:
            projection_type: The name under which it is saved.
            identifiers: The fields and values that its events carry. The value is its id; several are a
                tuple, and so are those of `all_of`.
            reducer: `(view, event) -> view`, or a pipeline.
            initial: The view before any event (a dict, an attrs class's or a dataclass's instance), or a
                function that makes it.
            types: Which events; by default any that carry the identifiers.
            version: Raise it when the reducer changes.

        Example:
            ```python
            def add(todo, event):
                return {**todo, "items": [*todo["items"], event.data["text"]]}

            todo = client.project("TODO", {"list_id": "l1"}, add, {"items": []})
            print(todo.view["items"])
            ```
        """
        projection: PlainProjection[V] = _makers["plain"](
            self, projection_type, identifiers, reducer, initial, types, version
        )
        return projection

    def save_projection(self, projection: Projection[V]) -> SaveResult[V]:
        """Save a snapshot of a projection; see `ProjectionBase.save_projection`."""
        if isinstance(projection, type) or not hasattr(projection, "save_projection"):
            raise ConfigurationError(
                f"save_projection takes a projection, such as CartProjection(id, client), not "
                f"{shown(projection)}"
            )
        own_client: Any = getattr(projection, "client", None)
        table = self.projections.pgevents_spec.qualified()
        if own_client is not None and (
            own_client.db is not self.db or own_client.projections.pgevents_spec.qualified() != table
        ):
            raise ConfigurationError(
                f"{shown(projection)} saves with a client of its own: call its save_projection(), or make it "
                "with this client"
            )
        return projection.save_projection()

    @overload
    def get_projection(self, projection: str, id: Any) -> SavedProjection[dict[str, Any]] | None: ...
    @overload
    def get_projection(self, projection: type[Projection[V]], id: Any) -> SavedProjection[V] | None: ...
    def get_projection(self, projection: Any, id: Any) -> SavedProjection[Any] | None:
        """The snapshot of a projection, if one of its present version is saved.

        Args:
            projection: The projection's class; or its type's name: then the view is a dict, of the newest
                version that is saved. A type that is kept means its newest complete one.
            id: Its id.

        Raises:
            IncompleteViewsError: There is none, and a runner that keeps the views has not folded all of them,
                or keeps another version only.
        """
        return self._shown(lambda source: saved_views.get(source.snapshots, self.types, projection, id))

    def delete_projection(self, projection: type[Projection[Any]] | str, id: Any) -> bool:
        """Remove the snapshots of an id, of all versions. The events stay, so the view can be folded anew.

        Args:
            projection: The projection's class, or its type's name.
            id: Its id.

        Returns:
            Whether there was one.
        """
        return saved_views.delete(self.snapshots, self.types, projection, id)

    @overload
    def query_projections(
        self,
        projection: type[Projection[V]],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[V]: ...
    @overload
    def query_projections(
        self,
        projection: str,
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[dict[str, Any]]: ...
    @overload
    def query_projections(
        self,
        projection: Sequence[type[Projection[Any]] | str],
        /,
        *,
        where: peewee.Expression | None = ...,
        order_by: Any = ...,
        limit: int | None = ...,
        offset: int | None = ...,
        version: int | None = ...,
        partial: Partial = ...,
        max_lag: float = ...,
        data: Mapping[str, Any] | None = ...,
        **match: Any,
    ) -> SavedViews[Any]: ...
    def query_projections(
        self,
        projection: Any,
        /,
        *,
        where: peewee.Expression | None = None,
        order_by: Any = None,
        limit: int | None = None,
        offset: int | None = None,
        version: int | None = None,
        partial: Partial = "refuse",
        max_lag: float = 30.0,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> SavedViews[Any]:
        """Saved projections whose views have these values.

        Args:
            projection: The projection's class; its type and version are matched. Or its type's name: then
                views are dicts, of the newest version of each id. Or a list of these.
            where: A Peewee expression, made with `view_fields` or with the projections model, for more.
            order_by: A field of the view or a column of the table, `"-total"` for the greatest first, a
                Peewee expression, or a list of these. The id comes last, so that pages are stable; views
                without the field come at the end.
            limit: At most this many.
            offset: Leave out this many first.
            version: With names alone: only this version. A type that is kept means its newest complete one.
            partial: Of views that a runner keeps, when some are missing or wait to be folded anew: "refuse"
                the query, "wait" for them (10 seconds at most), or "allow" an incomplete answer.
            max_lag: Of kept views: seconds after which the result says that it is stale.
            data: Values by field name, for fields that cannot be written as keywords.
            **match: Field and value. A list means any of; a field that is an array matches it exactly. Or a
                comparison: `total=at_least(100)`, `between`, `is_not` and their like.
                Numbers, Decimals, dates, times and booleans are compared as what they are. A text may stand
                for what is stored as this text, as "7" for a number.

        Returns:
            A list of saved projections. Of kept views its `position` says as of which event they stand, and
            `is_whole` and `is_stale` whether none is missing, and whether the position is old.

        Raises:
            IncompleteViewsError: Only some of the kept views could be given; or no runner keeps this version
                yet, though one keeps another version.
            ConfigurationError: `partial="wait"` for views that no runner keeps in any version; a
                field that the view does not have, or a value that its field cannot have; or snapshots of this
                class that were saved before its view had this shape.

        Example:
            ```python
            cart = client.view_fields(CartProjection)
            large = client.query_projections(
                CartProjection, user_id="u1", where=cart.total >= 10_000, order_by=["-total", "id"], limit=10
            )
            ```
        """
        kinds = view_kinds(self.snapshots, self.types, projection, version)
        question = Question(
            self.projections, kinds, values_by_field(data, match), where, order_by, limit, offset
        )
        terms = terms_of(partial, max_lag)
        return self._shown(lambda source: saved_views.query(source.snapshots, question, terms))

    def count_projections(
        self,
        projection: type[Projection[Any]] | str | Sequence[type[Projection[Any]] | str],
        /,
        *,
        where: peewee.Expression | None = None,
        version: int | None = None,
        partial: Partial = "refuse",
        max_lag: float = 30.0,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> int:
        """How many saved projections have these values; arguments as for `query_projections`."""
        kinds = view_kinds(self.snapshots, self.types, projection, version)
        question = Question(self.projections, kinds, values_by_field(data, match), where)
        terms = terms_of(partial, max_lag)
        return self._shown(lambda source: saved_views.count(source.snapshots, question, terms))

    def view_fields(
        self, projection: type[Projection[Any]] | str | Sequence[type[Projection[Any]] | str]
    ) -> ViewFields:
        """The fields of saved views as Peewee expressions, for `where=` and `order_by=`.

        Args:
            projection: As for `query_projections`.

        Example:
            ```python
            cart = client.view_fields(CartProjection)
            busy = (cart.total > 100) & cart.user_id.in_(["u1", "u2"])
            found = client.query_projections(CartProjection, where=busy)
            ```
        """
        return ViewFields(self.projections, view_kinds(self.snapshots, self.types, projection))

    def get_projection_ids(
        self,
        projection: type[Projection[Any]] | str,
        /,
        *,
        data: Mapping[str, Any] | None = None,
        **match: Any,
    ) -> list[Any]:
        """The ids of all saved projections of a type, in any version, in order.

        Args:
            projection: The projection's class, or its type's name.
            data: As for `query_projections`.
            **match: As for `query_projections`.
        """
        kind = view_kind(self.snapshots, self.types, projection)
        question = Question(
            self.projections, [attrs.evolve(kind, version=None)], values_by_field(data, match)
        )
        return saved_views.ids(self.snapshots, question)

    def refresh_projections(
        self,
        projection: type[Projection[Any]],
        /,
        *,
        ids: Iterable[Any] | None = None,
        anew: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, int]:
        """Fold saved projections on to the present, and save them; those of an older version are folded anew.

        Each is saved by itself, so this may be stopped and called again.

        Args:
            projection: The projection's class.
            ids: Which; by default all that are saved, in any version. Ids of which none is saved are
                created.
            anew: Fold from the start, not from the snapshots, as after a redaction.
            progress: Called after each with how many are done, and how many there are.

        Returns:
            How many were "created", "updated" and "skipped".

        Example:
            ```python
            client.refresh_projections(CartProjection, progress=lambda done, of: print(done, "of", of))
            ```
        """
        make: Any = projection
        if not isinstance(projection, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"what is to be folded is named by its class, not {make!r}")
        if ids is not None and (isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"ids are a list of ids, not {shown(ids)}")
        wanted = self.get_projection_ids(projection) if ids is None else list(ids)
        done = {"created": 0, "updated": 0, "skipped": 0}
        for number, id in enumerate(wanted, 1):
            done[make(id, self, load_existing_projection=not anew).save_projection().status] += 1
            if progress is not None:
                progress(number, len(wanted))
        return done

    def save_snapshot(
        self,
        projection: Projection[V],
        view: V,
        latest_event_id: int,
        events: Sequence[Event[Any]] = (),
        base_saved_at: datetime | None = None,
        *,
        noted: Noted[Any] | None = None,
        anew: bool = False,
    ) -> SaveResult[V] | None:
        """Save a view that is folded from exactly the final events up to an id; `save_projection` does
        that."""
        key = projection.snapshot_key()
        data = self.serializer.encode(view, f"the view of {key.type} {key.id!r}")
        snapshot = Snapshot(key.type, key.id, data, view, latest_event_id, key.version, events, base_saved_at)
        if self.plugins.implemented & SNAPSHOT_HOOKS:
            return self.snapshots.save_with_hooks(self.plugins, snapshot, key, noted, anew=anew)
        return self.snapshots.save(snapshot, key, noted, anew=anew)
