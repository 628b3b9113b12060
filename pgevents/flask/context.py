"""The client of the active app."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import attrs
from flask import abort, current_app, has_app_context
from werkzeug.local import LocalProxy

from pgevents.client import EventClient
from pgevents.projections import MultiStreamProjectionBase, ProjectionBase
from pgevents.texts import is_text

__all__ = ["EXTENSION", "Store", "active_store", "current_events", "get_or_404"]

P = TypeVar("P", bound="ProjectionBase[Any, Any] | MultiStreamProjectionBase[Any, Any]")

EXTENSION = "pgevents"
"""The name under which an app's extensions hold its `Store`."""


@attrs.frozen
class Store:
    """The pgevents objects of an app.

    Attributes:
        client: The client.
        demo: The function that `flask pgevents demo` calls.
    """

    client: EventClient
    demo: Callable[[], object] | None


def active_store() -> Store:
    """The store of the active app.

    Raises:
        RuntimeError: No app is active, or it has no store.
    """
    if not has_app_context():
        raise RuntimeError(
            "current_events belongs to an app, and none is active: "
            "use it in a request or a command, or inside `with app.app_context():`"
        )
    store = current_app.extensions.get(EXTENSION)
    if store is None:
        raise RuntimeError(
            f"the app {current_app.name!r} has no PgEvents: PgEvents(app), or init_app(app) in a factory"
        )
    return cast(Store, store)


current_events = cast(EventClient, LocalProxy(lambda: active_store().client))
"""The client of the active app. With `client = current_events` in a projection's class, instances need no
client argument."""


def get_or_404(projection: type[P], id: Any, description: str | None = None) -> P:
    """A projection with at least one event; without any the response is 404.

    Args:
        projection: The projection's class.
        id: Its id, as the request gives it.
        description: The text of the response; by default it names type and id.

    Example:
        ```python
        @app.get("/carts/<cart_id>")
        def cart(cart_id):
            return get_or_404(CartProjection, cart_id).as_json()
        ```
    """
    if description is None:
        description = (
            f"There is no {getattr(projection, 'projection_type', projection.__name__)} {id!r:.100}."
        )
    if isinstance(id, str) and ("\0" in id or not is_text(id)):  # PostgreSQL cannot hold such text
        abort(404, description.encode(errors="replace").decode())
    loaded = projection(id, active_store().client)
    if loaded.saved_projection is None and not loaded.projection_events:
        abort(404, description)
    return loaded
