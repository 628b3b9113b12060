"""`pgevents export`: the log as JSON Lines or CSV, streaming, resumable, gzipped if the name says so."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from pgevents.client import EventClient
from pgevents.codec.serialization import time_of
from pgevents.exchange import export_parquet
from pgevents.store.queries import keyed_select
from pgevents.streams import Stream

from .files import COLUMNS, FORMAT, KEY_COLUMN, form_of, progress, report
from .frame import EXIT_CODES, fail, whole
from .store import Store, stream_of

__all__ = ["export_command"]

PAGE = 5_000
BLOCK = 65_536
HEADER = (",".join((*COLUMNS, KEY_COLUMN)) + "\r\n").encode()


@click.command(
    "export",
    help="Write events to FILE, or to the standard output. A name that ends in .gz makes a gzipped file.\n\n"
    "Only what is final is written, so what is exported later with --resume continues it without a gap.",
    epilog=EXIT_CODES,
)
@click.argument("file", default="-")
@click.argument("match", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only this type; may be given again.")
@click.option("--after", **whole(0), default=0, metavar="ID", help="Only events above this id.")
@click.option(
    "--parquet", is_flag=True, help="FILE is a folder for Parquet files; called again, it goes on by itself."
)
@click.option(
    "--by-type", is_flag=True, help="With --parquet and --app: typed columns, a folder for each type."
)
@click.option(
    "--resume", is_flag=True, help="Go on where the file ends; a line that was cut off is written again."
)
@FORMAT
@Store.options
def export_command(
    file: str,
    match: tuple[str, ...],
    types: tuple[str, ...],
    after: int,
    parquet: bool,
    by_type: bool,
    resume: bool,
    form: str | None,
    **options: Any,
) -> None:
    if parquet:
        if file == "-" or match or types or after or resume or form:
            raise click.UsageError(
                "--parquet takes a folder and exports the whole log; leave out other options"
            )
        _export_parquet(Store(**options), file, by_type)
        return
    if by_type:
        raise click.UsageError("--by-type goes with --parquet")
    store, wanted, form = Store(**options), stream_of(types, match), form_of(file, form)
    if resume and file == "-":
        raise click.UsageError("--resume needs a file to go on with")
    client = store.open()
    start = time.perf_counter()
    is_gzip = file.endswith(".gz")
    is_new = True
    if resume and os.path.exists(file):
        last_line = _mend_gzip(Path(file)) if is_gzip else _mend(Path(file))
        is_new = not last_line
        after = max(after, _id_of(file, last_line, form))
    total = _count(client, wanted, after)
    count, last = 0, after
    with (
        _Output(file, "ab" if resume else "wb", is_gzip) as output,
        progress("Export", total) as advance,
    ):
        if form == "csv" and is_new:
            output.write(HEADER)
        for rows in _pages(client, wanted, after):
            output.write("".join(map(_csv_line if form == "csv" else _json_line, rows)).encode())
            count, last = count + len(rows), rows[-1][0]
            advance(len(rows))
    report(store, "exported", start, events=count, last_id=last)


def _export_parquet(store: Store, folder: str, by_type: bool) -> None:
    start = time.perf_counter()
    client = store.own_client() if by_type else store.open()
    with progress("Export", client.horizon().id) as advance:
        reached = [0]

        def show(last: int, target: int) -> None:
            advance(last - reached[0])
            reached[0] = last

        found = export_parquet(client, folder, by_type=by_type, progress=show)
    report(store, "exported", start, events=found.events, last_id=found.last_id)


class _Output:
    """A file, or the standard output; each piece of a gzipped file is a member of its own, and so can be
    read whatever happens to the next one."""

    def __init__(self, file: str, mode: str, is_gzip: bool) -> None:
        self._file: Any = sys.stdout.buffer if file == "-" else open(file, mode)
        self._pack: Callable[[bytes], bytes] = gzip.compress if is_gzip else bytes
        self._stays_open = file == "-"

    def __enter__(self) -> _Output:
        return self

    def write(self, piece: bytes) -> None:
        self._file.write(self._pack(piece))

    def __exit__(self, *_: object) -> None:
        self._file.flush()
        if not self._stays_open:
            self._file.close()


def _pages(client: EventClient, wanted: Stream[Any], after: int) -> Iterator[Any]:
    """Rows as they are stored, the JSON as text; up to the horizon, below which nothing can come any more."""
    horizon = client.horizon().id
    while True:
        select, params = client.reader.select([wanted], after, horizon, tail=f"ORDER BY id LIMIT {PAGE}")
        sql = keyed_select(select, client.events.pgevents_spec)
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
    key = "" if row[-1] is None else f', "{KEY_COLUMN}": {json.dumps(row[-1])}'
    return f'{head}, "created_at": "{time_of(row[4]).isoformat()}"{key}}}\n'


def _csv_line(row: Any) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([*row[:3], row[3] or "{}", time_of(row[4]).isoformat(), row[-1]])
    return line.getvalue()


# -- going on with a file ------------------------------------------------------------


def _mend(path: Path) -> bytes:
    """Cut off a line that is not whole; the last one that is, without its line break."""
    with path.open("r+b") as file:
        start = file.seek(0, os.SEEK_END)
        end, tail = start, b""
        while start > 0 and tail.count(b"\n") < 2:  # each event is one line: what JSON gives has no "\n"
            start = max(0, start - BLOCK)
            file.seek(start)
            tail = file.read(end - start)
        whole = tail[: tail.rfind(b"\n") + 1]
        file.truncate(start + len(whole))
    return _last_line(whole)


def _mend_gzip(path: Path) -> bytes:
    """Cut off what stands behind the last whole member; the last line before it, without its line break."""
    whole, last = 0, b""
    with path.open("r+b") as file:
        block, member, inside = file.read(BLOCK), zlib.decompressobj(31), b""
        position = 0  # of the block's first byte that is not decompressed yet
        while block:
            try:
                inside = _end_of(inside + member.decompress(block))
            except zlib.error:
                break
            if member.eof:
                position += len(block) - len(member.unused_data)
                whole, last = position, _last_line(inside) or last
                block, member, inside = member.unused_data or file.read(BLOCK), zlib.decompressobj(31), b""
            else:
                position += len(block)
                block = file.read(BLOCK)
        file.truncate(whole)
    return last


def _end_of(text: bytes) -> bytes:
    """The last whole line, and what follows it."""
    last = text.rfind(b"\n")
    return text[text.rfind(b"\n", 0, max(last, 0)) + 1 :]


def _last_line(whole: bytes) -> bytes:
    return whole.rstrip(b"\r\n").rpartition(b"\n")[2].rstrip(b"\r")


def _id_of(file: str, line: bytes, form: str) -> int:
    """The id of the event on an exported line; 0 of the header, and if there is none."""
    if not line or (form == "csv" and line + b"\r\n" == HEADER):
        return 0
    try:
        text = line.decode()
        return int(next(csv.reader([text]))[0] if form == "csv" else json.loads(text)["id"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        fail(f"{file}: the last line is not an exported event, so the export cannot continue it")
