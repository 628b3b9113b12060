"""Detects when a save is durable, and only then calls `pgevents_after_commit`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from pgevents.errors import UnsupportedTransactionError
from pgevents.events import Event

__all__ = ["AfterCommit", "Report"]

log = logging.getLogger("pgevents")
Saved = Sequence[Event[Any]]
Report = Callable[[Saved], None]
"""A function that takes the events of a save once they are written."""


class AfterCommit:
    """Reports the saves of one client when they are durable.

    Peewee runs its callbacks also after a COMMIT that PostgreSQL turned into a ROLLBACK, and for saves that
    were rolled back with a savepoint. So a query after the COMMIT finds which events are in the log, once for
    all saves of a transaction.
    """

    def __init__(
        self,
        db: Callable[[], Any],
        in_transaction: Callable[[], bool],
        ids_in_log: Callable[[Sequence[int]], set[int]],
        report: Report,
    ) -> None:
        """Nothing is called yet.

        Args:
            db: Returns the Peewee database, whose `after_commit()` is used.
            in_transaction: Whether a transaction is open, by Peewee or not.
            ids_in_log: Returns those of the given ids that are in the log.
            report: Called with the events of each save that is durable.
        """
        self._db = db
        self._in_transaction = in_transaction
        self._ids_in_log = ids_in_log
        self._report = report
        self._ids: weakref.WeakKeyDictionary[Any, _Ids] = weakref.WeakKeyDictionary()

    def expect(self) -> Report:
        """Before a save: the function that takes its events once they are written.

        Raises:
            UnsupportedTransactionError: The end of this transaction cannot be observed: `db.manual_commit()`,
                or a BEGIN without Peewee.
        """
        if not self._in_transaction():
            return self._report
        db = self._db()
        if not db.in_transaction():
            raise UnsupportedTransactionError(
                "pgevents_after_commit cannot see the end of a transaction that was begun without "
                "Peewee; nothing was written: use db.atomic()"
            )
        transaction = db.top_transaction()
        ids = self._ids.get(transaction)
        if ids is None or ids.in_log is not None:
            ids = self._ids[transaction] = _Ids()
        expected = _Expected(self, ids)
        try:
            db.after_commit(expected)
        except ValueError:
            raise UnsupportedTransactionError(
                "pgevents_after_commit cannot see the end of a manual_commit() block; nothing was "
                "written: use db.atomic()"
            ) from None
        return expected.note

    def report_if_durable(self, saved: Saved, ids: _Ids) -> None:
        """After the COMMIT: report a save if its events are in the log."""
        if ids.in_log is None:
            try:
                ids.in_log = self._ids_in_log(ids.saved)
            except Exception:  # an error after the COMMIT would look as if the save had failed
                log.exception(
                    "could not query whether events are durable; pgevents_after_commit was not called"
                )
                ids.in_log = set()
        if all(event.id in ids.in_log for event in saved):
            self._report(saved)


@attrs.define(eq=False)
class _Ids:
    """The ids of all events that were saved in one transaction."""

    saved: list[int] = attrs.field(factory=list[int])
    in_log: set[int] | None = None
    """Which of them are in the log; None before the query after the COMMIT."""


@attrs.define(eq=False)
class _Expected:
    """A save inside a transaction; Peewee calls this object after the COMMIT."""

    owner: AfterCommit
    ids: _Ids
    saved: Saved = ()

    def note(self, saved: Saved) -> None:
        self.saved = saved
        self.ids.saved += [event.id for event in saved]

    def __call__(self) -> None:
        if self.saved:
            self.owner.report_if_durable(self.saved, self.ids)
