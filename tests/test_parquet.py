"""The log as Parquet files: whole, resumable, typed; read back by the tools that it is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest

from pgevents import ConfigurationError, EventClient, event, hookimpl
from pgevents.exchange import export_parquet
from pgevents.type_registry import EventTypes

pq: Any = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")


@event
class Measured:
    cart_id: str
    count: int
    weight: float
    is_new: bool
    at: datetime
    day: date | None = None
    price: Decimal = Decimal("0")
    parts: list[str] = attrs.field(factory=list)


@event("ODD/../TYPE")
class Odd:
    cart_id: str
    event_id: int = 1


NOON = datetime(2026, 2, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def client(make_client: Callable[..., EventClient]) -> EventClient:
    made = make_client(event_types=[Measured, Odd])
    made.create_tables()
    return made


def test_the_log_comes_back_as_it_was(client: EventClient, tmp_path: Path) -> None:
    """Every event once, in files of so many rows, with keys, times and metadata."""
    saved = [client.save_event(Odd(f"c{n}"), metadata={"n": n}, idempotency_key=f"k{n}") for n in range(25)]
    done = export_parquet(client, tmp_path / "log", rows=10)
    assert (done.events, done.last_id, len(done.files)) == (25, saved[-1].id, 3)
    rows = pq.read_table(tmp_path / "log").to_pylist()
    assert [row["id"] for row in rows] == [one.id for one in saved]
    assert rows[3]["data"] == '{"cart_id": "c3", "event_id": 1}'
    assert (rows[3]["metadata"], rows[3]["idempotency_key"]) == ('{"n": 3}', "k3")
    assert (rows[3]["created_at"], rows[3]["updated_at"]) == (saved[3].created_at, saved[3].updated_at)


def test_it_goes_on_where_it_was(client: EventClient, tmp_path: Path) -> None:
    """What was cut off is written again; what is whole is not touched."""
    client.save_events([Odd(f"c{n}") for n in range(5)])
    first = export_parquet(client, tmp_path)
    assert export_parquet(client, tmp_path).files == ()
    written = first.files[0].stat().st_mtime_ns
    client.save_events([Odd(f"d{n}") for n in range(5)])
    (tmp_path / "events-cut.part").write_bytes(b"half")
    (tmp_path / f"events-{6:020}-{9:020}.parquet").write_bytes(b"not noted")
    assert export_parquet(client, tmp_path).events == 5
    assert first.files[0].stat().st_mtime_ns == written
    assert [row["id"] for row in pq.read_table(tmp_path).to_pylist()] == list(range(1, 11))


def test_only_what_is_final_is_written(
    make_client: Callable[..., EventClient], client: EventClient, tmp_path: Path
) -> None:
    """An event that commits late is not left out: the export ends below it, and takes it next time."""
    other = make_client(event_types=[Measured, Odd])
    with other.db.atomic():
        other.save_event(Odd("late"))
        client.save_event(Odd("early"))
        assert export_parquet(client, tmp_path).events == 0
    assert export_parquet(client, tmp_path).events == 2


def test_each_type_has_its_columns(client: EventClient, tmp_path: Path) -> None:
    """Numbers, times and dates as such; what is nested, and Decimals, as text."""
    client.save_event(Measured("c1", 2**40, 1.5, True, NOON, NOON.date(), Decimal("1.10"), ["a", "ü"]))
    client.save_event(Measured("c2", -1, 2, False, NOON))
    client.save_event(Odd("c3", 7))
    export_parquet(client, tmp_path, by_type=True)
    first, second = pq.read_table(tmp_path / "Measured").to_pylist()
    wanted = {"cart_id": "c1", "count": 2**40, "weight": 1.5, "is_new": True, "at": NOON, "day": NOON.date()}
    assert {name: first[name] for name in wanted} == wanted
    assert (first["price"], first["parts"], second["day"], second["weight"]) == (
        "1.10",
        '["a", "ü"]',
        None,
        2.0,
    )
    (odd,) = pq.read_table(tmp_path / "ODD%2F..%2FTYPE").to_pylist()
    assert (odd["event_id"], odd["data_event_id"]) == (3, 7)
    client.save_event(Measured("c1", 2**70, 1.5, True, NOON))
    with pytest.raises(
        ConfigurationError, match="'count' of 'Measured' holds an integer of more than 64 bits"
    ):
        export_parquet(client, tmp_path, by_type=True)


def test_former_names_stand_with_their_class(
    make_client: Callable[..., EventClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event of a class's former name and version goes into the folder of the class, upcast."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("PRICE_SET")
    class PriceSet:
        cart_id: str
        pounds: int

    def to_pence(data: dict[str, Any]) -> dict[str, Any]:
        return {"cart_id": data["cart_id"], "pence": data["pounds"] * 100}

    @event("PRICE_CHANGED", version=2, upcasters={1: to_pence}, formerly=["PRICE_SET"])
    class PriceChanged:
        cart_id: str
        pence: int

    old = make_client(event_types=[PriceSet])
    old.create_tables()
    old.save_event(PriceSet("c1", 4))
    client = make_client(event_types=[PriceChanged])
    client.save_event(PriceChanged("c1", 450))
    export_parquet(client, tmp_path, by_type=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["PRICE_CHANGED"]
    found = pq.read_table(tmp_path / "PRICE_CHANGED").to_pylist()
    assert [(row["event_id"], row["pence"]) for row in found] == [(1, 400), (2, 450)]


def test_what_is_something_else_is_refused(
    make_client: Callable[..., EventClient], client: EventClient, tmp_path: Path
) -> None:
    """Another log, another form, an erasure since, other people's files, an unknown class."""
    client.save_event(Odd("c1"))
    export_parquet(client, tmp_path / "log")
    with pytest.raises(ConfigurationError, match="in another form"):
        export_parquet(client, tmp_path / "log", by_type=True)
    with client.maintenance("erasure"):
        client.db.execute_sql("UPDATE my_app.events SET data = '{}'")
    with pytest.raises(ConfigurationError, match="changed under maintenance"):
        export_parquet(client, tmp_path / "log")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.parquet").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="not of an export"):
        export_parquet(client, tmp_path / "other")
    with pytest.raises(ConfigurationError, match="no class of the type 'ODD/../TYPE'"):
        export_parquet(make_client(event_types=[Measured]), tmp_path / "new", by_type=True)
    with pytest.raises(ConfigurationError, match="no event class"):
        export_parquet(make_client(event_types=[]), tmp_path / "new", by_type=True)
    for rows in (0, True, "10"):
        with pytest.raises(ConfigurationError, match="rows is a whole number"):
            export_parquet(client, tmp_path / "new", rows=rows)  # type: ignore[arg-type]


def test_an_erasure_in_the_middle_is_noticed(client: EventClient, tmp_path: Path) -> None:
    """The files of before it may hold what was erased."""
    client.save_events([Odd(f"c{n}") for n in range(20)])

    def erase(last: int, target: int) -> None:
        with client.maintenance("erasure"):
            client.db.execute_sql("UPDATE my_app.events SET data = '{}' WHERE id = 1")

    with pytest.raises(ConfigurationError, match="changed under maintenance"):
        export_parquet(client, tmp_path, rows=10, progress=erase)


def test_encrypted_fields_stay_closed(client: EventClient, tmp_path: Path) -> None:
    """A field that a plugin hides has no column."""

    class Hides:
        @hookimpl
        def pgevents_hidden_fields(self, client: Any) -> dict[str, set[str]]:
            return {"Measured": {"price"}}

    client.save_event(Measured("c1", 1, 1.5, True, NOON))
    client.plugins.register(Hides())
    export_parquet(client, tmp_path, by_type=True)
    assert "price" not in pq.read_table(tmp_path / "Measured").column_names


def test_the_command_line_exports_a_folder(client: EventClient, url: str, tmp_path: Path) -> None:
    client.save_events([Odd(f"c{n}") for n in range(3)])
    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(url)
    database = (
        f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}&port={parts.get('port', 5432)}"
    )
    start = [sys.executable, "-c", "from pgevents.cli import main; main()", "--database", database]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*start, *arguments], capture_output=True, text=True, cwd=tmp_path)

    done = run("export", "log", "--parquet")
    assert done.returncode == 0, done.stderr
    assert "3 events" in done.stdout + done.stderr
    assert pq.read_table(tmp_path / "log").num_rows == 3
    assert run("export", "log", "--parquet", "--type", "X").returncode == 2
    assert run("export", "log", "--by-type").returncode == 2
