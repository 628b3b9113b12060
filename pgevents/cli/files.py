"""What export and import have in common: the form of a file, a progress bar, and the last line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click

from .store import Store

__all__ = ["COLUMNS", "FORMAT", "KEY_COLUMN", "form_of", "progress", "report"]

COLUMNS = ("id", "type", "data", "metadata", "created_at")
KEY_COLUMN = "idempotency_key"
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="By default what the file's name says, else jsonl.",
)


def form_of(file: str, form: str | None) -> str:
    """The form that was asked for, or that the file's name says."""
    return form or ("csv" if file.removesuffix(".gz").endswith(".csv") else "jsonl")


@contextmanager
def progress(name: str, total: int) -> Generator[Callable[[int], object], None, None]:
    """A bar on the standard error if that is a terminal; yields what is called with the size of each step."""
    if not sys.stderr.isatty() or not total:
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda steps: bar.advance(task, steps)


def report(store: Store, what: str, start: float, **figures: int) -> None:
    """What was done, on the standard error: the standard output may be full of events."""
    seconds = time.perf_counter() - start
    if store.as_json:
        click.echo(json.dumps({**figures, "seconds": round(seconds, 3)}), err=True)
        return
    rest = ", ".join(
        f"{name.replace('_', ' ')} {figure:,}" for name, figure in figures.items() if name != "events"
    )
    click.echo(f"{what} {figures['events']:,} events in {seconds:.1f} s ({rest})", err=True)
