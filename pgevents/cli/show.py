"""How events and views are printed: control characters are shown, never obeyed by the terminal."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import click

from pgevents.events import Event
from pgevents.terminal import printable

__all__ = ["as_text", "event_json", "show_event", "show_json"]


def as_text(value: Any) -> str:
    """JSON on one line."""
    return printable(json.dumps(value, ensure_ascii=False))


def show_json(value: Any) -> None:
    """Print an object on one line, for programs."""
    click.echo(printable(json.dumps(value, default=datetime.isoformat, ensure_ascii=False)))


def event_json(event: Event[Any]) -> str:
    """An event on one line, for programs."""
    row = {"id": event.id, "type": event.type, "data": event.data, "metadata": event.metadata}
    return as_text({**row, "created_at": event.created_at.isoformat()})


def show_event(event: Event[Any], as_json: bool) -> None:
    """Print an event on one line."""
    if as_json:
        click.echo(event_json(event))
        return
    head = f"{event.id:>6}  {click.style(f'{event.created_at:%Y-%m-%d %H:%M:%S}', dim=True)}"
    rest = click.style(f"  {as_text(event.metadata)}", dim=True) if event.metadata else ""
    click.echo(f"{head}  {click.style(printable(event.type), bold=True)}  {as_text(event.data)}{rest}")
