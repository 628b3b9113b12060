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
registered first; `@hookimpl(tryfirst=True)` and `@hookimpl(trylast=True)` move a plugin to the front or to
the end. A wrapper (`@hookimpl(wrapper=True)`, a generator with one `yield`) runs around all others and
returns their result or another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import cattrs

    from pgevents.events import Event, NewEvent, StoredEvent
    from pgevents.hooks.details import BrowserLink, BrowserPage, Conflict, Operation, Snapshot
    from pgevents.type_registry import EventTypes

__all__ = ["PROJECT", "SPECS", "hookimpl", "hookspec"]

EventClient = Any
"""`pgevents.EventClient`, which this module does not import: hooks only pass it on."""

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
        Exception: Any exception ends the registration; the client stays as it was.

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
    """Called once for each plugin, when it is registered: add event classes, with their upcasters.

    Args:
        types: The client's registry at this moment.

    Returns:
        Classes made by `@event`, or None. The client has them until the plugin is unregistered.

    Raises:
        Exception: Any exception ends the registration; the client stays as it was.

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
    """Called when a plugin is registered: add types of your own to the client's converter.

    It is called again with a new converter whenever a plugin is registered or unregistered, so it should do
    nothing but configure.

    Args:
        converter: The cattrs converter that makes JSON of events and views, and events and views of JSON.

    Raises:
        Exception: Any exception ends the registration; the client stays as it was.

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
    """Called when a plugin is registered or unregistered: name fields that are not stored as their value.

    No stream can find events by such a field, so a stream that names it is refused instead of being empty. A
    plugin that encrypts or replaces values in `pgevents_before_save` names their fields here.

    Args:
        client: The client that the plugin is registered with.

    Returns:
        Names of fields, as they are stored, by the event type's name; None or an empty mapping for none.

    Raises:
        Exception: Any exception ends the registration; the client stays as it was.

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

    Processes that call it at the same time wait for each other. Many programs call it at every start, so it
    must be repeatable.

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

    Plugins run one after the other, each with the result of the plugin before it. The result of the last one
    determines the locks, is compared with an earlier save of the same idempotency key, and is stored. A
    wrapper takes and returns events, too.

    Args:
        client: The client that saves.
        events: The events to be saved, in order; their data are instances of event classes, or dicts.

    Returns:
        As many events to save instead; None to leave them as they are. Data may be replaced by a JSON-ready
        dict that the event's class can read (after `pgevents_before_decode`).

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

    Save and hook run in one transaction, or in a savepoint of the caller's transaction. Not called for a save
    that an idempotency key recognised as a repeat, because then nothing was written.

    Args:
        client: The client that saved. Saving more events through it is allowed, and calls the hooks for
            them. A plugin that saves for its own saves, too, is stopped by a `PluginError` when ten calls are
            nested; it undoes all of them.
        events: The events of one save, with ids, as a read gives them.

    Raises:
        Exception: Any exception undoes the save and what the hooks wrote, and reaches the caller. So does an
            SQL error that a plugin swallows, because PostgreSQL can only roll back after it.

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
    it: work that must not be missed belongs into a subscription (`pgevents.subscriptions`). With this hook, a
    save inside `db.manual_commit()`, or in a transaction that Peewee did not begin, is refused before
    anything is written, because the end of that transaction cannot be observed. Peewee stops at the first
    after-commit callback that raises: your own callbacks, registered before the save, must not raise.

    An error is logged; it does not undo or hide the save, and the next plugin is still called.

    Args:
        client: The client that saved. No transaction is open. Saving through it is allowed; a plugin that
            saves for its own saves, too, is stopped by a `PluginError` when three calls are nested.
        events: The events of one save. The hook is called for the saves of a transaction in their order.

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
        conflict: The expected position, the events that were not expected, and the number of the try.

    Returns:
        Seconds after which `decide` reads and decides again, also when its `retries` are used up; None to
        leave that to `decide`. If several plugins return seconds, the longest delay counts. A validated save
        outside `decide` is not tried again, because the same position would be refused again. There, and
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
    """Called before a snapshot is saved, in its transaction (a savepoint of the caller's, if there is one).

    Plugins run one after the other, each with the result of the plugin before it. A wrapper takes and returns
    a snapshot.

    Args:
        client: The projection's client.
        snapshot: The snapshot to be saved.

    Returns:
        The snapshot with other data (`attrs.evolve(snapshot, data=...)`), or None to leave it as it is. Later
        folds start from these data, so what the reducers need must stay.

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
    """Called after a snapshot was saved, in its transaction.

    Args:
        client: The projection's client.
        snapshot: The snapshot.
        status: "created", "updated" or "skipped" (the table holds an equal or newer one).

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
    """Called once for each read that returns events (of a long read: for each page), before they are decoded.

    The counterpart of `pgevents_before_save` for plugins that change data. Plugins run one after the other in
    the opposite order, so that the last change is undone first (`tryfirst` and `trylast` keep their meaning).
    It is called for a save, too, to check that its events can be read back; their id is then 0.

    Args:
        client: The client that reads.
        events: The stored events, in order, with data and metadata as they are stored, before any upcaster.

    Returns:
        As many events instead (`attrs.evolve(stored, data=...)`), or None to leave them as they are.

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

    Not called for staged or hand-fed events, nor for an `as_of` view. An error is logged; the caller still
    gets the view.

    Args:
        client: The projection's client.
        projection: The projection, which is in use: to save a snapshot, copy it first
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

    Operations nest: a `decide` contains reads, folds and saves. The manager sees an exception that ends the
    operation, and cannot suppress it; the manager's own errors are logged.

    Args:
        client: The client.
        operation: The operation, to be read. Its results are there when the manager exits.

    Returns:
        A context manager, entered at once and exited when the operation ends; or None.

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
    """Called when the browser shows an event: add links to it.

    It is called in the page's read-only transaction. An error is logged; the page is shown without the links.

    Args:
        client: The browser's client.
        event: The event as it is stored; encrypted fields are not decrypted.

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
    """Called when the browser shows an identifier (a cart, a customer): add links to it.

    It is called in the page's read-only transaction. An error is logged; the page is shown without the links.

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
    """Called for each page of the browser: add pages to its menu.

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
