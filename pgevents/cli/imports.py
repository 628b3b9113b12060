"""`pgevents import`: each page of lines is one transaction, which also notes the lines that it saved."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from attrs import define

from pgevents.client import EventClient
from pgevents.codec.serialization import VERSION_KEY
from pgevents.errors import PgEventsError
from pgevents.terminal import printable

from .application import refusals_of_plugins
from .files import FORMAT, form_of, progress, report
from .frame import EXIT_CODES, fail
from .lines import Line, csv_lines, json_lines, open_file
from .store import Store

__all__ = ["import_command"]

PAGE = 1_000
"""So many lines are one transaction."""
DIGEST = 8

NOTES_SQL = """\
CREATE TABLE IF NOT EXISTS {notes} (
    source text, page bigint, lines bytea NOT NULL, at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, page))
"""
LOCK_SQL = """\
INSERT INTO {notes} (source, page, lines) VALUES (%s, %s, ''::bytea)
ON CONFLICT (source, page) DO UPDATE SET source = excluded.source RETURNING lines
"""
NOTE_SQL = "UPDATE {notes} SET lines = %s, at = now() WHERE source = %s AND page = %s"


@define
class _Imported:
    events: int = 0
    known: int = 0
    skipped: int = 0


@click.command(
    "import",
    help="Save the events of FILE, plain or gzipped, as `pgevents export` writes them; - is the standard "
    "input.\n\n"
    'A line of JSON has "type", "data" and, if need be, "metadata", "created_at" and "idempotency_key"; in '
    f"CSV these are columns. Each {PAGE:,} lines are one transaction, which also notes what it saved. So an "
    "import that broke off is simply run again, also when the file has grown since, or lines that were "
    "skipped have been mended: what is there already is not saved twice.",
    epilog=EXIT_CODES,
)
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
@click.option("--skip", is_flag=True, help="Leave out lines that are no events and report them.")
@FORMAT
@Store.options
def import_command(
    file: str, key: str | None, type_name: str | None, skip: bool, form: str | None, **options: Any
) -> None:
    store, form = Store(**options), form_of(file, form)
    if file == "-" and key is None:
        raise click.UsageError("from the standard input the import needs a --key to be known by")
    if type_name is not None and form != "csv":
        raise click.UsageError("--type is for CSV; a line of JSON says its type itself")
    source = Path(file).name if key is None else key
    if not 0 < len(source) <= 500:
        raise click.UsageError("--key is a text of 1 to 500 characters")
    reader = store.open()
    reader.check_installed()
    pages = _Pages(reader, store.writer(reader), source)
    start, done = time.perf_counter(), _Imported()
    stops: list[str] = []

    def refuse(number: int, reason: object) -> bool:
        if not skip:
            stops.append(f"{file}, line {number}: {reason}; what stands before it is saved")
            return True
        done.skipped += 1
        click.echo(f"skipped line {number}: {printable(str(reason))}", err=True)
        return False

    with (
        open_file(file) as (raw, text),
        progress("Import", os.fstat(raw.fileno()).st_size if file != "-" else 0) as advance,
    ):
        position = 0
        lines = csv_lines(text, type_name, refuse) if form == "csv" else json_lines(text, refuse)
        for page, some in groupby(lines, lambda line: line.number // PAGE):
            known, new = pages.save(page, list(some))
            done.events, done.known = done.events + new, done.known + known
            if file != "-":
                position, before = raw.tell(), position
                advance(position - before)
    if stops:
        fail(stops[0])
    report(store, "imported", start, events=done.events, known=done.known, skipped=done.skipped)
    if done.skipped:
        sys.exit(1)


class _Pages:
    """Saves pages of lines, and notes in `<events>_imports` which lines they were."""

    def __init__(self, reader: EventClient, writer: EventClient, source: str) -> None:
        self._reader = reader
        self._writer = writer
        self._source = source
        spec = reader.events.pgevents_spec
        self._notes = spec.qualified("_imports")
        execute = reader.session.execute
        (found,) = execute("SELECT to_regclass(%s) IS NOT NULL", [self._notes]).fetchone()
        if not found:
            with reader.session.atomic():
                execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [self._notes])
                execute(NOTES_SQL.format(notes=self._notes), None)

    def save(self, page: int, lines: Sequence[Line]) -> tuple[int, int]:
        """Save the lines of a page that are not there yet; how many were there, and how many are new."""
        execute = self._reader.session.execute
        with self._reader.session.atomic():
            sql = LOCK_SQL.format(notes=self._notes)
            noted = bytearray(execute(sql, [self._source, page]).fetchone()[0])
            noted.extend(bytes(PAGE * DIGEST - len(noted)))
            new = [line for line in lines if not self._is_known(line, noted)]
            count = 0
            for some in _batches(new):
                try:
                    count += self._append(some)
                except PgEventsError as error:
                    fail(f"lines {some[0].number} to {some[-1].number}: {error}")
            if new:
                last = new[-1].number % PAGE
                used = max(last + 1, len(noted.rstrip(b"\0")) // DIGEST + 1)
                values = [bytes(noted[: used * DIGEST]), self._source, page]
                execute(NOTE_SQL.format(notes=self._notes), values)
        return len(lines) - count, count

    def _is_known(self, line: Line, noted: bytearray) -> bool:
        """Whether the line was saved before; if not, it is noted."""
        place = slice(line.number % PAGE * DIGEST, (line.number % PAGE + 1) * DIGEST)
        digest = line.digest()
        if bytes(noted[place]) == digest:
            return True
        if any(noted[place]):
            fail(
                f"line {line.number}: another event was imported from this line of {self._source!r} before; "
                "give another --key"
            )
        noted[place] = digest
        return False

    def _append(self, lines: Sequence[Line]) -> int:
        """Append lines of one time and one key, if any; how many are new."""
        created_at, key = lines[0].created_at, lines[0].key
        if not self._writer.plugins.implemented:
            # As they were stored elsewhere: the client would refuse the metadata that it keeps for itself.
            rows = [(line.type, line.data_text, line.metadata_text) for line in lines]
            answer = self._writer.appender.append(rows, None, key, created_at)
            if answer.status == "reused":
                fail(f"line {lines[0].number}: its idempotency key {key!r} saved another event before")
            return len(lines) if answer.status == "saved" else 0
        if any(VERSION_KEY in line.metadata for line in lines):
            fail(
                f"line {lines[0].number} and those after it hold data of another version, which plugins do "
                "not see: import without --app and --plugin"
            )
        events = [{"type": line.type, "data": line.data, "metadata": line.metadata} for line in lines]
        with refusals_of_plugins(self._writer):
            self._writer.save_events(events, idempotency_key=key, created_at=created_at)
        return len(lines)


def _batches(lines: Sequence[Line]) -> Iterator[list[Line]]:
    """Lines that are appended by one call: of one time, without keys; each line with a key is one call."""
    for key, some in groupby(lines, lambda line: (line.created_at, line.key)):
        batch = list(some)
        if key[1] is not None and len(batch) > 1:
            fail(f"lines {batch[0].number} and {batch[1].number} have the same idempotency key")
        yield batch
