"""The bases that projections derive from, and projections without a class."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from pgevents.client import EventClient, use_maker
from pgevents.comparisons import AllOf
from pgevents.errors import ConfigurationError
from pgevents.folding import E, I, V
from pgevents.log_folding import LogFolding
from pgevents.merging import merge_streams
from pgevents.reducers import Pipeline, Reducer, pipeline
from pgevents.streams import Stream, everything, stream

if TYPE_CHECKING:
    pass


__all__ = [
    "MultiStreamProjectionBase",
    "ProjectionBase",
    "create_multi_stream_projection_base_class",
    "create_projection_base_class",
    "plain_projection",
]


class ProjectionBase(LogFolding[V, E, I]):
    """The state of one thing, folded from the events that carry its id.

    A subclass names its view and its events (and its id's type, if that matters), and says by which
    identifiers its events are found. A view is an attrs class, a dataclass or a dict:

    ```python
    class CartProjection(ProjectionBase[CartView, CartEvent]):
        projection_type = "SHOPPING_CART"
        version = 1
        reducers = pipeline(items=to_items)

        def get_event_identifiers(self):
            return {"cart_id": self.id}
    ```

    Attributes:
        projection_type: The name under which snapshots are saved.
        version: Raise it when the reducers change: older snapshots are not used any more.
        reducers: What folds the events.
        event_types: Which events; by default those of the class's second type argument.
    """

    def get_event_identifiers(self) -> Mapping[str, Any]:
        """The fields and values that its events carry; `everything` for all events of its types."""
        raise TypeError(
            f"{type(self).__name__} must say which events are its own: "
            'def get_event_identifiers(self): return {"cart_id": self.id}'
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """The one stream of `event_types` with the projection's identifiers."""
        types = self.event_types if self.event_types is not None else self._declared().events
        identifiers: Any = self.get_event_identifiers()
        if not isinstance(identifiers, Mapping) or (not identifiers and identifiers is not everything):
            raise ConfigurationError(
                f"{type(self).__name__}.get_event_identifiers() gave {identifiers!r}, not the fields "
                "and values of its events. If it is folded from all events of its types, return "
                "everything (from pgevents import everything)"
            )
        return (stream(types, data=cast("Mapping[str, Any]", identifiers)),)


class MultiStreamProjectionBase(LogFolding[V, E, I]):
    """A state folded from several streams: merged by id, each event once.

    A subclass has `get_stream_options` in place of `event_types` and identifiers:

    ```python
    class Availability(MultiStreamProjectionBase[Stock, StockEvent]):
        projection_type = "AVAILABILITY"

        def get_stream_options(self):
            return [stream(Delivered, product_id=self.id), stream(ItemAddedToCart, product_id=self.id)]
    ```
    """

    def get_stream_options(self) -> Sequence[Stream[Any]]:
        """The streams, each made by `stream(...)`."""
        raise TypeError(
            f"{type(self).__name__} must name its streams: def get_stream_options(self): return [stream(...)]"
        )

    def get_streams(self) -> Sequence[Stream[Any]]:
        """What `get_stream_options` says."""
        streams: Any = self.get_stream_options()
        if not streams:
            raise ConfigurationError(
                f"{type(self).__name__}.get_stream_options() named no streams: return [stream(...), ...]"
            )
        return streams if isinstance(streams, (list, tuple)) else merge_streams(streams)  # pyright: ignore[reportUnknownVariableType]


def create_projection_base_class(client: EventClient) -> Any:
    """A `ProjectionBase` whose subclasses know their client: `CartProjection("c1")`.

    Type checkers cannot follow a base class that is made at run time; for them derive from `ProjectionBase`
    and say `client = my_client` in the class.

    Args:
        client: The client to read with.

    Example:
        ```python
        Projection = create_projection_base_class(client)

        class CartProjection(Projection[CartView, CartEvent]):
            ...
        ```
    """
    return _bound(ProjectionBase, client)


def create_multi_stream_projection_base_class(client: EventClient) -> Any:
    """A `MultiStreamProjectionBase` whose subclasses know their client."""
    return _bound(MultiStreamProjectionBase, client)


def _bound(base: Any, client: EventClient) -> Any:
    class Bound(base[V, E, I]):  # type: ignore[misc]
        pass

    Bound.client = client
    Bound.__name__ = Bound.__qualname__ = base.__name__
    return Bound


def plain_projection(
    client: EventClient,
    projection_type: str,
    identifiers: Mapping[str, Any],
    reducer: Reducer | Pipeline,
    initial: Any,
    types: Any,
    version: int,
) -> ProjectionBase[Any, Any]:
    """A projection without a class of its own; see `EventClient.project`."""
    if not isinstance(identifiers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"identifiers are values by field name, a dict, not {identifiers!r}")
    values = tuple(
        part
        for value in identifiers.values()
        for part in (sorted(value.values, key=str) if isinstance(value, AllOf) else (value,))
    )
    reducers = reducer if isinstance(reducer, Pipeline) else pipeline(reducer)

    class Plain(ProjectionBase[Any, Any]):
        event_types = types

        def initial_view(self) -> Any:
            return copy.deepcopy(initial() if callable(initial) else initial)

        def get_event_identifiers(self) -> Mapping[str, Any]:
            return identifiers

    Plain.projection_type, Plain.version, Plain.reducers = projection_type, version, reducers
    Plain.__module__ = str(getattr(reducer, "__module__", __name__))
    Plain.__qualname__ = f"{projection_type} by {getattr(reducer, '__qualname__', 'a pipeline')}"
    return Plain(values[0] if len(values) == 1 else values, client)


use_maker("plain", plain_projection)
