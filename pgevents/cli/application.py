"""The program's own client and plugins, by the name of a module and of what it holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import isclass
from typing import Any

import click
import peewee

from pgevents.client import EventClient
from pgevents.errors import PgEventsError
from pgevents.tenants import Tenants

__all__ = ["PluginRefusal", "add_plugins", "load_client", "load_tenants", "refusals_of_plugins"]


class PluginRefusal(click.ClickException):
    """A plugin raised something, and so refused a save."""


def load_client(place: str, tenant: str | None = None) -> EventClient:
    """The client at MODULE:NAME: a client, `Tenants`, a Flask app that has a client, or a function that makes
    one of these.

    A Flask app's context is active until the command ends.

    Args:
        place: The module and the name.
        tenant: Which client of `Tenants`.
    """
    found = _found(place)
    if isinstance(found, Tenants):
        if tenant is None:
            raise click.UsageError(f"--app {place} has many tenants: say which, --tenant NAME")
        return found.client(tenant)
    if tenant is not None:
        raise click.UsageError(f"--tenant needs the Tenants of a program, which --app {place} is not")
    store: Any = getattr(found, "extensions", {}).get("pgevents")
    if store is not None:
        app: Any = found
        click.get_current_context().find_root().with_resource(app.app_context())
        found = store.client
    client: object = found
    if not isinstance(client, EventClient):
        raise click.UsageError(
            f"--app {place} is {type(found).__name__}, not an event client, a Flask app with PgEvents, or a "
            "function that makes one"
        )
    return client


def load_tenants(place: str) -> Tenants:
    """The `Tenants` at MODULE:NAME, or what a function there makes."""
    found = _found(place)
    if not isinstance(found, Tenants):
        raise click.UsageError(f"--app {place} is {type(found).__name__}, not Tenants")
    return found


def _found(place: str) -> Any:
    found = _load(place, "--app")
    return _called(found, place) if callable(found) and not hasattr(found, "extensions") else found


def add_plugins(client: EventClient, places: Sequence[str]) -> EventClient:
    """Register the plugins at MODULE or MODULE:NAME, each a module, an object, or a class without arguments;
    `auto` is all installed ones."""
    for place in places:
        if place == "auto":
            client.plugins.load_installed()
            continue
        plugin = _load(place, "--plugin")
        plugin = _called(plugin, place) if isclass(plugin) else plugin
        if plugin not in client.plugins:
            client.plugins.register(plugin)
    return client


@contextmanager
def refusals_of_plugins(client: EventClient) -> Generator[None, None, None]:
    """Report in one line whatever a plugin raises to refuse a save."""
    try:
        yield
    except (PgEventsError, peewee.PeeweeException, click.ClickException):
        raise
    except Exception as error:
        if not client.plugins.implemented:
            raise
        raise PluginRefusal(f"a plugin refused it: {type(error).__name__}: {error}") from error


def _load(place: str, option: str) -> Any:
    module, _, name = place.partition(":")
    if not module or (option == "--app" and not name):
        raise click.UsageError(f"{option} {place}: write MODULE:NAME, as in shop.store:client")
    if os.getcwd() not in sys.path:  # as `python -m` has it
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = import_module(module)
        for part in filter(None, name.split(".")):
            found = getattr(found, part)
    except Exception as error:
        raise click.UsageError(f"{option} {place}: {type(error).__name__}: {error}") from error
    return found


def _called(function: Any, place: str) -> Any:
    try:
        return function()
    except Exception as error:
        raise click.UsageError(f"{place}() failed: {type(error).__name__}: {error}") from error
