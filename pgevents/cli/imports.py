"""`pgevents import`: each page of lines is one transaction, which also notes the lines that it saved."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import click

from pgevents.client import EventClient
from pgevents.errors import (
    ConfigurationError,
    DatabaseError,
    EventEncodeError,
    IdempotencyError,
    UnknownEventTypeError,
)
from pgevents.save_options import SaveOptions
from pgevents.store.append import EventColumns
from pgevents.terminal import printable

from .application import PluginRefusal, refusals_of_plugins
from .files import FORMAT, form_of, progress, report
from .frame import EXIT_CODES, fail
from .line_checks import LineChecks
from .lines import Line, Refuse, csv_lines, json_lines, open_file
from .peers import PEERS, TOTALS_SQL, PeerTable
from .store import Store

__all__ = ["import_command"]

T = TypeVar("T")
PAGE = 1_000
"""How many lines are one transaction."""
DIGEST = 8
REFUSALS = (
    ConfigurationError,
    DatabaseError,
    EventEncodeError,
    IdempotencyError,
    PluginRefusal,
    UnknownEventTypeError,
)
"""What a save raises if something is wrong with its events."""

LOCK_SQL = """\
INSERT INTO {notes} (source, page, lines) VALUES (%s, %s, ''::bytea)
ON CONFLICT (source, page) DO UPDATE SET source = excluded.source RETURNING lines
"""
KEYS_SQL = """\
SELECT given.number, stored.type = given.type AND stored.data = given.data::jsonb
FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS given (key, type, data, number)
JOIN {events} AS stored ON stored.idempotency_key = given.key
"""
NOTE_SQL = "UPDATE {notes} SET lines = %s, at = now() WHERE source = %s AND page = %s"


@click.command(
    "import",
    help="Save the events of FILE, plain or gzipped, as `pgevents export` writes them; - is the standard "
    "input.\n\n"
    'A line of JSON has "type", "data" and, if need be, "metadata", "created_at" and "idempotency_key"; in '
    "CSV these are columns. With --app the event classes of the program check each line, and its plugins are "
    "called, as for a save.\n\n"
    f"Each {PAGE:,} lines are one transaction, which also notes what it saved. So an "
    "import that broke off is simply run again, also when the file has grown since, or lines that were "
    "skipped have been mended: what is there already is not saved twice.",
    epilog=EXIT_CODES,
)
@click.argument("file")
@click.option(
    "--from",
    "peer",
    type=click.Choice(sorted(PEERS)),
    help="FILE is the URL of a database of this event store: its events, with their streams, versions and "
    "times. Totals are compared at the end.",
)
@click.option("--table", metavar="SCHEMA.TABLE", help="Its events table, if it has several.")
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
    "--as-is",
    is_flag=True,
    help="Take lines as they are, as without --app: neither its event classes nor its plugins check them.",
)
@click.option("--skip", is_flag=True, help="Leave out lines that are not events, and report them.")
@FORMAT
@Store.options
def import_command(
    file: str,
    peer: str | None,
    table: str | None,
    key: str | None,
    type_name: str | None,
    as_is: bool,
    skip: bool,
    form: str | None,
    **options: Any,
) -> None:
    store = Store(**options)
    if as_is and store.plugins:
        raise click.UsageError("with --as-is no plugin is called; leave out --plugin")
    if peer is not None:
        if key is not None or type_name is not None or form is not None:
            raise click.UsageError("--key, --type and --format are for files, not for --from")
        _import_peer(store, PeerTable(peer, file, table), skip, as_is)
        return
    if table is not None:
        raise click.UsageError("--table is for --from")
    _import_file(store, file, key, type_name, form_of(file, form), skip, as_is)


def _import_file(
    store: Store, file: str, key: str | None, type_name: str | None, form: str, skip: bool, as_is: bool
) -> None:
    if file == "-" and key is None:
        raise click.UsageError("from the standard input the import needs a --key to be known by")
    if type_name is not None and form != "csv":
        raise click.UsageError("--type is for CSV; a line of JSON says its type itself")
    source = Path(file).name if key is None else key
    if not 0 < len(source) <= 500:
        raise click.UsageError("--key is a text of 1 to 500 characters")
    done = _Import(store, store.open(), source, file, "line", skip, as_is)
    with (
        open_file(file) as (raw, text),
        progress("Import", os.fstat(raw.fileno()).st_size if file != "-" else 0) as advance,
    ):
        position = 0
        lines = csv_lines(text, type_name, done.refuse) if form == "csv" else json_lines(text, done.refuse)
        for page, some in _ahead(
            (page, list(some)) for page, some in groupby(lines, lambda line: line.number // PAGE)
        ):
            if not done.save(page, some):
                break
            if file != "-":
                position, before = raw.tell(), position
                advance(position - before)
    done.report()
    if done.skipped:
        sys.exit(1)


def _import_peer(store: Store, table: PeerTable, skip: bool, as_is: bool) -> None:
    """Import another store's events, and compare the totals."""
    reader = store.open()
    done = _Import(store, reader, table.source, table.source, "event", skip, as_is)
    with closing(table):
        for page, some in groupby(table.lines(done.refuse), lambda line: line.number // PAGE):
            if not done.save(page, list(some)):
                break
        theirs = table.totals()
    done.report()
    totals_sql = TOTALS_SQL.format(events=reader.events.pgevents_spec.qualified())
    ours = tuple(map(int, reader.session.execute(totals_sql, [table.source]).fetchone()))
    if ours != theirs:
        names = ("events", "streams", "sum of versions")
        pairs = [f"{n} {a}, there {b}" for n, a, b in zip(names, ours, theirs, strict=True) if a != b]
        fail(f"the log does not hold what {table.source} holds: {'; '.join(pairs)}")
    if done.skipped:
        sys.exit(1)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; each is made in another thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, items, None)
        while (item := following.result()) is not None:
            following = pool.submit(next, items, None)
            yield item


class _Import:
    """What an import has done so far.

    Attributes:
        skipped: How many lines were refused, and left out.
    """

    def __init__(
        self,
        store: Store,
        reader: EventClient,
        source: str,
        place: str,
        unit: str,
        skip: bool,
        as_is: bool,
    ) -> None:
        reader.check_installed()
        writer = reader if as_is else store.writer(reader)
        self._store = store
        self._pages = _Pages(reader, writer, source, self.refuse)
        self._place, self._unit, self._skip = place, unit, skip
        self._start = time.perf_counter()
        self._events = self._repeated = self.skipped = 0
        self._stop = ""

    def refuse(self, number: int, reason: object) -> bool:
        """Report a line that cannot be saved; whether the import ends at it."""
        if not self._skip:
            stop = f"{self._place}, {self._unit} {number}: {reason}; the events before it are saved"
            self._stop = self._stop or stop
            return True
        self.skipped += 1
        click.echo(f"skipped {self._unit} {number}: {printable(str(reason))}", err=True)
        return False

    def save(self, page: int, lines: Sequence[Line]) -> bool:
        """Save the lines of a page; whether the import goes on."""
        repeated, new = self._pages.save(page, lines)
        self._events, self._repeated = self._events + new, self._repeated + repeated
        return not self._pages.has_stopped

    def report(self) -> None:
        """Say what was imported; or fail with the line at which it ended."""
        if self._stop:
            fail(self._stop)
        counts = {"events": self._events, "repeated": self._repeated, "skipped": self.skipped}
        report(self._store, "imported", self._start, **counts)


class _Pages:
    """Saves pages of lines, and notes in `<events>_imports` which lines they were.

    Attributes:
        has_stopped: Whether the import has ended at a refused line.
    """

    def __init__(self, reader: EventClient, writer: EventClient, source: str, refuse: Refuse) -> None:
        self._session = reader.session
        self._writer = writer
        self._checks = LineChecks(writer)
        self._source = source
        self._refuse = refuse
        self.has_stopped = False
        spec = reader.events.pgevents_spec
        notes = spec.qualified("_imports")
        self._keys_sql = KEYS_SQL.format(events=spec.qualified())
        self._lock_sql, self._note_sql = LOCK_SQL.format(notes=notes), NOTE_SQL.format(notes=notes)
        (found,) = self._session.execute("SELECT to_regclass(%s) IS NOT NULL", [notes]).fetchone()
        if not found:
            fail(f"there is no table {notes} to note imported lines in; pgevents init makes it")

    def save(self, page: int, lines: Sequence[Line]) -> tuple[int, int]:
        """Save the lines of a page that are not there yet; how many were there, and how many are new."""
        with self._session.atomic():
            (stored,) = self._session.execute(self._lock_sql, [self._source, page]).fetchone()
            notes = _Notes(self._source, stored)
            missing = [line for line in lines if not notes.holds(line)]
            new, repeated = self._append(missing)
            if new or repeated:
                notes.add(new)
                notes.add(repeated)
                self._session.execute(self._note_sql, [notes.stored(), self._source, page])
        return len(lines) - len(missing) + len(repeated), len(new)

    def _append(self, lines: Sequence[Line]) -> tuple[list[Line], list[Line]]:
        """Append lines as one batch: those that were saved now, and those that their keys had saved before.

        Where something is wrong with a batch, its halves are saved one after the other, and so on, until it
        is known with which line.
        """
        new, repeated = list[Line](), list[Line]()
        batches = [lines] if lines else []
        while batches:
            batch = batches.pop()
            try:
                with self._session.atomic():
                    before = self._saved_by_keys(batch)
                    rest = [line for line in batch if line.number not in before] if before else batch
                    if rest:
                        self._save(rest)
            except REFUSALS as error:
                if len(batch) > 1:
                    middle = len(batch) // 2
                    batches += [batch[middle:], batch[:middle]]
                elif self._refuse(batch[0].number, error):
                    self.has_stopped = True
                    break
                continue
            new += rest
            repeated += [line for line in batch if line.number in before]
        return new, repeated

    def _saved_by_keys(self, lines: Sequence[Line]) -> set[int]:
        """The numbers of those lines that an earlier save with their key has saved.

        Raises:
            IdempotencyError: It has saved something else.
        """
        keyed = [(line.number, line.key, line) for line in lines if line.key is not None]
        if not keyed:
            return set()
        columns = zip(*[(key, line.type, line.data_text) for _, key, line in keyed], strict=True)
        rows = self._session.execute(self._keys_sql, [list(column) for column in columns]).fetchall()
        saved: set[int] = set()
        place: int
        for place, is_same in rows:
            number, key, _ = keyed[place - 1]
            if not is_same:
                raise IdempotencyError(f"its idempotency key {key!r} saved another event before", key=key)
            saved.add(number)
        return saved

    def _save(self, lines: Sequence[Line]) -> None:
        now = datetime.now(timezone.utc)
        times = [line.created_at or now for line in lines] if any(line.created_at for line in lines) else None
        keys = [line.key for line in lines] if any(line.key for line in lines) else None
        if not self._writer.plugins.implemented:
            # With the texts of the file, in which no number is rounded.
            checked = map(self._checks.checked, lines)
            rows = [(line.type, line.data_text, line.metadata_text) for line in checked]
            answer = self._writer.appender.append(EventColumns.of_rows(rows), created_at=times, keys=keys)
            if answer.status != "saved":
                raise IdempotencyError("its idempotency key was saved by another transaction meanwhile")
            return
        events = [self._checks.as_given(line) for line in lines]
        with refusals_of_plugins(self._writer):
            self._writer.saver.save(events, SaveOptions(created_at=times, keys=keys))


class _Notes:
    """The notes of one page: a digest of each line that was saved, at the line's place."""

    def __init__(self, source: str, stored: bytes) -> None:
        self._source = source
        self._is_new = not stored
        self._noted = bytearray(stored).ljust(PAGE * DIGEST, b"\0")
        self._digests: dict[int, bytes] = {}

    def holds(self, line: Line) -> bool:
        """Whether the line was saved before."""
        digest = self._digests[line.number] = line.digest()
        if self._is_new:
            return False
        noted = bytes(self._noted[_place(line)])
        if noted != digest and any(noted):
            fail(
                f"line {line.number}: another event was imported from this line of {self._source!r} before; "
                "give another --key"
            )
        return noted == digest

    def add(self, lines: Sequence[Line]) -> None:
        """Note lines that were looked for."""
        for line in lines:
            self._noted[_place(line)] = self._digests[line.number]

    def stored(self) -> bytes:
        """The notes as they are stored, without the empty places at the end."""
        used = -(-len(self._noted.rstrip(b"\0")) // DIGEST)
        return bytes(self._noted[: used * DIGEST])


def _place(line: Line) -> slice:
    start = line.number % PAGE * DIGEST
    return slice(start, start + DIGEST)
