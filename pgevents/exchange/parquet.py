"""The log as Parquet files by ranges of ids: for DuckDB, pandas, Spark and their like."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.codec.serialization import time_of
from pgevents.errors import ConfigurationError, shown
from pgevents.events import Event, parts_of
from pgevents.exchange.arrow import TypedColumns, arrow, table_of
from pgevents.store.identity import log_identity
from pgevents.store.queries import keyed_select
from pgevents.streams import stream

__all__ = ["ParquetExport", "export_parquet", "exported"]

PAGE = 5_000
STATE = "_pgevents.json"
"""The file that says which log the folder holds, and how far. Readers pass over names with `_` or `.`."""
# Ids between two files, and above the last one, are of saves that were rolled back.
LEFT_OUT_SQL = """\
SELECT min(e.id) FROM unnest(%s::bigint[], %s::bigint[]) AS w (low, high) JOIN {events} AS e
    ON e.id BETWEEN w.low AND w.high
"""
NEWEST_SQL = "SELECT created_at::text FROM {events} WHERE id = %s"
FILE = re.compile(r"events-(\d{20})-(\d{20})\.parquet")
CHANGED = (
    "the log was changed under maintenance after {folder} was begun, so its files may hold what was erased: "
    "delete it, or export into an empty folder"
)


@attrs.frozen
class ParquetExport:
    """What an export wrote.

    Attributes:
        files: The files that are new, in order.
        events: How many events they hold.
        last_id: The id up to which the folder now holds the log.
    """

    files: tuple[Path, ...]
    events: int
    last_id: int


def export_parquet(
    client: EventClient,
    folder: str | os.PathLike[str],
    *,
    by_type: bool = False,
    rows: int = 100_000,
    progress: Callable[[int, int], object] | None = None,
) -> ParquetExport:
    """Write the log into Parquet files, each of a range of ids; called again, it continues.

    Only what is final is written, and a file gets its name when it is whole: whatever is in the folder is
    right, also after a crash. Of each event there are `id`, `type`, `data` and `metadata` (JSON as text),
    `idempotency_key`, `created_at` and `updated_at` (UTC, microseconds). With `by_type`, each event class
    gets a folder of its own, named like its type, with a column for each field, in the present version of
    the class: what is nested, and a Decimal, is text. Events of former names of a class (`formerly=`) stand
    with its own.

    Args:
        client: The client; for `by_type` one that knows the classes.
        folder: The folder; it is made.
        by_type: Typed columns, a folder for each type.
        rows: How many events a file holds at most.
        progress: Called after each file with the id that was reached, and the id to reach.

    Returns:
        What is new.

    Raises:
        ConfigurationError: pyarrow is missing; the folder holds another log, or another form of it; the log
            was changed under maintenance since; or an integer field of a class has more than 64 bits.
        EventDecodeError: With `by_type`, a stored event does not fit its class.

    Example:
        ```python
        from pgevents.exchange import export_parquet

        export_parquet(client, "log")  # SELECT type, count(*) FROM 'log/*.parquet' GROUP BY 1
        ```
    """
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigurationError(f"rows is a whole number from 1, not {shown(rows)}")
    client.check_installed()
    if by_type and not client.types.all():
        raise ConfigurationError("this client knows no event class, so no columns either: leave out by_type")
    into = _Folder(client, Path(folder), by_type)
    last = into.begin()
    target = client.horizon().id
    files, count = list[Path](), 0
    for found in _ranges(client, last, target, rows):
        files += into.write(found, last)
        count, last = count + len(found), found[-1][0]
        into.note(last)
        if progress is not None:
            progress(last, target)
    into.note(max(last, target))
    return ParquetExport(tuple(files), count, max(last, target))


def exported(client: EventClient, folder: str | os.PathLike[str]) -> tuple[list[Path], int, str]:
    """The files of an export of all types in one form, in order, for those who read them in place of the log.

    Args:
        client: A client of the log.
        folder: The folder.

    Returns:
        The files; the id up to which they hold the log; and how often that was changed under maintenance.

    Raises:
        ConfigurationError: pyarrow is missing; no such export, or one of another log, or of one that was
            changed under maintenance or set back since; or a file is missing.
    """
    into = _Folder(client, Path(folder), False)
    last = into.last_id()
    if last is None:
        raise ConfigurationError(f"{folder} holds no export of the log: pgevents export --parquet {folder}")
    files: list[tuple[int, int, Path]] = []
    for file in Path(folder).glob("*.parquet"):
        found = FILE.fullmatch(file.name)
        if found is not None and int(found[2]) <= last:
            files.append((int(found[1]), int(found[2]), file))
    files.sort()
    ends = [0, *[end for _, end, _ in files]]
    starts = [*[start for start, _, _ in files], last + 1]
    names = {"events": client.events.pgevents_spec.qualified()}
    gaps = [(end + 1, start - 1) for end, start in zip(ends, starts, strict=True) if end + 1 < start]
    lows, highs = [low for low, _ in gaps], [high for _, high in gaps]
    missing = client.session.execute(LEFT_OUT_SQL.format(**names), [lows, highs]).fetchone()[0]
    if missing is not None:
        raise ConfigurationError(f"{folder} lacks the file with event {missing}: export into an empty folder")
    if files:
        _check_newest(client, files[-1][2], NEWEST_SQL.format(**names))
    return [file for _, _, file in files], last, into.changes


def _check_newest(client: EventClient, file: Path, sql: str) -> None:
    """After a restore ids are given out again: then the newest event of the files is another one."""
    table = arrow().parquet.read_table(file, columns=["id", "created_at"])
    (newest,) = table.slice(table.num_rows - 1).to_pylist()
    found = client.session.execute(sql, [newest["id"]]).fetchone()
    if found is None or time_of(found[0]) != newest["created_at"]:
        raise ConfigurationError(
            f"event {newest['id']} of {file} is another one in the log, which was set back since: export "
            "into an empty folder"
        )


def _ranges(client: EventClient, after: int, target: int, most: int) -> Iterator[list[Any]]:
    """The rows of the log up to an id, in lists of at most `rows`."""
    found: list[Any] = []
    while True:
        tail = f"ORDER BY id LIMIT {min(PAGE, most - len(found))}"
        select, params = client.reader.select([stream()], after, target, tail=tail)
        page = client.session.execute(keyed_select(select, client.events.pgevents_spec), params).fetchall()
        found += page
        if len(found) == most or (found and not page):
            yield found
            found = []
        if not page:
            return
        after = page[-1][0]


class _Folder:
    """The folder of an export, and its notes."""

    def __init__(self, client: EventClient, path: Path, by_type: bool) -> None:
        arrow()
        self._client, self._path, self._by_type = client, path, by_type
        self._columns = (
            {kind.name: TypedColumns(client, kind) for kind in client.types.all()} if by_type else {}
        )
        spec = client.events.pgevents_spec
        self._state: dict[str, Any] = {
            "log": str(log_identity(client.session.execute, spec)).rpartition("/")[0],
            "by_type": by_type,
            "changes": self._changes(),
        }

    def _changes(self) -> str:
        """How often the log was changed under maintenance."""
        name = self._client.events.pgevents_spec.qualified("_redactions")
        return str(self._client.session.execute(f"SELECT {name}()").fetchone()[0])

    def begin(self) -> int:
        """The id up to which the folder holds the log; 0 of a new one."""
        self._path.mkdir(parents=True, exist_ok=True)
        for part in self._path.rglob("*.part"):
            part.unlink()
        last = self.last_id()
        if last is None:
            if any(self._path.rglob("*.parquet")):
                raise ConfigurationError(
                    f"{self._path} holds Parquet files, but not of an export: take an empty folder"
                )
            self.note(0)
            return 0
        for file in self._path.rglob("*.parquet"):  # written, but not noted: they are written again
            range_of_ids = FILE.fullmatch(file.name)
            if range_of_ids is not None and int(range_of_ids[2]) > last:
                file.unlink()
        return last

    def last_id(self) -> int | None:
        """The id up to which the folder holds this log; None of one without an export."""
        try:
            found = json.loads((self._path / STATE).read_text())
        except FileNotFoundError:
            return None
        for name, what in (("log", "another log"), ("by_type", "the log in another form")):
            if found.get(name) != self._state[name]:
                raise ConfigurationError(f"{self._path} holds {what}: take an empty folder")
        if found.get("changes") != self._state["changes"]:
            raise ConfigurationError(CHANGED.format(folder=self._path))
        return int(found["last_id"])

    @property
    def changes(self) -> str:
        """How often the log had been changed under maintenance when this began."""
        return str(self._state["changes"])

    def note(self, last: int) -> None:
        """Note how far the log stands in the folder."""
        if self._changes() != self._state["changes"]:
            raise ConfigurationError(CHANGED.format(folder=self._path))
        part = self._path / f"{STATE}.part"
        part.write_text(json.dumps({**self._state, "last_id": last}))
        os.replace(part, self._path / STATE)

    def write(self, rows: list[Any], after: int) -> list[Path]:
        """Write the rows of one range."""
        name = f"events-{after + 1:020}-{rows[-1][0]:020}.parquet"
        if not self._by_type:
            return [self._write(self._path / name, table_of(rows))]
        events: dict[str, list[tuple[Event[Any], Any]]] = {}
        decoded = self._client.decoder.events([row[:-1] for row in rows])
        for event, row in zip(decoded, rows, strict=True):
            for part in parts_of([event]):  # an upcaster may have split or dropped it
                name_today = self._client.types.current_name(part.type)
                events.setdefault(name_today, []).append((part, row))
        written: list[Path] = []
        for event_type, found in events.items():
            columns = self._columns.get(event_type)
            if columns is None:
                raise ConfigurationError(
                    f"the client knows no class of the type {event_type!r}, whose fields would be the "
                    "columns: add it to event_types, or leave out by_type"
                )
            folder = self._path / _folder_name(event_type)
            folder.mkdir(exist_ok=True)
            written.append(self._write(folder / name, columns.table(found)))
        return written

    def _write(self, file: Path, table: Any) -> Path:
        part = file.with_name(f".{file.name}.part")
        arrow().parquet.write_table(table, part, compression="zstd")
        with suppress(OSError), open(part, "rb") as written:
            os.fsync(written.fileno())
        os.replace(part, file)
        return file


def _folder_name(event_type: str) -> str:
    """A type as the name of a folder, whatever characters it has."""
    return re.sub(r"^[._]|[^A-Za-z0-9_.-]", lambda found: f"%{ord(found[0]):02X}", event_type)
