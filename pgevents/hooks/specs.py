"""Every hook, documented: when it is called, in which transaction, with what, and what it may do.

A plugin is an object or a module whose functions carry the `hookimpl` mark and are named after hooks:

```python
from pgevents import hookimpl

class Announce:
    @hookimpl
    def pgevents_after_commit(self, client, events):
        for event in events:
            print(event.id, event.type)
```

A function takes those of the hook's arguments that it needs. Plugins are called in pluggy's order: the last
registered first; `@hookimpl(tryfirst=True)` and `@hookimpl(trylast=True)` move one to the front or to the
end. A wrapper (`@hookimpl(wrapper=True)`, a generator with one `yield`) runs around all others and returns
their result or another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import cattrs

    from pgevents.events import Event, EventTypes, NewEvent, StoredEvent
    from pgevents.hooks.details import BrowserLink, BrowserPage, Conflict, Operation, Snapshot

__all__ = ["PROJECT", "SPECS", "hookimpl", "hookspec"]

EventClient = Any
"""`pgevents.EventClient`. The hooks pass it on and do not use it, so they do not import it."""

PROJECT = "pgevents"
"""pluggy's name for the project, and the entry-point group of installed plugins."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""The mark of a hook's implementation; takes pluggy's `tryfirst`, `trylast`, `wrapper` and `specname`."""


@hookspec
def pgevents_registered(client: EventClient) -> None:
    """Called once for each plugin, at the end of its registration.

    Raise here to refuse a client that the plugin cannot serve. The client may not be connected yet.

    Args:
        client: The client that the plugin was registered with.

    Raises:
        Exception: Any exception ends the registration, and leaves it as if it had not been tried.

    Example:
        ```python
        @hookimpl
        def pgevents_registered(self, client):
            if client.types.find("INVOICE_SENT") is None:
                raise ValueError("the invoice plugin needs the event type INVOICE_SENT")
        ```
    """


@hookspec
def pgevents_register_events(types: EventTypes) -> Iterable[type[Any]] | None:
    """Called once for each plugin, when it is registered: bring event classes, with their upcasters.

    Args:
        types: The client's registry, as it is so far.

    Returns:
        Classes made by `@event`, or None. They are the client's own until the plugin is unregistered.

    Raises:
        Exception: Any exception ends the registration, and leaves it as if it had not been tried.

    Example:
        ```python
        @event("LOGIN_FAILED", version=2, upcasters={1: lambda data: {**data, "address": ""}})
        class LoginFailed:
            user_id: str
            address: str

        @hookimpl
        def pgevents_register_events():
            return [LoginFailed]
        ```
    """


@hookspec
def pgevents_configure_converter(converter: cattrs.Converter) -> None:
    """Called when a plugin is registered: teach the client's converter types of your own.

    When plugins come or go it is called again, with a new converter: so do nothing in it but configure.

    Args:
        converter: The cattrs converter that makes JSON of events and views, and events and views of JSON.

    Raises:
        Exception: Any exception ends the registration, and leaves it as if it had not been tried.

    Example:
        ```python
        @hookimpl
        def pgevents_configure_converter(self, converter):
            converter.register_unstructure_hook(Money, str)
            converter.register_structure_hook(Money, lambda text, _: Money(text))
        ```
    """


@hookspec
def pgevents_hidden_fields(client: EventClient) -> Mapping[str, Iterable[str]] | None:
    """Called when plugins come or go: name fields that are stored in another form than their value.

    No stream finds events by such a field, so one that asks for it is refused rather than empty. A plugin
    that encrypts or replaces values in `pgevents_before_save` names them here.

    Args:
        client: The client that the plugin is registered with.

    Returns:
        Names of fields, as they are stored, by the event type's name; None or an empty mapping for none.

    Raises:
        Exception: Any exception ends the registration, and leaves it as if it had not been tried.

    Example:
        ```python
        @hookimpl
        def pgevents_hidden_fields(self):
            return {"USER_REGISTERED": ["email"]}
        ```
    """


@hookspec
def pgevents_create_tables(client: EventClient) -> None:
    """Called at the end of `client.create_tables()`, in its transaction: make tables of your own.

    Processes that call it at once wait for each other; it is called again at every start of many programs.

    Args:
        client: The client whose tables are made.

    Raises:
        Exception: Any exception rolls back the whole `create_tables()`.

    Example:
        ```python
        @hookimpl
        def pgevents_create_tables(self, client):
            client.db.create_tables([Outbox])
        ```
    """


@hookspec
def pgevents_before_save(client: EventClient, events: Sequence[NewEvent]) -> Sequence[NewEvent] | None:
    """Called before every save, in the caller's transaction if there is one; at each try of a `decide`.

    Plugins run one after the other, each with what the one before it returned. What the last one returns is
    what is locked by, compared with an earlier save of the same idempotency key, and stored. A wrapper gets
    and returns events, too.

    Args:
        client: The client that saves.
        events: What is about to be saved, in order; the data are instances of event classes, or dicts.

    Returns:
        The events to save in their place, as many as were given; None to leave them as they are. Data may be
        replaced by a JSON-ready dict, which the event's class must be able to read (after
        `pgevents_before_decode`).

    Raises:
        Exception: Any exception vetoes the save: it reaches the caller, and nothing is written.

    Example:
        ```python
        @hookimpl
        def pgevents_before_save(self, client, events):
            return [attrs.evolve(new, metadata={"source": "shop", **new.metadata}) for new in events]
        ```
    """


@hookspec
def pgevents_after_save(client: EventClient, events: Sequence[Event[Any]]) -> None:
    """Called when events are written and not yet committed: what is written here commits with them, or not at
        all.

    In a transaction of the caller's it runs in a savepoint around save and hook; else a transaction is
    opened. Not called for a save that an idempotency key recognised as a repeat: nothing was written then.

    Args:
        client: The client that saved. Saving more events through it is allowed, and calls the hooks for
            those. A plugin that does so for its own saves, too, is stopped at the tenth within one another
            by a `PluginError`, which undoes them all.
        events: The events of one save, with ids, as a read gives them.

    Raises:
        Exception: Any exception undoes the save and what the hooks wrote, and reaches the caller. So does an
            SQL error that a plugin swallowed: PostgreSQL could only roll back.

    Example:
        ```python
        @hookimpl
        def pgevents_after_save(self, client, events):
            for event in events:
                Outbox.create(event_id=event.id)
        ```
    """


@hookspec
def pgevents_after_commit(client: EventClient, events: Sequence[Event[Any]]) -> None:
    """Called when events are durable: after the commit of the outermost transaction, and only if they are in
        the log.

    Never called for what was rolled back (with its savepoint, or after an SQL error that was swallowed), nor
    for a repeat that an idempotency key recognised. A process that dies right after the commit does not call
    it: what must not be missed follows the log (`pgevents.subscriptions`). With this hook, a save inside
    `db.manual_commit()`, or in a transaction that Peewee did not begin, is refused before anything is
    written, because the end of that transaction cannot be seen. Peewee stops at the first of its after-commit
    callbacks that raises: one of your own, registered before the save, must not raise.

    An error is logged; it never undoes or hides the save, and the next plugin is still called.

    Args:
        client: The client that saved. No transaction is open. Saving through it is allowed; a plugin that
            saves for its own saves, too, is stopped at the third within one another by a `PluginError`.
        events: The events of one save; saves of one transaction come in their order.

    Example:
        ```python
        @hookimpl
        def pgevents_after_commit(self, client, events):
            queue.publish([event.id for event in events])
        ```
    """


@hookspec
def pgevents_validation_conflict(client: EventClient, conflict: Conflict) -> float | None:
    """Called when a validated save was refused, in the caller's transaction if there is one; nothing was
    written.

    An error is logged; the caller gets the `ConcurrencyError` in any case.

    Args:
        client: The client that tried to save.
        conflict: What was expected, what stands there, and which try it was.

    Returns:
        Seconds after which `decide` reads and decides again, also when its `retries` are used up; None to
        leave that to `decide`. If several plugins ask for a wait, the longest counts. A validated save
        outside `decide` is not tried again, because the same position can only be refused again. There, and
        inside `db.atomic()`, the seconds reach the caller as the error's `retry_after`.

    Example:
        ```python
        @hookimpl
        def pgevents_validation_conflict(self, client, conflict):
            log.info("conflict with %s", conflict.conflicting_ids)
            return 0.05 if conflict.attempt == 1 else None
        ```
    """


@hookspec
def pgevents_before_snapshot(client: EventClient, snapshot: Snapshot) -> Snapshot | None:
    """Called before a projection is saved, in the transaction of the snapshot (a savepoint of the caller's,
    if any).

    Plugins run one after the other, each with what the one before it returned. A wrapper gets and returns a
    snapshot.

    Args:
        client: The projection's client.
        snapshot: What is about to be saved.

    Returns:
        The snapshot with other data (`attrs.evolve(snapshot, data=...)`), or None to leave it as it is. Later
        views are folded on from these data, so what the reducers need must stay.

    Raises:
        Exception: Any exception vetoes the snapshot: it reaches the caller, and nothing is written.

    Example:
        ```python
        @hookimpl
        def pgevents_before_snapshot(self, client, snapshot):
            return attrs.evolve(snapshot, data={**snapshot.data, "note": ""})
        ```
    """


@hookspec
def pgevents_after_snapshot(client: EventClient, snapshot: Snapshot, status: str) -> None:
    """Called after a projection was saved, in the transaction of the snapshot.

    Args:
        client: The projection's client.
        snapshot: What was saved.
        status: "created", "updated" or "skipped" (an equal or newer one stands).

    Raises:
        Exception: Any exception undoes the snapshot and reaches the caller.

    Example:
        ```python
        @hookimpl
        def pgevents_after_snapshot(self, client, snapshot, status):
            log.info("%s %s: %s", snapshot.type, snapshot.id, status)
        ```
    """


@hookspec
def pgevents_before_decode(
    client: EventClient, events: Sequence[StoredEvent]
) -> Sequence[StoredEvent] | None:
    """Called once for each read (of a long one: for each page) that found events, before their data become
    instances.

    The counterpart of `pgevents_before_save` for what changes data: plugins run one after the other in the
    opposite order, so that what was put on last comes off first (`tryfirst` and `trylast` mean what they
    say). Called for a save, too, to see that its events can be read back; their id is then 0.

    Args:
        client: The client that reads.
        events: What was read, in order, with data and metadata as they are stored, before any upcaster.

    Returns:
        As many in their place (`attrs.evolve(stored, data=...)`), or None to leave them as they are.

    Raises:
        Exception: Any exception ends the read and reaches the caller.

    Example:
        ```python
        @hookimpl
        def pgevents_before_decode(self, client, events):
            return [attrs.evolve(stored, data=expand(stored.data)) for stored in events]
        ```
    """


@hookspec
def pgevents_after_fold(client: EventClient, projection: Any, events: Sequence[Event[Any]]) -> None:
    """Called when a projection's view was folded from the log, in the caller's transaction if there is one.

    Not called for staged or hand-fed events, nor for an `as_of` view. An error is logged; it never hides the
    view.

    Args:
        client: The projection's client.
        projection: The projection. It is in use: to save a snapshot, save one of a copy
            (`copy.copy(projection)`).
        events: The events that were folded on top of the snapshot.

    Example:
        ```python
        @hookimpl
        def pgevents_after_fold(self, projection, events):
            log.debug("%r was folded from %d events", projection, len(events))
        ```
    """


@hookspec
def pgevents_observe(client: EventClient, operation: Operation) -> AbstractContextManager[object] | None:
    """Called when an operation begins. The returned context manager exits when the operation ends.

    Operations nest: a `decide` holds reads, folds and saves. The manager sees an exception that ends the
    operation, and cannot suppress it; its own errors are logged.

    Args:
        client: The client at work.
        operation: What it does. Its results are filled in before the manager exits.

    Returns:
        A context manager that is entered now and left when the operation ends; or None.

    Example:
        ```python
        @hookimpl
        @contextmanager
        def pgevents_observe(self, operation):
            start = time.perf_counter()
            yield
            print(operation.name, operation.events, time.perf_counter() - start)
        ```
    """


@hookspec
def pgevents_browser_event_links(client: EventClient, event: StoredEvent) -> Iterable[BrowserLink] | None:
    """Called when the browser shows an event: give it links of your own.

    It is called in the page's transaction, which only reads. An error is logged; the page is shown without
    the links.

    Args:
        client: The browser's client.
        event: The event as it is stored; what is encrypted is still encrypted.

    Returns:
        The links, or None.

    Example:
        ```python
        @hookimpl
        def pgevents_browser_event_links(self, event):
            if event.type == "INVOICE_SENT":
                return [BrowserLink("The invoice", f"https://books.example/{event.data['number']}")]
        ```
    """


@hookspec
def pgevents_browser_identifier_links(
    client: EventClient, field: str, value: str
) -> Iterable[BrowserLink] | None:
    """Called when the browser shows an identifier (a cart, a customer): give it links of your own.

    It is called in the page's transaction, which only reads. An error is logged; the page is shown without
    the links.

    Args:
        client: The browser's client.
        field: The identifier's field.
        value: Its value, as text.

    Returns:
        The links, or None.

    Example:
        ```python
        @hookimpl
        def pgevents_browser_identifier_links(self, field, value):
            if field == "user_id":
                return [BrowserLink("In the customer desk", f"https://desk.example/?user={quote(value)}")]
        ```
    """


@hookspec
def pgevents_browser_pages(client: EventClient) -> Iterable[BrowserPage] | None:
    """Called for each page of the browser: add pages of your own, which stand in its menu.

    An error is logged; the browser is shown without the pages.

    Args:
        client: The browser's client.

    Returns:
        The pages, or None.

    Example:
        ```python
        @hookimpl
        def pgevents_browser_pages(self, client):
            def show(query):
                return {"waiting": Outbox.select().count()}

            return [BrowserPage("outbox", "Outbox", show)]
        ```
    """


SPECS = {name: spec for name, spec in list(globals().items()) if name.startswith("pgevents_")}
"""Every hook by its name."""
