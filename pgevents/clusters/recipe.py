"""What a worker needs to make the program's client for itself: names alone, for classes and connections do
not travel."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs

from pgevents.client import EventClient, create_event_client
from pgevents.distribution import NAME
from pgevents.errors import ConfigurationError
from pgevents.event_types import event_type_of
from pgevents.store.identity import log_identity
from pgevents.store.tables import create_events_table, create_projections_table

__all__ = ["Recipe", "check_log", "client_of", "place_of", "projection_of", "recipe_of"]

Table = tuple[str | None, str, tuple[str, ...]]
"""A table's schema, name and data indexes."""


@attrs.frozen
class Recipe:
    """How a worker makes the client, and whose views it folds. There is no password in it.

    Attributes:
        projection: The projection's class, `module:Class`.
        version: Its version.
        release: The version of pgevents.
        log: The identity of the log.
        credentials: The name of the environment variable that holds the database's URL.
        maker: The function that makes the client of a URL, `module:function`; None: of what follows.
        events: The events table.
        views: The projections table.
        event_types: Name, version and class of each event type.
    """

    projection: str
    version: int
    release: str
    log: str
    credentials: str
    maker: str | None
    events: Table
    views: Table
    event_types: tuple[tuple[str, int, str], ...]


def recipe_of(client: EventClient, projection: Any, credentials: str, maker: str | None) -> Recipe:
    """What the workers need to know.

    Raises:
        ConfigurationError: The projection or an event class is not in a module that a worker can import; or
            the client has plugins, and there is no function that makes it.
    """
    if maker is None and client.plugins.implemented:
        raise ConfigurationError(
            "the client has plugins, which cannot be sent to workers: name a function that takes a URL and "
            'makes the client, with its plugins: Dask(..., maker="shop:make_client")'
        )
    kinds = [] if maker is not None else client.types.all()
    return Recipe(
        projection=place_of(projection),
        version=projection.version,
        release=_release(),
        log=_log(client),
        credentials=credentials,
        maker=maker,
        events=_table(client.events),
        views=_table(client.projections),
        event_types=tuple((kind.name, kind.version, place_of(kind.cls)) for kind in kinds),
    )


def place_of(cls: Any) -> str:
    """A class as `module:Class`, by which another process finds it.

    Raises:
        ConfigurationError: It does not stand in a module under its name.
    """
    place = f"{cls.__module__}:{cls.__qualname__}"
    if cls.__module__ == "__main__" or "<locals>" in place or _found(place) is not cls:
        raise ConfigurationError(
            f"workers cannot import {place}: define the class at the top of a module that they have, too"
        )
    return place


def projection_of(recipe: Recipe) -> Any:
    """The projection's class, as this worker has it.

    Raises:
        ConfigurationError: Another version of it, or of pgevents.
    """
    if _release() != recipe.release:
        raise ConfigurationError(
            f"{_here()} has pgevents {_release()}, and the fold was begun with {recipe.release}: install the "
            "same on all workers"
        )
    cls = _found(recipe.projection)
    if cls.version != recipe.version:
        raise ConfigurationError(
            f"{_here()} has version {cls.version} of {recipe.projection}, and version {recipe.version} is to "
            "be folded: bring your program on all workers up to date"
        )
    return cls


def client_of(recipe: Recipe, variable: str) -> EventClient:
    """The client of the database whose URL an environment variable of this worker holds.

    Raises:
        ConfigurationError: There is no such variable, or it names no PostgreSQL database; or the classes or
            tables of this worker's program are others.
    """
    url = os.environ.get(variable)
    if not url:
        raise ConfigurationError(
            f"{_here()} has no environment variable {variable}, which is to hold the URL of the database"
        )
    try:
        client = _new_client(recipe, url)
    except ConfigurationError as error:
        if url in str(error):  # it may hold a password
            raise ConfigurationError(f"{variable} on {_here()} is not the URL of a database") from None
        raise
    if (_table(client.events), _table(client.projections)) != (recipe.events, recipe.views):
        raise ConfigurationError(
            f"{recipe.maker} on {_here()} makes a client of other tables: bring your program on all workers "
            "up to date"
        )
    return client


def check_log(recipe: Recipe, client: EventClient) -> None:
    """Check that a worker writes to the database of the program.

    Raises:
        ConfigurationError: It is another one.
    """
    if _log(client) != recipe.log:
        raise ConfigurationError(
            f"{recipe.credentials} on {_here()} names another database, with another log"
        )


def _new_client(recipe: Recipe, url: str) -> EventClient:
    if recipe.maker is not None:
        make: Callable[[str], Any] = _found(recipe.maker)
        client = make(url)
        if not isinstance(client, EventClient):
            raise ConfigurationError(f"{recipe.maker}(url) gave {type(client).__name__}, not an event client")
        return client
    classes = [_event_class(*kind) for kind in recipe.event_types]
    events, views = create_events_table(*recipe.events), create_projections_table(*recipe.views)
    return create_event_client(url, events, views, classes)


def _event_class(name: str, version: int, place: str) -> Any:
    cls = _found(place)
    kind = event_type_of(cls)
    if (kind.name, kind.version) != (name, version):
        raise ConfigurationError(
            f"{place} on {_here()} is version {kind.version} of {kind.name!r}, and version {version} of "
            f"{name!r} is wanted: bring your program on all workers up to date"
        )
    return cls


def _found(place: str) -> Any:
    module, _, name = place.partition(":")
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{place} cannot be imported on {_here()}: {error}") from error
    return found


def _table(model: Any) -> Table:
    spec = model.pgevents_spec
    return spec.schema, spec.name, spec.declared


def _log(client: EventClient) -> str:
    """The log's identity, whichever timeline its server is on."""
    return str(log_identity(client.session.execute, client.events.pgevents_spec)).rpartition("/")[0]


def _release() -> str:
    try:
        return version(NAME)
    except PackageNotFoundError:  # a folder on the path
        return ""


def _here() -> str:
    return f"the worker on {socket.gethostname()}"
