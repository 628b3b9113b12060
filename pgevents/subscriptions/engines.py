"""Engines: what folds views up to a place in the log, elsewhere than in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, UnsupportedTransactionError
from pgevents.store.kept import kept_reports
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.lane_rows import refuse_stuck

__all__ = ["Engine", "fold_by"]


class Engine(Protocol):
    """What folds the views of a projection; `pgevents.clusters.Dask` is one."""

    def fold(self, client: EventClient, work: Work, progress: Callable[[int, int], object]) -> None:
        """Fold all views up to one final id, and move all lanes there.

        Args:
            client: The client.
            work: The kept view; it is registered.
            progress: Called with the id that is reached, and the one to reach.
        """


def fold_by(engine: Engine, work: Work, progress: Callable[[int, int], object]) -> None:
    """Let an engine fold the views of a projection, unless they are complete.

    Raises:
        ConfigurationError: Not an engine; or keeping the views is paused or stopped.
        UnsupportedTransactionError: Inside a transaction.
    """
    if not callable(getattr(engine, "fold", None)):
        raise ConfigurationError(
            f'an engine is an object such as pgevents.clusters.Dask("dask://scheduler:8786"), not {engine!r}'
        )
    client = work.client
    if client.session.in_transaction():
        raise UnsupportedTransactionError(
            "an engine's workers see what is committed: call rebuild outside of db.atomic()"
        )
    client.check_installed()
    settle(work)
    work.setup()
    refuse_stuck(work)
    (report,) = kept_reports(client.session, work.statements.spec, work.name)
    if report.complete_at is None and not report.is_reached:
        engine.fold(client, work, progress)
