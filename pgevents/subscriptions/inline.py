"""`Inline`: views that are folded in the transaction of the save itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError
from pgevents.hooks.specs import hookimpl
from pgevents.merging import merge_streams
from pgevents.store.ordering import streams_json
from pgevents.streams import Stream
from pgevents.subscriptions.whose import Rule, rule_of

__all__ = ["Inline"]

LOCK_SQL = "SELECT {lock}(%s), {hold_redactions}()"


class Inline:
    """A plugin that folds the views of a projection in each save: their rows commit with the events.

    Each save locks its views' streams as a validated save does, so saves of one id come one after the
    other; a
    transaction that saves for several ids may meet a deadlock, which is retryable. A reducer that fails,
    fails
    the save. Programs without the plugin leave their views behind, until the next save here: have a runner
    `keep` the projection, too.

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
                    f"{self.projection.__name__} cannot be folded inline: a save can lock a view only "
                    f"where its "
                    "id is the value of one field of all its events. Keep it by a runner: keep(...)"
                )
            self._rule = rule
        return self._rule

    def lock(self, rows: Sequence[tuple[str, str, str]]) -> list[Any]:
        """Lock the streams of the views that these events change, before they are appended.

        Args:
            rows: Type, data and metadata of each event as they will be stored.

        Returns:
            The projections, in the order of their ids.
        """
        rule = self.rule
        ids = sorted({text for row in rows for text in rule.ids((0, *row), None)})
        made = [rule.made(text) for text in ids]
        if made:
            streams = self.client.identifiers.check(
                merge_streams([one for each in made for one in each.get_streams()])
            )
            self._lock(streams)
        return made

    def _lock(self, streams: Sequence[Stream[Any]]) -> None:
        names = {name: self.client.events.pgevents_spec.qualified(f"_{name}") for name in NAMES}
        self.client.session.execute(LOCK_SQL.format(**names), [streams_json(streams)])

    def fold(self, made: Sequence[Any]) -> None:
        """Fold all that is above the rows of these views into them."""
        client = self.client
        for one in made:
            loaded = one.load()
            if not loaded.events:
                continue
            view = one.fold_on(loaded.row, loaded.events, loaded.position)
            base = None if loaded.row is None else loaded.row[6]
            client.save_snapshot(one, view, loaded.events[-1].id, loaded.events, base)


NAMES = ("lock", "hold_redactions")
