"""`Inline`: views that are folded in the transaction of the save itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgevents.client import EventClient
from pgevents.codec.decoding import FIELD_END, rows_of
from pgevents.codec.times import time_of
from pgevents.errors import ConfigurationError
from pgevents.events import Event, parts_of
from pgevents.hooks.specs import hookimpl
from pgevents.merging import merge_streams
from pgevents.saving import Write
from pgevents.store.append import Row, Run, ViewBeside
from pgevents.streams import Stream
from pgevents.subscriptions.view_rows import (
    Held,
    has_snapshot_hooks,
    read_rows,
    rows_above,
    write_locked,
)
from pgevents.subscriptions.whose import Rule, rule_of

__all__ = ["Inline"]

LAST = 2**63 - 1
"""The greatest id there may be."""


class Inline:
    """A plugin that folds the views of a projection in each save: their rows commit with the events.

    Each save locks its views' streams as a validated save does, so saves of one id come one after the
    other; a transaction that saves for several ids may meet a deadlock, which is retryable. A reducer
    that fails, fails the save. Programs without the plugin leave their views behind, until the next save
    here: have a runner `keep` the projection, too.

    Args:
        projection: The projection's class. Its id is the value of one field, a data index of the events
            table.

    Example:
        ```python
        from pgevents.subscriptions import Inline

        client = create_event_client(db, events, views, plugins=[Inline(CartProjection)])
        ```
    """

    def __init__(self, projection: Any) -> None:
        if not isinstance(projection, type) or not hasattr(projection, "declared_for"):
            raise ConfigurationError(f"Inline takes a projection's class, not {projection!r}")
        self.projection: Any = projection

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """From now on each save of the client folds."""
        client.saver.inline += (_Folder(client, self.projection),)


class _Folder:
    """What a save calls, in its transaction."""

    def __init__(self, client: EventClient, projection: Any) -> None:
        self.client = client
        self.projection = projection
        self._rule: Rule | None = None

    @property
    def rule(self) -> Rule:
        """Whose view an event changes; found out at the first save, when all event classes are known."""
        if self._rule is None:
            rule = rule_of(self.projection, self.client)
            if len(rule.fields_now) != 1:
                raise ConfigurationError(
                    f"{self.projection.__name__} cannot be folded inline: a save can lock a view only where "
                    "its id is the value of one field of all its events. Keep it by a runner: keep(...)"
                )
            self._rule = rule
        return self._rule

    def changed(self, rows: Sequence[Row]) -> list[Held]:
        """The views that events change, in the order of their ids.

        Args:
            rows: Type, data and metadata of each event as they will be stored.
        """
        rule = self.rule
        ids = {text for row in rows for text in rule.ids((0, *row), None)}
        return [Held(text, rule.projection_of(text)) for text in sorted(ids)]

    def beside(self, view: Held) -> ViewBeside | None:
        """What an append needs to lock and read a view; None if its events are not those of one value."""
        client = self.client
        question = client.reader.single_value(self._streams([view]))
        if question is None:
            return None
        key = view.key = view.projection.snapshot_key()
        table = client.projections.pgevents_spec.qualified()
        return ViewBeside(table, (key.type, key.id, key.version, key.shape), question)

    def lock(self, views: Sequence[Held], run: Run) -> None:
        """Until the commit nobody else saves to the views' streams, and nobody changes the log."""
        if views:
            run(*self.client.reader.lock_statement(self._streams(views)))

    def _streams(self, views: Sequence[Held]) -> tuple[Stream[Any], ...]:
        streams = [stream for view in views for stream in view.projection.get_streams()]
        return merge_streams(self.client.identifiers.check(streams))

    def fold(self, views: Sequence[Held], found: str, write: Write) -> None:
        """Fold all that is above the rows of these views into them, what was saved just now included.

        Args:
            views: What `changed` gave; they are locked.
            found: What the append has read of the only one.
            write: Runs the statement that writes them.
        """
        events = self._read_beside(views[0], found) if found else self._read(views)
        has_hooks = has_snapshot_hooks(self.client)
        folded = [view for view in views if events.get(view.id)]
        for view in folded:
            view.fold(events[view.id], has_hooks=has_hooks)
        write_locked(self.rule, folded, write)

    def _read_beside(self, view: Held, found: str) -> Mapping[str, Sequence[Event[Any]]]:
        """The events of the one view, whose row and events the append has read."""
        client, key = self.client, view.key
        latest, data, _, saved_at, events = found.split(FIELD_END, 4)
        if latest and key is not None:
            stored = client.snapshots.view_of(data, key.view_class, key.type)
            view.begin_with(stored, int(latest), time_of(saved_at))
        return {view.id: parts_of(client.decoder.events(rows_of(events)))}

    def _read(self, views: Sequence[Held]) -> Mapping[str, Sequence[Event[Any]]]:
        """The events of some views, whose rows are read."""
        read_rows(self.rule, {view.id: view for view in views})
        rows: dict[str, list[Any]] = {}
        for text, *row in rows_above(self.rule, [(view, LAST) for view in views]):
            rows.setdefault(text, []).append(row)
        return {text: parts_of(self.client.decoder.events(found)) for text, found in rows.items()}
