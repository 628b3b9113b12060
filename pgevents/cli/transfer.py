"""Commands that carry events in and out: import, export; JSON Lines and CSV, streaming, resumable."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import IO, Any, cast

import click
from attrs import define, frozen

from pgevents.client import EventClient
from pgevents.codec.serialization import dump_json, time_of
from pgevents.errors import IdempotencyError, PgEventsError
from pgevents.streams import Stream

from .frame import EXIT_CODES, Store, fail, stream_of

__all__ = ["export_command", "import_command"]

PAGE = 5_000
csv.field_size_limit(2**31 - 1)  # an event's data is one field
CHUNK = 500
"""So many lines are one transaction."""
TYPE_LIMIT = 200

COLUMNS = ("id", "type", "data", "metadata", "created_at")
FORMAT = click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="By default what the file's name says, else jsonl.",
)


# -- out ------------------------------------------------------------


@click.command("export", epilog=EXIT_CODES)
@click.argument("file", default="-")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only this type; may be given again.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="ID", help="Only events above this id.")
@click.option(
    "--resume", is_flag=True, help="Go on where the file ends; a line that was cut off is written again."
)
@FORMAT
@Store.options
def export_command(file: str, match: tuple[str, ...], types: tuple[str, ...], after: int, resume: bool,
                   form: str | None, **options: Any) -> None:  # fmt: skip
    """Write events to FILE, or to the standard output.

    Only what is final is written, so what is exported later with --resume continues it without a gap.
    """
    store, wanted, form = Store(**options), stream_of(types, match), _form(file, form)
    if resume and file == "-":
        raise click.UsageError("--resume needs a file to go on with")
    client = store.open()
    start = time.perf_counter()
    if resume and os.path.exists(file):
        after = max(after, _mend(Path(file), form))
    total = _count(client, wanted, after)
    target = (
        nullcontext(sys.stdout)
        if file == "-"
        else open(file, "a" if resume else "w", encoding="utf-8", newline="")
    )
    count, last = 0, after
    with target as output, _progress("Export", total) as advance:
        if form == "csv" and (file == "-" or output.tell() == 0):
            output.write(",".join(COLUMNS) + "\r\n")
        for rows in _pages(client, wanted, after):
            output.write("".join(map(_csv_line if form == "csv" else _json_line, rows)))
            count, last = count + len(rows), rows[-1][0]
            advance(len(rows))
    _tell(store, "exported", start, events=count, last_id=last)


def _pages(client: EventClient, wanted: Stream[Any], after: int) -> Iterator[Any]:
    """Rows as they are stored, the JSON as text; up to the horizon, below which nothing can come any more."""
    horizon = client.horizon().id
    while True:
        sql, params = client.reader.select([wanted], after, horizon, tail=f"ORDER BY id LIMIT {PAGE}")
        rows = client.session.execute(sql, params).fetchall()
        if not rows:
            return
        yield rows
        after = rows[-1][0]


def _count(client: EventClient, wanted: Stream[Any], after: int) -> int:
    sql, params = client.reader.select([wanted], after, client.horizon().id, tail="")
    return int(client.session.execute(f"SELECT count(*) FROM ({sql}) AS e", params).fetchone()[0])


def _json_line(row: Any) -> str:
    name = json.dumps(row[1], ensure_ascii=False)
    head = f'{{"id": {row[0]}, "type": {name}, "data": {row[2]}, "metadata": {row[3] or "{}"}'
    return f'{head}, "created_at": "{time_of(row[4]).isoformat()}"}}\n'


def _csv_line(row: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([*row[:3], row[3] or "{}", time_of(row[4]).isoformat()])
    return line.getvalue()


def _mend(path: Path, form: str) -> int:
    """Cut off a line that is not whole; the id of the last one that is."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail, start = b"", size
        while (
            start > 0 and tail.count(b"\n") < 2
        ):  # each event is one line: JSON from jsonb has no line breaks
            start = max(0, start - 65_536)
            file.seek(start)
            tail = file.read(size - start)
        whole = tail[: tail.rfind(b"\n") + 1]
        file.truncate(start + len(whole))
    lines = whole.decode().splitlines()
    try:
        if not lines or (form == "csv" and lines[-1] == ",".join(COLUMNS)):
            return 0
        return int(next(csv.reader([lines[-1]]))[0] if form == "csv" else json.loads(lines[-1])["id"])
    except (ValueError, KeyError, TypeError, IndexError):
        fail(f"{path}: the last line is no exported event, so it cannot be gone on with")


# -- in ------------------------------------------------------------


class _BadLine(Exception):
    """A line that is no event; its text is the reason."""


@frozen
class _Line:
    number: int
    event: dict[str, Any]
    created_at: datetime | None


@define
class _Imported:
    events: int = 0
    known: int = 0
    skipped: int = 0


@click.command("import", epilog=EXIT_CODES)
@click.argument("file")
@click.option(
    "--key",
    metavar="TEXT",
    help="What the import is known by when it is repeated; by default the file's name.",
)
@click.option(
    "--type",
    "type_name",
    metavar="TYPE",
    help="CSV of any form: each row is the data of an event of this type.",
)
@click.option(
    "--skip", is_flag=True, help="Leave out lines that are no events and tell of them, instead of stopping."
)
@FORMAT
@Store.options
def import_command(
    file: str, key: str | None, type_name: str | None, skip: bool, form: str | None, **options: Any
) -> None:
    """Save the events of FILE, plain or gzipped, as `pgevents export` writes them; - is the standard input.

    A line of JSON has "type", "data" and, if need be, "metadata" and "created_at"; in CSV these are columns.
    Each 500 lines are one transaction with an idempotency key, so an import that broke off is simply run
    again, also when the
    file has grown since: what is there already is not saved twice.
    """
    store, form = Store(**options), _form(file, form)
    if file == "-" and key is None:
        raise click.UsageError("from the standard input the import needs a --key to be known by")
    if type_name is not None and form != "csv":
        raise click.UsageError("--type is for CSV; a line of JSON says its type itself")
    prefix = key or Path(file).name
    client = store.open()
    client.check_installed()
    start, first_new, done = time.perf_counter(), client.horizon().last_issued, _Imported()
    stops: list[str] = []

    def bad(number: int, reason: object) -> bool:
        if not skip:
            stops.append(f"{file}, line {number}: {reason}; what stands before it is saved")
            return True
        done.skipped += 1
        click.echo(f"skipped line {number}: {reason}", err=True)
        return False

    with (
        _open(file) as (raw, text),
        _progress("Import", os.fstat(raw.fileno()).st_size if file != "-" else 0) as advance,
    ):
        position = 0
        lines = _csv_lines(text, type_name, bad) if form == "csv" else _json_lines(text, bad)
        for _, chunk in groupby(lines, lambda line: line.number // CHUNK):
            with client.db.atomic():  # pyright: ignore[reportUnknownMemberType]
                for created_at, same in groupby(chunk, lambda line: line.created_at):
                    _save(client, list(same), prefix, created_at, first_new, done)
            if file != "-":
                position, before = raw.tell(), position
                advance(position - before)
    if stops:
        fail(stops[0])
    _tell(store, "imported", start, events=done.events, known=done.known, skipped=done.skipped)
    if done.skipped:
        sys.exit(1)


def _save(
    client: EventClient,
    lines: list[_Line],
    prefix: str,
    created_at: datetime | None,
    first_new: int,
    done: _Imported,
) -> None:
    key, events = f"{prefix}:{lines[0].number}", [line.event for line in lines]
    try:
        first = _append(client, events, key, created_at)
    except IdempotencyError as error:
        known = len(error.saved_ids)
        if 0 < known < len(lines):  # the file ended here when it was imported before
            _save(client, lines[:known], prefix, created_at, first_new, done)
            _save(client, lines[known:], prefix, created_at, first_new, done)
            return
        fail(
            f"from line {lines[0].number} on, other events were imported as {prefix!r} before; "
            "give another --key"
        )
    except PgEventsError as error:
        fail(f"lines {lines[0].number} to {lines[-1].number}: {error}")
    if first > first_new:
        done.events += len(lines)
    else:
        done.known += len(lines)


def _append(client: EventClient, events: list[dict[str, Any]], key: str, created_at: datetime | None) -> int:
    """Save events as they were stored elsewhere, and give the first one's id.

    The client would refuse the metadata that it keeps for itself (the version of the data); there they are
    right.
    """
    rows = [
        (one["type"], dump_json(one["data"], "the data"), dump_json(one.get("metadata", {}), "the metadata"))
        for one in events
    ]
    answer = client.appender.append(rows, None, key, created_at)
    if answer.status == "reused":
        raise IdempotencyError("other events were saved with this key", key=key, saved_ids=answer.ids)
    return answer.ids[0]


@contextmanager
def _open(file: str) -> Generator[tuple[Any, IO[str]], None, None]:
    with nullcontext(sys.stdin.buffer) if file == "-" else open(file, "rb") as raw:
        is_gzip = file != "-" and raw.read(2) == b"\x1f\x8b"
        if file != "-":
            raw.seek(0)
        source: Any = gzip.open(raw) if is_gzip else raw
        yield raw, io.TextIOWrapper(source, encoding="utf-8-sig", errors="surrogateescape", newline="")


def _json_lines(text: IO[str], bad: Callable[[int, object], bool]) -> Iterator[_Line]:
    """The events, up to the first bad line that is to stop them."""
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                _check_text(line)
                yield _line(number, json.loads(line))
            except (_BadLine, ValueError, RecursionError) as reason:
                if bad(number, reason):
                    return


def _csv_lines(text: IO[str], type_name: str | None, bad: Callable[[int, object], bool]) -> Iterator[_Line]:
    rows = csv.DictReader(text)
    needed = () if type_name else ("type", "data")
    missing = [name for name in needed if name not in (rows.fieldnames or ())]
    if missing:
        raise click.UsageError(f"the CSV has no column {missing[0]!r}; for a CSV of another form give --type")
    for number, row in enumerate(rows, 2):
        try:
            if None in row or None in row.values():
                raise _BadLine("it has another number of fields than the header")
            _check_text("".join(row.values()))
            if type_name:
                yield _Line(number, {"type": type_name, "data": dict(row)}, None)
                continue
            parsed = {name: json.loads(row[name]) for name in ("data", "metadata") if row.get(name)}
            yield _line(number, {**row, **parsed, "metadata": parsed.get("metadata", {})})
        except (_BadLine, ValueError, RecursionError) as reason:
            if bad(number, reason):
                return


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadLine("it is not in UTF-8") from None


def _line(number: int, row: Any) -> _Line:
    given = cast("dict[str, Any]", row if isinstance(row, dict) else {})
    if not isinstance(given.get("type"), str) or not isinstance(given.get("data"), dict):
        raise _BadLine('an event has a "type", which is text, and "data", which is an object')
    if not 0 < len(given["type"]) <= TYPE_LIMIT or min(given["type"]) < " ":
        raise _BadLine(f"a type has 1 to {TYPE_LIMIT} characters and no control characters")
    metadata: Any = given.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise _BadLine('"metadata" is an object')
    created_at = given.get("created_at") or None
    when = None if created_at is None else datetime.fromisoformat(str(created_at).replace("Z", "+00:00"))
    if when is not None and when.tzinfo is None:
        raise _BadLine(f"created_at {created_at} has no time zone")
    return _Line(number, {"type": given["type"], "data": given["data"], "metadata": metadata}, when)


# -- both ------------------------------------------------------------


def _form(file: str, form: str | None) -> str:
    return form or ("csv" if file.removesuffix(".gz").endswith(".csv") else "jsonl")


@contextmanager
def _progress(name: str, total: int) -> Generator[Callable[[int], object], None, None]:
    """A bar on the standard error if that is a terminal; yields what is to be told of each step."""
    if not sys.stderr.isatty() or not total:
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total)
        yield lambda steps: progress.advance(task, steps)


def _tell(store: Store, what: str, start: float, **figures: int) -> None:
    """What was done, on the standard error: the standard output may be full of events."""
    seconds = time.perf_counter() - start
    if store.as_json:
        click.echo(json.dumps({**figures, "seconds": round(seconds, 3)}), err=True)
        return
    rest = ", ".join(
        f"{name.replace('_', ' ')} {figure:,}" for name, figure in figures.items() if name != "events"
    )
    click.echo(f"{what} {figures['events']:,} events in {seconds:.1f} s ({rest})", err=True)
