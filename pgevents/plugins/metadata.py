"""Adds metadata of a context (actor, source, correlation and causation id) to every event saved inside it."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import attrs

from pgevents import ConfigurationError, Event, NewEvent, hookimpl

__all__ = ["Metadata", "current", "event_context"]

_context: ContextVar[Mapping[str, Any]] = ContextVar("pgevents_metadata", default=MappingProxyType({}))


def current() -> dict[str, Any]:
    """The metadata that the context adds to an event saved now."""
    return dict(_context.get())


KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "correlation_id": ((str,), "a text"),
    "causation_id": ((str, int), "a text or an event's id"),
    "actor": ((str,), "a text"),
    "source": ((str,), "a text"),
    "cause": ((Event,), "an event that was read or saved"),
}


def event_context(
    *,
    correlation_id: str | None = None,
    causation_id: str | int | None = None,
    actor: str | None = None,
    source: str | None = None,
    cause: Event[Any] | None = None,
    **other: Any,
) -> AbstractContextManager[dict[str, Any]]:
    """Give metadata to events saved inside, in this thread or task. Contexts nest; the inner one wins.

    Args:
        correlation_id: The same id for all events that belong together; by default that of the cause, of the
            outer context, or a new id.
        causation_id: The id of the event or command that causes these events.
        actor: The person or program that acts.
        source: The program that saves.
        cause: The event that is being handled. Its id becomes the causation id; its correlation id is kept.
        **other: Other metadata. A name that looks like a misspelling of those above is refused.

    Returns:
        A context manager that gives the metadata.

    Raises:
        ConfigurationError: A value has a wrong type, or a name is misspelt.

    Example:
        ```python
        from pgevents.plugins.metadata import event_context

        for event in follow(client):
            with event_context(cause=event, source="mailer"):
                client.save_event(MailSent(event.data.cart_id))
        ```
    """
    given = {
        "correlation_id": correlation_id,
        "causation_id": causation_id,
        "actor": actor,
        "source": source,
    }
    for name, value in {**given, "cause": cause}.items():
        _check_kind(name, value)
    for name in other:
        near = difflib.get_close_matches(name, KINDS, 1, 0.85)
        if near:
            raise ConfigurationError(f"event_context has no {name!r}; did you mean {near[0]!r}?")
    return _context_of({**given, **other}, cause)


def _check_kind(name: str, value: object) -> None:
    kinds, words = KINDS[name]
    if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
        raise ConfigurationError(f"{name} is {words}, not {value!r}")


@contextmanager
def _context_of(given: Mapping[str, Any], cause: Event[Any] | None) -> Generator[dict[str, Any], None, None]:
    inherited = current()
    if cause is not None:
        inherited["causation_id"] = cause.id
        if "correlation_id" in cause.metadata:
            inherited["correlation_id"] = cause.metadata["correlation_id"]
    inherited.setdefault("correlation_id", str(uuid4()))
    metadata = {**inherited, **{name: value for name, value in given.items() if value is not None}}
    token = _context.set(MappingProxyType(metadata))
    try:
        yield dict(metadata)
    finally:
        _context.reset(token)


@attrs.frozen(eq=False)
class Metadata:
    """Adds the metadata of `event_context` to every event. Metadata given to the save win.

    Attributes:
        source: The source, if no context names one.

    Raises:
        ConfigurationError: The source is not a text.

    Example:
        ```python
        from pgevents.plugins.metadata import Metadata, event_context

        client = create_event_client(db, events, views, plugins=[Metadata(source="shop")])
        with event_context(actor="u1"):
            client.save_event(CartCreated("c1", "u1"))
        ```
    """

    source: str | None = attrs.field(
        default=None, validator=lambda _, attribute, value: _check_kind(attribute.name, value)
    )

    @hookimpl
    def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent] | None:
        """Add the metadata of the context."""
        added = current()
        if self.source is not None:
            added.setdefault("source", self.source)
        return [attrs.evolve(new, metadata={**added, **new.metadata}) for new in events] if added else None
