"""`keep`: the views of a projection, kept up to date by a runner.

A view is the fold of all its final events, not of those that happen to come: of each view that a batch
touches, all events above its row are folded, and a row that is missing is folded from the start. The lanes go
by the views' ids. Rows and places commit together, under the lock that keeps maintenance out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, RetryableError
from pgevents.events import Event
from pgevents.saved_views import refuse_other_shapes
from pgevents.store.kept import kept_name, kept_reports
from pgevents.store.ordering import last_issued
from pgevents.subscriptions import control
from pgevents.subscriptions.definition import VIEW_KEY, ErrorPolicy, Question, Work
from pgevents.subscriptions.far_folding import FarFold
from pgevents.subscriptions.lanes import Lane, claim
from pgevents.subscriptions.pace import NEVER, Outcome, Pace
from pgevents.subscriptions.transient import is_transient, let_go
from pgevents.subscriptions.view_folding import PAGE
from pgevents.subscriptions.whose import Rule, UnknownViewsError, rule_of
from pgevents.view_kinds import view_kind

__all__ = ["Keep", "Keeper", "keep"]

LANES = 8
LOOK_EVERY = 1.0
MOST_INTERRUPTIONS = 10
"""After so many errors of the database in a row, lanes are taken for those of a keeper that died: small pages
may get on where large ones do not."""
PATIENCE = 10.0
"""Seconds to wait for maintenance when keeping begins."""


@attrs.frozen
class Keep:
    """A projection for a `Runner` to keep; made by `keep()`.

    Attributes:
        projection: Its class.
        lanes: How many lanes it begins with.
        on_error: What an error means.
    """

    projection: Any
    lanes: int = LANES
    on_error: ErrorPolicy = ErrorPolicy()

    def work(self, client: EventClient) -> Work:
        """What workers need to know of it.

        Raises:
            ConfigurationError: A class that cannot be kept; the message says why.
        """
        rule = rule_of(self.projection, client)
        keeper = Keeper(rule)
        key = (rule.field,) if rule.field is not None else VIEW_KEY
        policy = self.on_error if self.on_error.then is not None else self.on_error.then_park()
        cls, spec = self.projection, client.projections.pgevents_spec
        work = Work(
            client=client,
            name=kept_name(cls.projection_type, cls.version, spec),
            question=Question.of(rule.streams, key),
            lanes=self.lanes,
            effects="inside",
            policy=policy,
            lease=60.0,
            batch_size=PAGE,
            handle=_never_called,
            takes_batches=True,
            setup=lambda: keeper.register(work),
            keeper=keeper,
        )
        return work


def keep(projection: Any, *, lanes: int = LANES, on_error: ErrorPolicy | None = None) -> Keep:
    """Let a runner keep the views of a projection up to date in the projections table.

    The views then stand there for `client.query_projections`, as of a place in the log that the result
    names. A raised `version` is kept beside the old one, from the start of the log; until it is complete,
    queries of it say so, and programs of the old version go on with theirs.

    Args:
        projection: The projection's class. Whose view an event changes is found out from its streams: each
            has one field that is the id, a data index of the events table. Else the class says it:
            `@staticmethod def ids_of(event)` returns a set of ids.
        lanes: How many workers can work on it at once at most, at first; `resize` changes it.
        on_error: As for `subscription`; by default five attempts, then the view is parked.

    Raises:
        ConfigurationError: Not a projection class.

    Example:
        ```python
        from pgevents.subscriptions import Runner, keep

        runner = Runner(client, [keep(CartProjection)])
        runner.run(workers=2)
        ```
    """
    if not isinstance(projection, type) or not hasattr(projection, "declared_for"):
        raise ConfigurationError(f"keep takes a projection's class, not {projection!r}")
    if type(lanes) is not int or not 1 <= lanes <= 1024:
        raise ConfigurationError(f"lanes are a number from 1 to 1024, not {lanes!r}")
    return Keep(projection, lanes, on_error or ErrorPolicy())


def _never_called(events: Sequence[Event[Any]]) -> None:
    raise ConfigurationError("a kept view is handled by its keeper")


@attrs.define(eq=False)
class Keeper:
    """Folds the events of a projection into its rows.

    Attributes:
        rule: Whose view an event changes.
        is_complete: Whether the view was complete at the last look.
        reading_at: Up to which id it has folded, perhaps not committed yet; an estimate, to be shown.
        look_at: When to look again whether the view is complete, by `time.monotonic()`.
    """

    rule: Rule
    is_complete: bool = False
    reading_at: int = 0
    look_at: float = 0.0

    def register(self, work: Work) -> None:
        """Note that the view is kept, and from where on it is complete.

        Raises:
            ConfigurationError: A view of this name is kept in another table; or the views are complete, and
                were folded before the class had its present fields.
        """
        self.refuse_other_fields(work)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with work.client.session.atomic():
                    self._register(work)
                return
            except RetryableError:  # the log is being changed under maintenance
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def refuse_other_fields(self, work: Work) -> None:
        """Refuse complete views that were folded before the class had its present fields.

        Keeping goes on above them, so those of which no event comes would never have these fields. Views that
        are still being built are folded with the present fields.

        Raises:
            ConfigurationError: There are some; the message says what to do.
        """
        client = work.client
        if any(
            report.complete_at for report in kept_reports(client.session, work.statements.spec, work.name)
        ):
            kind = view_kind(client.snapshots, client.types, self.rule.projection)
            refuse_other_shapes(client.snapshots, kind)

    def _register(self, work: Work) -> None:
        rule, cls = self.rule, self.rule.projection
        spec = work.client.projections.pgevents_spec
        stored: dict[str, Any] = {
            "name": work.name,
            "fields": sorted(set(rule.fields)) or None,
            "projections": spec.qualified(),
        }
        if work.statements.value("is_kept_so", **stored):  # the gate waits for the batch of every keeper
            return
        target = last_issued(work.client.session.execute, work.client.events.pgevents_spec)
        work.statements.run("gate", gate=work.gate)
        is_new = not work.statements.rows("kept", name=work.name)
        kind = {"type": cls.projection_type, "version": cls.version}
        work.statements.run("keep", target=target, **kind, **stored)
        if not work.statements.value("is_kept_there", name=work.name, projections=spec.qualified()):
            raise ConfigurationError(
                f"{work.name!r} is kept in another table of this name; give one of the two tables "
                f"another name"
            )
        if is_new:
            work.statements.value("hold_redactions")
            work.statements.run("begin_keeping", name=work.name)

    def _reached(self, event_id: int) -> None:
        self.reading_at = event_id

    def step(
        self,
        work: Work,
        numbers: Sequence[int],
        share: int,
        stop: threading.Event = NEVER,
        pace: Pace | None = None,
    ) -> Outcome:
        """Take some lanes, and fold what there is for them, in one transaction.

        Args:
            work: The kept view.
            numbers: Lanes to choose from, in order of preference.
            share: At most so many of them.
            stop: Ends it after the events in hand.
            pace: Whether lanes where a worker died are next.
        """
        try:
            return self._step(work, numbers, share, stop, pace or Pace())
        except UnknownViewsError as error:
            control.stop(work.client, work.name, str(error))
            return Outcome()

    def _step(
        self, work: Work, numbers: Sequence[int], share: int, stop: threading.Event, pace: Pace
    ) -> Outcome:
        batch = FarFold(self.rule, work, stop, self._reached)
        try:
            with work.client.session.atomic():
                outcome = batch.run(numbers, share, pace)
        except Exception as error:
            if is_transient(error) and pace.interruptions < MOST_INTERRUPTIONS:
                pace.interruptions += 1
                _show_alive(work, batch.lanes)
            raise
        pace.interruptions = 0
        if batch.announced is not None:
            announced = batch.announced
            with work.client.session.atomic():
                batch = FarFold(self.rule, work, stop, self._reached)
                outcome = batch.run_announced(announced)
        if batch.failure:
            control.stop(work.client, work.name, batch.failure)
        if outcome.claimed and time.monotonic() >= self.look_at:
            work.statements.run("complete", name=work.name)
            reports = work.statements.rows("kept", name=work.name)
            self.is_complete = bool(reports and reports[0][5])
            self.look_at = time.monotonic() + LOOK_EVERY if self.is_complete else 0.0
        return outcome


def _show_alive(work: Work, lanes: Sequence[Lane]) -> None:
    """After an error of the database: commit a lock of these lanes.

    As the aborted transaction left them, they would look as if a reducer had ended the process, and their
    events would be read in small pages.
    """
    let_go(work.client)
    if not lanes or any(lane.careful for lane in lanes):
        return
    try:
        with work.client.session.atomic():
            claim(work, [lane.number for lane in lanes], len(lanes))
    except Exception as error:
        if not is_transient(error):
            raise
