"""Rebuilding views: a new version from the start of the log, while the old one is served; then dropping
that."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, PgEventsError
from pgevents.store.kept import KeptReport, kept_name, kept_reports
from pgevents.subscriptions.control import replay
from pgevents.subscriptions.definition import ErrorPolicy, Work
from pgevents.subscriptions.engines import Engine, fold_by
from pgevents.subscriptions.keeping import Keeper, keep
from pgevents.subscriptions.lane_rows import every_lane, refuse_stuck, statements_of
from pgevents.subscriptions.runner import Runner

__all__ = ["RebuildProgress", "drop_old_versions", "kept_views", "rebuild"]

DROP_SQL = "DELETE FROM {table} WHERE type = %s AND version = %s"
OLD_SQL = "SELECT DISTINCT version FROM {table} WHERE type = %s AND version < %s ORDER BY version"
READ_LATELY = 300.0


@attrs.frozen
class RebuildProgress:
    """How far a rebuild is.

    Attributes:
        position: The place in the log that was reached; an estimate where views are folded one by one.
        target: The place that it has to reach.
        rate: Ids a second since this process began; 0 at first.
        seconds_left: Seconds until it is complete, if it goes on like that; None if that cannot be said yet.
        waiting: How many views wait to be folded anew, after an error for example.
    """

    position: int
    target: int
    rate: float
    seconds_left: float | None
    waiting: int


def kept_views(client: EventClient) -> list[KeptReport]:
    """The views that runners keep, and how far each is.

    Args:
        client: A client of the same events table.

    Example:
        ```python
        from pgevents.subscriptions import kept_views

        for view in kept_views(client):
            print(view.type, view.version, view.position, view.complete_at)
        ```
    """
    client.check_installed()
    return kept_reports(client.session, client.events.pgevents_spec)


def rebuild(
    client: EventClient,
    projection: Any,
    *,
    workers: int = 1,
    progress: Callable[[RebuildProgress], object] | None = None,
    every: float = 0.5,
    drop_old: bool = False,
    on_error: ErrorPolicy | None = None,
    engine: Engine | None = None,
) -> KeptReport:
    """Fold all views of a projection's version, and return when they are complete.

    It is the keeping of this version, from the start of the log: so it goes on where it was when it is called
    again after a kill, other processes may help (call it there, too, or run a runner that keeps the
    class), and programs of the old version go on with theirs meanwhile. Afterwards a runner keeps the
    views up to date.

    A view that is parked is tried again first, for its reducer may be mended, or its process was killed by
    somebody else. One that still fails is parked again after its attempts, and then this raises.

    Args:
        client: The client.
        projection: The projection's class, with its version raised.
        workers: Threads; more help where the server is what takes time.
        progress: Called now and then.
        every: Seconds between these calls.
        drop_old: Afterwards remove the views of older versions; see `drop_old_versions`.
        on_error: As for `keep`.
        engine: What folds the views in place of this process, such as a `pgevents.clusters.Dask`. This
            process then folds what came since.

    Raises:
        ConfigurationError: A class that cannot be kept; or one whose keeping is paused or stopped; or the
            views were folded before the class had its present fields: raise its version.
        PgEventsError: Views that cannot be folded; the message names the command that shows them.
        RetryableError: Views are parked, and a batch of another process did not end within 10 seconds.

    Example:
        ```python
        from pgevents.subscriptions import rebuild

        rebuild(client, CartProjection, progress=lambda now: print(now.position, "of", now.target))
        ```
    """
    runner = Runner(client, [keep(projection, on_error=on_error)])
    work = runner.works[0]
    work.keeper.refuse_other_fields(work)
    _try_parked_again(client, work.name)
    tell: Callable[[RebuildProgress], object] = progress or (lambda _: None)
    if engine is not None:
        fold_by(engine, work, _reporter(tell))
    with _running(runner, workers) as thread:
        _await_complete(work, thread, tell, every)
    (report,) = kept_reports(client.session, work.statements.spec, work.name)
    if report.waiting:
        raise PgEventsError(
            f"{report.waiting} views of {report.type} {report.version} cannot be folded yet; see them by: "
            f"pgevents parked list {report.name!r}. Correct the class and call rebuild again, or give them "
            "up: pgevents parked discard"
        )
    work.keeper.refuse_other_fields(work)  # they may have changed since it began
    if drop_old:
        drop_old_versions(client, projection)
    return report


@contextmanager
def _running(runner: Runner, workers: int) -> Generator[threading.Thread, None, None]:
    """A block beside which a runner works, in a thread of its own; its error is raised at the end."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            runner.run(workers)
        except BaseException as error:
            failed.append(error)
        finally:
            if not runner.client.db.is_closed():
                runner.client.db.close()

    thread = threading.Thread(target=run, name="pgevents-rebuild", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        runner.stop()
        thread.join()
    if failed:
        raise failed[0]


def _await_complete(
    work: Work, thread: threading.Thread, tell: Callable[[RebuildProgress], object], every: float
) -> None:
    """Look at the views until they are complete, or their runner has ended."""
    start: tuple[float, int] | None = None
    at = 0
    while thread.is_alive():
        report = next(iter(kept_reports(work.client.session, work.statements.spec, work.name)), None)
        if report is not None:
            at = max(at, report.position, work.keeper.reading_at)  # that one is an estimate, and may go back
            start = start or (time.monotonic(), at)
            tell(_progress(at, report.target, start, report.waiting))
            is_trying = work.statements.value("is_trying", name=work.name)
            if (report.complete_at is not None or report.is_reached) and not is_trying:
                return
            refuse_stuck(work)
        _pause(thread, work.keeper, every if report is not None else 0.02)


def _pause(thread: threading.Thread, keeper: Keeper, seconds: float) -> None:
    """Wait before the next look; no longer than until the views have become complete."""
    end, was_complete = time.monotonic() + seconds, keeper.is_complete
    while thread.is_alive() and keeper.is_complete == was_complete:
        left = end - time.monotonic()
        if left <= 0:
            return
        thread.join(min(left, 0.02))


def _try_parked_again(client: EventClient, name: str) -> None:
    """Only what is parked: what is still being tried keeps its count, or a reducer that ends its process
    would end each process that is started in its place."""
    if statements_of(client).value("is_parked", name=name):
        replay(client, name, reason="rebuild was called", states=("parked",))


def _progress(at: int, target: int, start: tuple[float, int], waiting: int) -> RebuildProgress:
    """How far a rebuild is that was at some id when it began, by `time.monotonic()`."""
    seconds = time.monotonic() - start[0]
    rate = (at - start[1]) / seconds if seconds > 0 else 0.0
    left = max(target - at, 0)
    return RebuildProgress(at, target, rate, left / rate if rate > 0 else None, waiting)


def _reporter(tell: Callable[[RebuildProgress], object]) -> Callable[[int, int], object]:
    """What an engine calls to say how far it is."""
    start: tuple[float, int] | None = None

    def report(at: int, target: int) -> None:
        nonlocal start
        start = start or (time.monotonic(), at)
        tell(_progress(at, target, start, 0))

    return report


def drop_old_versions(client: EventClient, projection: Any) -> int:
    """Remove the views of older versions of a projection, and the places of their keepers, all or none.

    Args:
        client: The client.
        projection: The projection's class, of the version that stays.

    Returns:
        How many views were removed.

    Raises:
        ConfigurationError: The version that stays is kept and not complete; or an older one is still kept
            by a runner, or was queried in the last five minutes. Nothing was removed.
    """
    cls, spec, views = projection, client.events.pgevents_spec, client.projections.pgevents_spec
    client.check_installed()
    statements, removed = statements_of(client), 0
    with client.session.atomic():
        reports = {report.name: report for report in kept_reports(client.session, spec)}
        current = reports.get(kept_name(cls.projection_type, cls.version, views))
        if current is not None and (current.complete_at is None or current.waiting):
            raise ConfigurationError(
                f"{current.name!r} is not complete yet, so older versions are still needed"
            )
        rows = client.session.execute(
            OLD_SQL.format(table=views.qualified()), [cls.projection_type, cls.version]
        ).fetchall()
        stored = {row[0] for row in rows}
        kept = {report.version for report in reports.values() if report.type == cls.projection_type}
        for version in sorted(number for number in stored | kept if number < cls.version):
            name = kept_name(cls.projection_type, version, views)
            if name in reports:
                _refuse_used(client, reports[name])
                with every_lane(client, name):
                    for statement in ("drop_kept", "drop_parked", "drop_ranges", "delete_rows"):
                        statements.run(statement, name=name)
            sql = DROP_SQL.format(table=views.qualified())
            removed += client.session.execute(sql, [cls.projection_type, version]).rowcount
    return removed


def _refuse_used(client: EventClient, report: KeptReport) -> None:
    statements = statements_of(client)
    keepers = statements.rows("keepers", name=report.name)
    if keepers:
        host, pid = keepers[0]
        raise ConfigurationError(
            f"{report.name!r} is still kept by a runner on {host}, process {pid}; stop it"
        )
    (seconds,) = client.session.execute(
        "SELECT extract(epoch FROM clock_timestamp() - %s::timestamptz)::float8", [report.read_at]
    ).fetchone()
    if seconds is not None and seconds < READ_LATELY:
        raise ConfigurationError(
            f"{report.name!r} was queried {seconds:.0f} s ago: a program of the old version still runs. Wait "
            f"until nobody has asked for {READ_LATELY:.0f} s"
        )
