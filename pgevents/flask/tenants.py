"""`TenantEvents`: an app whose requests are each about one tenant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from flask import Flask, abort

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, InvalidValueError
from pgevents.flask.commands import commands
from pgevents.flask.context import EXTENSION
from pgevents.flask.responses import HANDLERS
from pgevents.tenants import Tenants

__all__ = ["TenantEvents"]


@attrs.frozen
class _TenantStore:
    """The pgevents objects of an app of many tenants, as `Store` has those of an app of one."""

    tenants: Tenants
    tenant_of: Callable[[], str]
    demo: Callable[[], object] | None = None

    @property
    def client(self) -> EventClient:
        """The client of the request's tenant; a tenant that does not exist is a 404."""
        tenant = self.tenant_of()
        try:
            return self.tenants.client(tenant)
        except InvalidValueError:
            abort(404, "There is no such tenant.")


class TenantEvents:
    """The Flask extension for tenants: `current_events` is the client of the request's tenant.

    Errors of pgevents become responses as with `PgEvents`; a tenant that moves is a 503 that says when to try
    again. Connections are closed after each request; give `Tenants` pooled databases to keep them.

    Example:
        ```python
        from flask import Flask, request
        from pgevents.flask import TenantEvents, current_events

        app = Flask(__name__)
        TenantEvents(app, tenants, tenant_of=lambda: request.host.partition(".")[0])

        @app.post("/carts/<cart_id>")
        def open_cart(cart_id):
            saved = current_events.save_event(CartCreated(cart_id))
            return {"event": saved.id}
        ```
    """

    def __init__(self, app: Flask, tenants: Tenants, *, tenant_of: Callable[[], str]) -> None:
        """
        Args:
            app: The app.
            tenants: Its tenants.
            tenant_of: The name of the tenant that the current request is about. Whether its user may see that
                tenant is for the app to check.

        Raises:
            ConfigurationError: The app has a store already.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(f"the app {app.name!r} has its PgEvents already")
        app.extensions[EXTENSION] = _TenantStore(tenants, tenant_of)

        def close(error: BaseException | None) -> None:
            for db in tenants.nodes.values():
                opened: Any = db
                if not opened.is_closed():
                    opened.close()

        app.teardown_appcontext(close)
        for error, handler in HANDLERS.items():
            if error not in app.error_handler_spec[None][None]:  # a handler of the app stays
                app.register_error_handler(error, handler)
        app.cli.add_command(commands)
