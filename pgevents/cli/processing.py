"""Commands for subscriptions: run, subscriptions, health, pause, resume, reset, resize, rename, parked."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

import click
from attrs import asdict

from pgevents import subscriptions as control
from pgevents.client import EventClient
from pgevents.subscriptions import Lease, Runner
from pgevents.terminal import printable

from .frame import EXIT_CODES, fail
from .show import show_json
from .store import Store

__all__ = ["COMMANDS", "load_runner"]


def _seconds(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A span of time, as in 30, 30s, 5m or 1h."""
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return float(value.strip().rstrip("smh")) * units.get(value.strip()[-1:], 1)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a span of time; write 30s, 5m or 1h") from None


def load_runner(where: str) -> Runner:
    """The runner that `module:name` names, or that a function of this name makes."""
    module_name, _, name = where.partition(":")
    if not module_name or not name:
        raise click.UsageError(f"{where}: write MODULE:NAME, as in shop.tasks:runner")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.split(".")[0] and error.name != module_name:
            raise
        raise click.UsageError(f"there is no module {module_name!r} here ({os.getcwd()})") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, Runner) and callable(found):
        found = found()
    if not isinstance(found, Runner):
        raise click.UsageError(
            f"{where} is not a pgevents.subscriptions.Runner, nor a function that makes one"
        )
    return found


@click.command(
    epilog=EXIT_CODES,
    help="Give subscriptions their events, until SIGTERM or Ctrl-C.\n\nRUNNER is a "
    "pgevents.subscriptions.Runner of the module, or a function that makes one. Start it as "
    "often as you like, on as many machines: they share the work.",
)
@click.argument("where", metavar="MODULE:RUNNER")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that handle.")
def run(where: str, workers: int) -> None:
    runner = load_runner(where)
    click.echo(f"{', '.join(runner.names)}: {workers} workers; end with Ctrl-C", err=True)
    runner.run(workers, signals=True)


@click.command(
    "subscriptions",
    epilog=EXIT_CODES,
    help="Show where each subscription stands: lag, who works, what is parked, errors.",
)
@Store.options
def list_subscriptions(**options: Any) -> None:
    store = Store(**options)
    reports = control.overview(store.open())
    if store.as_json:
        for report in reports:
            show_json(report.as_json())
        return
    if not reports:
        click.echo("No subscriptions.")
    for report in reports:
        line = f"{report.name}: {report.state}, at {report.position:,}, {len(report.lanes)} lanes, "
        line += f"{report.workers} workers, lag {report.lag:,} events ({report.lag_seconds:.0f} s)"
        click.echo(line + (f", {report.parked:,} parked" if report.parked else ""))
        for text in (*report.problems, *report.notes):
            click.echo(f"  {text}")
        for lane in report.lanes:
            if lane.error:
                click.echo(f"  lane {lane.lane}: {lane.error}")


@click.command(
    epilog=EXIT_CODES,
    help="Say what is wrong with the subscriptions; exit code 1 if anything is. For probes.",
)
@Store.options
@click.option("--max-lag", callback=_seconds, default="30s", show_default=True, help="Longer is a problem.")
@click.option("--runner", "where", metavar="MODULE:RUNNER", help="Also: all of its subscriptions are there.")
def health(max_lag: float, where: str | None, **options: Any) -> None:
    store = Store(**options)
    names = None if where is None else load_runner(where).names
    problems = control.check(store.open(), names, max_lag=max_lag)
    if store.as_json:
        show_json({"is_healthy": not problems, "problems": problems})
    for problem in [] if store.as_json else problems or ["All is well."]:
        click.echo(problem)
    if problems:
        sys.exit(1)


def _leases(leases: list[Lease]) -> None:
    for lease in leases:
        what = f"event {lease.event_id}" if lease.event_id else "its lane"
        click.echo(f"lane {lease.lane}: {what} is still being handled outside, until {lease.until} at most")


@click.command(
    epilog=EXIT_CODES,
    help="Give no more events to a subscription; returns when batches in hand have ended.",
)
@click.argument("name")
@Store.options
def pause(name: str, **options: Any) -> None:
    _leases(control.pause(Store(**options).open(), name))
    click.echo(f"{name} is paused.")


@click.command(
    epilog=EXIT_CODES,
    help="Go on with a subscription that is paused or has stopped.",
)
@click.argument("name")
@Store.options
def resume(name: str, **options: Any) -> None:
    control.resume(Store(**options).open(), name)
    click.echo(f"{name} goes on.")


@click.command(
    epilog=EXIT_CODES,
    help="Start a subscription again above the id POSITION; 0 is the start of the log.",
)
@click.argument("name")
@click.argument("position", type=click.IntRange(0))
@Store.options
def reset(name: str, position: int, **options: Any) -> None:
    _leases(control.reset(Store(**options).open(), name, position))
    click.echo(f"{name} starts again above {position}.")


@click.command(
    epilog=EXIT_CODES,
    help="Change the number of lanes of a subscription with a key.",
)
@click.argument("name")
@click.argument("lanes", type=click.IntRange(1, 1024))
@Store.options
def resize(name: str, lanes: int, **options: Any) -> None:
    control.resize(Store(**options).open(), name, lanes)
    click.echo(f"{name} has {lanes} lanes.")


@click.command(
    epilog=EXIT_CODES,
    help="Give a subscription another name, and its place with it.",
)
@click.argument("name")
@click.argument("new")
@Store.options
def rename(name: str, new: str, **options: Any) -> None:
    control.rename(Store(**options).open(), name, new)
    click.echo(f"{name} is {new} now.")


@click.group(epilog=EXIT_CODES, help="Events that are set aside: list, show, retry, discard, notes.")
def parked() -> None:
    pass


@parked.command("list", epilog=EXIT_CODES, help="Show what is parked of a subscription.")
@click.argument("name")
@click.option("--key", help="Of this key only.")
@click.option("--all", "discarded", is_flag=True, help="Also what was discarded.")
@Store.options
def list_parked(name: str, key: str | None, discarded: bool, **options: Any) -> None:
    store = Store(**options)
    found = control.parked(store.open(), name, key=key, discarded=discarded)
    for event in found:
        if store.as_json:
            show_json(asdict(event))
            continue
        line = f"{event.event_id}  {event.key or '-'}  {event.state}, {event.attempts} attempts"
        click.echo(printable(f"{line}  {event.error or event.note or ''}".rstrip()))
    if not found and not store.as_json:
        click.echo("Nothing is parked.")


@parked.command("show", epilog=EXIT_CODES, help="Show one parked event, with what it holds.")
@click.argument("name")
@click.argument("event_id", type=click.IntRange(1))
@Store.options
def show_parked(name: str, event_id: int, **options: Any) -> None:
    client: EventClient = Store(**options).open()
    found = [event for event in control.parked(client, name, discarded=True) if event.event_id == event_id]
    if not found:
        was_parked = control.parking_notes(client, name, event_id=event_id, limit=1)
        hint = f"; pgevents parked notes {name} {event_id} says what was done with it" if was_parked else ""
        fail(f"event {event_id} is not parked in {name}{hint}")
    events = client.reader.by_ids([event_id])
    notes = control.parking_notes(client, name, event_id=event_id)
    shown: dict[str, Any] = {**asdict(found[0]), "notes": [asdict(note) for note in notes]}
    if events:
        shown |= {"type": events[0].type, "data": events[0].data, "metadata": events[0].metadata}
    for line in json.dumps(shown, default=str, ensure_ascii=False, indent=2).split("\n"):
        click.echo(printable(line))


@parked.command(
    "notes", epilog=EXIT_CODES, help="Show who retried or discarded parked events, and why; newest first."
)
@click.argument("name")
@click.argument("event_id", type=click.IntRange(0), required=False)
@click.option("--key", help="Of this key only.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many.")
@Store.options
def show_notes(name: str, event_id: int | None, key: str | None, limit: int, **options: Any) -> None:
    store = Store(**options)
    found = control.parking_notes(store.open(), name, key=key, event_id=event_id, limit=limit)
    for note in found:
        if store.as_json:
            show_json(asdict(note))
            continue
        line = f"{note.at:%Y-%m-%d %H:%M:%S%z}  {note.action} {note.event_id}  by {note.by}"
        click.echo(printable(f"{line}: {note.reason}" if note.reason else line))
    if not found and not store.as_json:
        click.echo("Nothing was retried or discarded.")


@parked.command("retry", epilog=EXIT_CODES, help="Try parked events again: one, those of a key, or all.")
@click.argument("name")
@click.argument("event_id", type=click.IntRange(1), required=False)
@click.option("--key", help="The first event of this key, and all behind it.")
@click.option("--reason", default="", help="Why; it is kept with who did it.")
@Store.options
def retry_parked(name: str, event_id: int | None, key: str | None, reason: str, **options: Any) -> None:
    count = control.replay(Store(**options).open(), name, key, event_id, reason=reason)
    click.echo(f"{count} will be tried again.")


@parked.command(
    "discard",
    epilog=EXIT_CODES,
    help="Give up a parked event: it is never handled, and those behind it go on.",
)
@click.argument("name")
@click.argument("event_id", type=click.IntRange(1))
@click.option("--reason", required=True, help="Why; it is kept with who did it.")
@Store.options
def discard_parked(name: str, event_id: int, reason: str, **options: Any) -> None:
    control.discard(Store(**options).open(), name, event_id, reason)
    click.echo(f"Event {event_id} is discarded.")


COMMANDS = (run, list_subscriptions, health, pause, resume, reset, resize, rename, parked)
