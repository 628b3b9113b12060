"""Commands that look after a store: stats, doctor."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from pgevents.diagnosis import Finding, diagnose
from pgevents.fingerprints import changed_reducers
from pgevents.subscriptions import kept_views, overview, timers_report
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
    client = store.open()
    events, views = client.events.pgevents_spec.qualified(), client.projections.pgevents_spec.qualified()
    execute = client.session.execute
    types, saved = (
        execute(TYPES_SQL.format(table=events), None).fetchall(),
        execute(VIEWS_SQL.format(table=views), None).fetchall(),
    )
    sizes = execute(SIZE_SQL, [events, views]).fetchone()
    horizon, reports, timers = client.horizon(), overview(client), timers_report(client)
    if store.as_json:
        found: dict[str, Any] = {
            "types": [
                dict(zip(("type", "events", "last_id", "first_at", "last_at"), row, strict=True))
                for row in types
            ],
            "projections": [
                dict(zip(("type", "version", "saved", "oldest_event_id", "saved_at"), row, strict=True))
                for row in saved
            ],
            "kept": [report.as_json() for report in kept_views(client)],
            "bytes": {"events": sizes[0], "projections": sizes[1]},
            "horizon": {"id": horizon.id, "last_issued": horizon.last_issued},
            "subscriptions": [
                {name: getattr(report, name) for name in SUBSCRIPTION_FIELDS} for report in reports
            ],
            "timers": timers.as_json(),
        }
        show_json(found)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, emoji=False)
    table = Table("events", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("number", "last id", "last saved"):
        table.add_column(heading, justify="right")
    for name, count, last, _, at in types:
        table.add_row(printable(name), f"{count:,}", f"{last:,}", f"{at:%Y-%m-%d %H:%M:%S}")
    if types:
        console.print(table)
    table = Table("projections", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("version", "saved", "oldest at event", "last saved"):
        table.add_column(heading, justify="right")
    for name, version, count, oldest, at in saved:
        table.add_row(printable(name), str(version), f"{count:,}", f"{oldest:,}", f"{at:%Y-%m-%d %H:%M:%S}")
    if saved:
        console.print(table)
    table = Table("subscriptions", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("state", "behind", "for", "parked", "workers"):
        table.add_column(heading, justify="right")
    for report in reports:
        cells = (f"{report.lag:,}", f"{report.lag_seconds:,.0f} s", f"{report.parked:,}", str(report.workers))
        table.add_row(printable(report.name), report.state, *cells)
    if reports:
        console.print(table)
    for kept in kept_views(client):
        state = "complete" if kept.complete_at else f"being built, up to event {kept.target:,}"
        waiting = f", {kept.waiting:,} views wait to be folded anew" if kept.waiting else ""
        console.print(
            f"{printable(kept.type)} version {kept.version} is kept: {state}, at event "
            f"{kept.position:,}{waiting}"
        )
    if timers.scheduled:
        console.print(
            f"{timers.scheduled:,} timers are scheduled: {timers.due:,} due, the first for "
            f"{timers.late_seconds:,.0f} s, {timers.parked:,} parked."
        )
    total = sum(count for _, count, *_ in types)
    console.print(
        f"{total:,} events in {sizes[0] / 1e6:,.1f} MB, {sum(row[2] for row in saved):,} projections in "
        f"{sizes[1] / 1e6:,.1f} MB; final up to id {horizon.id:,} of {horizon.last_issued:,}."
    )


@click.command(
    help="Look for what is wrong with tables, indexes and server, and say what to do about it.",
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
