"""The blueprint: the browser as part of a Flask app."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint

from pgevents.browser.actions import add_actions
from pgevents.browser.pages import add_pages
from pgevents.browser.site import Site
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError

__all__ = ["browser", "make_site"]


def browser(
    client: EventClient,
    *,
    authorize: Callable[[], bool],
    authorize_write: Callable[[], str | None] | None = None,
    projections: Iterable[type[Any]] | None = None,
    name: str = "pgevents_browser",
    url_prefix: str | None = "/pgevents",
) -> Blueprint:
    """A Flask blueprint that shows a client's log, its views and its subscriptions.

    Args:
        client: The client whose log, views and types are shown.
        authorize: Called before each page, in the request: whether the person may see it. There is no
            default, because a log holds what customers did.
        authorize_write: Called in the request, too: the name of the person, if they may also try parked
            events again and discard them; it is recorded with what they did. Anything but a name
            refuses. By default nobody may.
        projections: The projection classes to fold; by default all that the program has defined.
        name: The blueprint's name, for `url_for`.
        url_prefix: The path under which it is served.

    Returns:
        The blueprint, for `app.register_blueprint(...)`.

    Raises:
        ConfigurationError: `authorize` cannot be called, or `client` is not a client.

    Example:
        ```python
        app.register_blueprint(browser(client, authorize=lambda: session.get("role") == "admin"))
        ```
    """
    return make_site(client, authorize, authorize_write, projections, name, url_prefix).blueprint


def make_site(
    client: EventClient,
    authorize: Callable[[], bool],
    authorize_write: Callable[[], str | None] | None,
    projections: Iterable[type[Any]] | None,
    name: str,
    url_prefix: str | None,
) -> Site:
    """The blueprint with what its pages share; arguments as for `browser`."""
    if not callable(authorize):
        raise ConfigurationError(
            "browser(client, authorize=...) takes a function that says whether the person of this request "
            f"may see the log, not {authorize!r}"
        )
    if authorize_write is not None and not callable(authorize_write):  # pyright: ignore[reportUnnecessaryComparison]
        raise ConfigurationError(
            "browser(client, authorize_write=...) takes a function that gives the name of the person of this "
            f"request, if they may change something, not {authorize_write!r}"
        )
    if not hasattr(client, "get_event_stream"):
        raise ConfigurationError(f"browser(client, ...) takes an event client, not {client!r}")
    blueprint = Blueprint(
        name,
        __name__,
        url_prefix=url_prefix,
        template_folder="templates",
        static_folder="static",
        static_url_path="/assets",
    )
    site = Site(client, blueprint, authorize, authorize_write, projections)
    add_pages(site)
    add_actions(site)
    return site
