"""Commands that look after a store: stats, doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict, frozen

from pgevents.client import EventClient
from pgevents.diagnosis import Finding, diagnose
from pgevents.fingerprints import changed_reducers
from pgevents.store.kept import KeptReport
from pgevents.store.ordering import Horizon
from pgevents.subscriptions import SubscriptionReport, TimersReport, kept_views, overview, timers_report
from pgevents.terminal import printable

from .frame import EXIT_CODES
from .show import show_json
from .store import Store
from .views import projection_classes

__all__ = ["doctor", "stats"]

TYPES_SQL = """\
SELECT type, count(*), max(id), min(created_at), max(created_at) FROM {table} GROUP BY type ORDER BY 2 DESC, 1
"""
VIEWS_SQL = """\
SELECT type, version, count(*), min(latest_event_id), max(updated_at) FROM {table} GROUP BY 1, 2 ORDER BY 1, 2
"""
SUBSCRIPTION_FIELDS = ("name", "state", "lag", "lag_seconds", "parked", "workers", "batch_seconds")
SIZE_SQL = "SELECT pg_total_relation_size(to_regclass(%s)), pg_total_relation_size(to_regclass(%s))"


@click.command(
    help="Count what is in the store: events by type, saved projections, subscriptions, timers, sizes, the "
    "horizon.",
    epilog=EXIT_CODES,
)
@Store.options
def stats(**options: Any) -> None:
    store = Store(**options)
    figures = _figures(store.open())
    if store.as_json:
        show_json(_as_json(figures))
    else:
        _print(figures)


@frozen
class _Figures:
    """What stands in a store, as rows of the statements above and as reports."""

    types: list[Any]
    saved: list[Any]
    events_bytes: int
    projections_bytes: int
    kept: list[KeptReport]
    horizon: Horizon
    subscriptions: list[SubscriptionReport]
    timers: TimersReport


def _figures(client: EventClient) -> _Figures:
    events, views = client.events.pgevents_spec.qualified(), client.projections.pgevents_spec.qualified()
    execute = client.session.execute
    events_bytes, projections_bytes = execute(SIZE_SQL, [events, views]).fetchone()
    return _Figures(
        execute(TYPES_SQL.format(table=events), None).fetchall(),
        execute(VIEWS_SQL.format(table=views), None).fetchall(),
        events_bytes,
        projections_bytes,
        kept_views(client),
        client.horizon(),
        overview(client),
        timers_report(client),
    )


def _as_json(figures: _Figures) -> dict[str, Any]:
    types, projections = (
        ("type", "events", "last_id", "first_at", "last_at"),
        ("type", "version", "saved", "oldest_event_id", "saved_at"),
    )
    return {
        "types": [dict(zip(types, row, strict=True)) for row in figures.types],
        "projections": [dict(zip(projections, row, strict=True)) for row in figures.saved],
        "kept": [report.as_json() for report in figures.kept],
        "bytes": {"events": figures.events_bytes, "projections": figures.projections_bytes},
        "horizon": {"id": figures.horizon.id, "last_issued": figures.horizon.last_issued},
        "subscriptions": [
            {name: getattr(report, name) for name in SUBSCRIPTION_FIELDS} for report in figures.subscriptions
        ],
        "timers": figures.timers.as_json(),
    }


def _print(figures: _Figures) -> None:
    _print_table(
        ("events", "number", "last id", "last saved"),
        [
            (name, f"{count:,}", f"{last:,}", f"{at:%Y-%m-%d %H:%M:%S}")
            for name, count, last, _, at in figures.types
        ],
    )
    _print_table(
        ("projections", "version", "saved", "oldest at event", "last saved"),
        [
            (name, str(version), f"{count:,}", f"{oldest:,}", f"{at:%Y-%m-%d %H:%M:%S}")
            for name, version, count, oldest, at in figures.saved
        ],
    )
    _print_table(
        ("subscriptions", "state", "behind", "for", "parked", "workers"),
        [
            (
                row.name,
                row.state,
                f"{row.lag:,}",
                f"{row.lag_seconds:,.0f} s",
                f"{row.parked:,}",
                str(row.workers),
            )
            for row in figures.subscriptions
        ],
    )
    for kept in figures.kept:
        state = "complete" if kept.complete_at else f"being built, up to event {kept.target:,}"
        waiting = f", {kept.waiting:,} views wait to be folded anew" if kept.waiting else ""
        name = f"{printable(kept.type)} version {kept.version}"
        click.echo(f"{name} is kept: {state}, at event {kept.position:,}{waiting}")
    timers, horizon = figures.timers, figures.horizon
    if timers.scheduled:
        click.echo(
            f"{timers.scheduled:,} timers are scheduled: {timers.due:,} due, the first for "
            f"{timers.late_seconds:,.0f} s, {timers.parked:,} parked."
        )
    events, views = sum(row[1] for row in figures.types), sum(row[2] for row in figures.saved)
    click.echo(
        f"{events:,} events in {figures.events_bytes / 1e6:,.1f} MB, {views:,} projections in "
        f"{figures.projections_bytes / 1e6:,.1f} MB; final up to id {horizon.id:,} of "
        f"{horizon.last_issued:,}."
    )


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of a name and figures; nothing without rows."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(headings[0], box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for name, *cells in rows:
        table.add_row(printable(name), *cells)
    if rows:
        Console(highlight=False, markup=False, emoji=False).print(table)


@click.command(
    help="Look for what is wrong with tables, indexes and server, and say what to do about it. "
    "Exit code 1 for faults (✗), 0 for notes (!). A probe of subscriptions is `pgevents health`.",
    epilog=EXIT_CODES,
)
@click.option(
    "--reducers",
    type=click.Path(dir_okay=False, path_type=Path),
    default="reducers.lock",
    show_default=True,
    help="The lock file of check_reducers, if there is one: the projections of --app are compared with it.",
)
@Store.options
def doctor(reducers: Path, **options: Any) -> None:
    store = Store(**options)
    findings = [*diagnose(store.open()), *_reducers(reducers)]
    marks = {"ok": ("✓", "green"), "note": ("!", "yellow"), "fault": ("✗", "red")}
    for finding in findings:
        if store.as_json:
            show_json(asdict(finding))
            continue
        mark, colour = marks[finding.level]
        click.echo(f"{click.style(mark, fg=colour)} {printable(finding.what)}")
        if finding.advice:
            click.echo(click.style(f"  {finding.advice}", dim=True))
    if any(finding.level == "fault" for finding in findings):
        sys.exit(1)


def _reducers(lock: Path) -> Iterator[Finding]:
    """Whether reducers have changed under the same version, as far as the lock file says."""
    if not lock.exists():
        return
    classes = projection_classes()
    try:
        changed = changed_reducers(lock, *classes)
    except (ValueError, KeyError, TypeError, OSError) as error:
        yield Finding("note", f"{lock} cannot be read as a lock file of reducers: {error}")
        return
    for kind in changed:
        yield Finding(
            "note",
            f"the reducers of {kind} differ from {lock}, and its version does not",
            "saved views are folded on by the new ones: raise the version, or, if the views are the same, "
            "call check_reducers(..., update=True)",
        )
    if not changed and classes:
        yield Finding("ok", f"reducers are as {lock} has them, or have another version")
