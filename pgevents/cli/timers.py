"""Commands for timers: list, cancel, retry."""

from __future__ import annotations

from typing import Any

import click
from attrs import asdict

from pgevents.events import UndecodedData
from pgevents.terminal import printable
from pgevents.timers import STATES

from .frame import EXIT_CODES, fail
from .show import show_json
from .store import Store

__all__ = ["timers"]


@click.group(epilog=EXIT_CODES, help="Events that are to be saved later: list, cancel, retry.")
def timers() -> None:
    pass


@timers.command("list", epilog=EXIT_CODES, help="Show the timers that have not fired, by their times.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--key", help="Only the timer of this name.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most this many.")
@Store.options
def list_timers(state: str | None, key: str | None, limit: int, **options: Any) -> None:
    store = Store(**options)
    client = store.open()
    found = client.scheduled(key=key, state=state, limit=limit)
    for timer in found:
        if store.as_json:
            data = timer.data
            shown = (
                data.text if isinstance(data, UndecodedData) else client.serializer.encode(data, timer.type)
            )
            line = {**asdict(timer, recurse=False), "data": shown}
            show_json(line)
            continue
        tried = f", {timer.attempts} attempts" if timer.attempts else ""
        text = f"{timer.at:%Y-%m-%d %H:%M:%S%z}  {timer.key}  {timer.type}  {timer.state}{tried}"
        click.echo(printable(f"{text}  {timer.error or ''}".rstrip()))
    if not found and not store.as_json:
        click.echo("No timers.")


@timers.command("cancel", epilog=EXIT_CODES, help="Cancel a timer that has not fired.")
@click.argument("key")
@Store.options
def cancel_timer(key: str, **options: Any) -> None:
    status = Store(**options).open().unschedule(key)
    if status == "unknown":
        fail(f"there is no timer {key!r}: pgevents timers list shows them")
    if status == "fired":
        fail(f"timer {key!r} has fired; its event is in the log")
    click.echo(f"{printable(key)} is cancelled.")


@timers.command("retry", epilog=EXIT_CODES, help="Try parked timers again: one, or all.")
@click.argument("key", required=False)
@Store.options
def retry_timers(key: str | None, **options: Any) -> None:
    count = Store(**options).open().retry_timers(key)
    if key is not None and not count:
        fail(f"timer {key!r} is not parked: pgevents timers list shows them")
    click.echo(f"{count} will be tried again.")
