"""Events of a Parquet export dealt out to the ranges: each file is read once, and written again with its
events sorted by range, in the folder `_dealt-<fold>` beside it."""

from __future__ import annotations

import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pgevents.clusters.ranges import Plan
from pgevents.distribution import require
from pgevents.errors import ConfigurationError
from pgevents.exchange.parquet import exported
from pgevents.subscriptions.definition import Work
from pgevents.subscriptions.items import Item, decoded, event_and_error, is_dropped, key_error
from pgevents.subscriptions.lanes import Batch, Lane
from pgevents.subscriptions.view_reading import hashes_of

__all__ = ["clear", "deal", "dealt_pages", "to_deal"]

COLUMNS = ["id", "type", "data", "metadata", "created_at", "updated_at"]


def to_deal(folder: str, plan: Plan, files: Sequence[Path]) -> list[str]:
    """The names of the files that are not dealt out yet; what earlier folds have dealt out is removed."""
    mine = _place(folder, plan)
    for other in Path(folder).glob("_dealt-*"):
        if other != mine:
            shutil.rmtree(other, ignore_errors=True)
    mine.mkdir(exist_ok=True)
    return [file.name for file in files if not (mine / file.name).exists()]


def clear(folder: str, plan: Plan) -> None:
    """Remove what was dealt out: it holds events, which may be erased from the log some day."""
    shutil.rmtree(_place(folder, plan), ignore_errors=True)


def deal(work: Work, folder: str, plan: Plan, name: str) -> int:
    """Deal out a file; how many events it has.

    Raises:
        ConfigurationError: The folder is not the one that the fold was begun with.
    """
    _, _, changes = exported(work.client, folder)
    if changes != plan.redactions:
        raise ConfigurationError(f"{folder} is another export here than where the fold was begun")
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    types, bound = work.keeper.rule.types, ("id", "<=", plan.bound)
    wanted = [bound] if types is None else [bound, ("type", "in", list(types))]
    table = parquet.read_table(Path(folder) / name, columns=COLUMNS, filters=wanted)
    rows = [_row(row) for row in zip(*table.to_pydict().values(), strict=True)]
    pairs = [(place, text) for place, texts in enumerate(_ids(work, rows)) for text in texts]
    hashes = hashes_of(work, {text for _, text in pairs})
    places = arrow.array([place for place, _ in pairs], arrow.int64())
    table = table.take(places)
    hashed = [hashes[text] for _, text in pairs]
    for column, values, kind in (
        ("hash", hashed, arrow.int64()),
        ("view", [text for _, text in pairs], arrow.string()),
        ("range", [value % plan.ranges for value in hashed], arrow.int32()),
    ):
        table = table.add_column(0, column, arrow.array(values, kind))
    table = table.sort_by([("range", "ascending"), ("id", "ascending")])
    _write(parquet, table, _place(folder, plan) / name)
    return len(rows)


def dealt_pages(work: Work, lane: Lane, folder: str, plan: Plan) -> Iterator[Batch]:
    """The events of a range, from the start of the log: a page for each file."""
    parquet = require("pyarrow.parquet", "parquet")
    for file in sorted(_place(folder, plan).glob("*.parquet")):
        with parquet.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                if opened.metadata.row_group(group).column(0).statistics.min == lane.number:
                    found = opened.read_row_group(group).to_pydict()
                    items = _items(work, lane, found)
                    yield Batch(items, found["id"][-1], plan.bound, False, False)


def _items(work: Work, lane: Lane, found: dict[str, list[Any]]) -> list[Item]:
    rows = [_row(row) for row in zip(*[found[name] for name in COLUMNS], strict=True)]
    items: list[Item] = []
    for row, result, text, hashed in zip(
        rows, decoded(work, rows), found["view"], found["hash"], strict=True
    ):
        event, error = event_and_error(result)
        if not is_dropped(event):
            items.append(Item(row[0], event, error, text, hashed, lane.number))
    return items


def _ids(work: Work, rows: Sequence[Any]) -> list[list[str]]:
    """Of each event the ids of the views that it changes."""
    rule: Any = work.keeper.rule
    if rule.ids_of is not None:
        pairs = [event_and_error(result) for result in decoded(work, rows)]
        return [
            [] if is_dropped(event) else rule.ids(row, event, error)
            for row, (event, error) in zip(rows, pairs, strict=True)
        ]
    found = [rule.ids(row, None) for row in rows]
    if rule.field is not None:
        bare = [row for row, ids in zip(rows, found, strict=True) if not ids]
        for result in decoded(work, bare):
            error = key_error(work, None, event_and_error(result)[0])
            if error is not None:
                raise error
    return found


def _row(row: Sequence[Any]) -> tuple[Any, ...]:
    """A row of an export as the database gives it."""
    event_id, name, data, metadata, created, updated = row
    stored = None if metadata == "{}" else metadata
    return event_id, name, data, stored, str(created), str(updated)


def _write(parquet: Any, table: Any, file: Path) -> None:
    """Write a file with a group of rows for each range, under its name when it is whole."""
    part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    numbers = table.column("range").to_pylist()
    with parquet.ParquetWriter(part, table.schema, compression="zstd") as writer:
        start = 0
        while start < len(numbers):
            end = bisect_right(numbers, numbers[start])
            writer.write_table(table.slice(start, end - start), row_group_size=end - start)
            start = end
    os.replace(part, file)


def _place(folder: str, plan: Plan) -> Path:
    return Path(folder) / f"_dealt-{plan.fold}"
