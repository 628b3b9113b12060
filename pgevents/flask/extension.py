"""`PgEvents`: an event client for each app that it is initialised for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, cast

import peewee
from flask import Flask

from pgevents.client import create_event_client
from pgevents.errors import ConfigurationError
from pgevents.flask.commands import commands
from pgevents.flask.context import EXTENSION, Store
from pgevents.flask.metadata import RequestMetadata, name_response
from pgevents.flask.pool import Pool, give_back
from pgevents.flask.responses import HANDLERS
from pgevents.store.tables import EventsModel, ProjectionsModel, create_events_table, create_projections_table

__all__ = ["PgEvents"]

DEFAULTS: dict[str, Any] = {
    "PGEVENTS_DATABASE_URL": None,
    "PGEVENTS_SCHEMA": None,
    "PGEVENTS_EVENTS_TABLE": "events",
    "PGEVENTS_DATA_INDEXES": (),
    "PGEVENTS_PROJECTIONS_TABLE": "projections",
    "PGEVENTS_PROJECTION_INDEXES": (),
    "PGEVENTS_MAX_CONNECTIONS": 20,
    "PGEVENTS_POOL_TIMEOUT": 5,
}


class PgEvents:
    """The Flask extension: a client, connections, error responses, metadata and commands for each app.

    The configuration of an app, with defaults:

    - `PGEVENTS_DATABASE_URL`: `postgresql://...`, or `embedded` for a server that the app starts, with its
      data in the instance folder (`embedded:folder` for another folder; needs the extra `embedded`). By
      default the environment variable of that name.
    - `PGEVENTS_SCHEMA` (the connection's current schema), `PGEVENTS_EVENTS_TABLE` (`events`),
      `PGEVENTS_PROJECTIONS_TABLE` (`projections`): schema and names of the tables.
    - `PGEVENTS_DATA_INDEXES`, `PGEVENTS_PROJECTION_INDEXES` (none): the fields that are indexed.
    - `PGEVENTS_MAX_CONNECTIONS` (20): connections of a process. The server must allow this number for each
      worker process.
    - `PGEVENTS_POOL_TIMEOUT` (5): seconds to wait for a free connection before the response is 503.

    Example:
        ```python
        from flask import Flask, session
        from pgevents.flask import PgEvents

        events = PgEvents(user=lambda: session.get("user_id"))

        def create_app():
            app = Flask(__name__)
            app.config["PGEVENTS_DATABASE_URL"] = "postgresql://localhost/shop"
            events.init_app(app)
            return app
        ```
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        events: type[EventsModel] | None = None,
        projections: type[ProjectionsModel] | None = None,
        event_types: Any = None,
        plugins: Iterable[Any] | Literal["auto"] = (),
        database: peewee.PostgresqlDatabase | None = None,
        user: Callable[[], object] | None = None,
        demo: Callable[[], object] | None = None,
    ) -> None:
        """Settings for all apps that the extension is initialised for.

        Args:
            app: The app, to initialise it at once.
            events: The model of the events table, instead of configuration. A model belongs to one database:
                that of the app that was initialised last.
            projections: The model of the projections table, instead of configuration.
            event_types: As for `create_event_client`.
            plugins: Plugins of the client, beside the one that writes `request_id` and `user` into metadata;
                `"auto"` for those of installed packages.
            database: A Peewee database instead of a URL. The app then opens and closes its connections.
            user: Returns the user of the current request, for the metadata of its events, or None.
            demo: The function that `flask pgevents demo` calls after creating the tables.
        """
        self._events = events
        self._projections = projections
        self._event_types = event_types
        if isinstance(plugins, str) and plugins != "auto":
            raise ConfigurationError(f'plugins are "auto" or a list of plugins, not {plugins!r}')
        self._plugins = "auto" if plugins == "auto" else tuple(plugins)
        self._database = database
        self._user = user
        self._demo = demo
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an app its client; nothing connects before it is needed.

        Args:
            app: The app, configured.

        Raises:
            ConfigurationError: The database is missing, a setting is not valid, or the app was initialised
                before.
        """
        if EXTENSION in app.extensions:
            raise ConfigurationError(f"the app {app.name!r} has its PgEvents already")
        config = _config(app)
        for key, default in DEFAULTS.items():
            config.setdefault(key, default)
        events = self._events or create_events_table(
            config["PGEVENTS_SCHEMA"], config["PGEVENTS_EVENTS_TABLE"], config["PGEVENTS_DATA_INDEXES"]
        )
        projections = self._projections or create_projections_table(
            config["PGEVENTS_SCHEMA"],
            config["PGEVENTS_PROJECTIONS_TABLE"],
            config["PGEVENTS_PROJECTION_INDEXES"],
        )
        plugins = [RequestMetadata(self._user), *(() if self._plugins == "auto" else self._plugins)]
        database = _pool(app) if self._database is None else self._database
        client = create_event_client(database, events, projections, self._event_types, plugins=plugins)
        if self._plugins == "auto":
            client.plugins.load_installed()
        app.extensions[EXTENSION] = Store(client, self._demo)
        app.teardown_appcontext(give_back)
        app.after_request(name_response)
        for error, handler in HANDLERS.items():
            if error not in app.error_handler_spec[None][None]:  # a handler of the app stays
                app.register_error_handler(error, handler)
        app.cli.add_command(commands)


def _config(app: Flask) -> dict[str, Any]:
    return cast("dict[str, Any]", app.config)


def _pool(app: Flask) -> Pool:
    config = _config(app)
    url = config["PGEVENTS_DATABASE_URL"] or os.environ.get("PGEVENTS_DATABASE_URL")
    if not isinstance(url, str):
        raise ConfigurationError(
            'app.config["PGEVENTS_DATABASE_URL"] is not set: give it a URL, as in '
            'postgresql://user:password@host:5432/database, or "embedded" for a server of the app\'s own'
        )
    return Pool(
        url,
        os.path.join(app.instance_path, "pgevents"),
        size=config["PGEVENTS_MAX_CONNECTIONS"],
        timeout=config["PGEVENTS_POOL_TIMEOUT"],
        name=app.name,
    )
