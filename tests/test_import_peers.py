"""`pgevents import --from`: tables of other event stores, read as they are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from click.testing import CliRunner, Result

from pgevents import (
    Event,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)
from pgevents.cli.commands import cli

from .conftest import database
from .test_plugins_example import as_url

FIXTURES = Path(__file__).parent / "peers"
Import = Callable[..., Result]
COUNTS = {"eventsourcing": 7, "message-db": 11, "marten": 3}


@pytest.fixture
def log(url: str) -> Any:
    """A log whose events are found by the streams that they come from."""
    db = database(url)
    made = create_event_client(
        db,
        create_events_table("copy", data_indexes=["metadata.stream"]),
        create_projections_table("copy"),
        [],
    )
    made.create_tables()
    yield made
    db.close()


@pytest.fixture
def imported(url: str, log: EventClient) -> Import:
    """Runs the command on a peer's tables, which lie in the same database."""

    def run(peer: str, *more: str) -> Result:
        options = ["--database", as_url(url), "--events", "copy.events"]
        return CliRunner().invoke(cli, ["import", "--from", peer, as_url(url), *options, *more])

    return run


def load(url: str, peer: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute((FIXTURES / f"{peer}.sql").read_text())
    connection.close()


def run_sql(url: str, statement: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def of_stream(log: EventClient, name: str) -> list[Event[Any]]:
    return list(log.get_event_streams([stream(**{"metadata.stream": name})]))


@pytest.mark.parametrize("peer", sorted(COUNTS))
def test_all_is_there_and_a_repeat_adds_nothing(
    log: EventClient, url: str, imported: Import, peer: str
) -> None:
    """Every event once, in the peer's order; run again it finds all of them."""
    load(url, peer)
    for _ in range(2):
        result = imported(peer)
        assert result.exit_code == 0, result.output
    positions = [event.metadata["position"] for event in log.get_event_stream()]
    assert len(positions) == COUNTS[peer] and positions == sorted(positions)


def test_what_eventsourcing_has_saved(log: EventClient, url: str, imported: Import) -> None:
    """Classes are types; ids, decimals and times are text; the timestamp is the event's time."""
    load(url, "eventsourcing")
    assert imported("eventsourcing").exit_code == 0
    opened, *deposits = of_stream(log, "54a2edeb-237b-4f64-8af7-59a393902bfc")
    assert opened.type == "Account.Opened"
    assert opened.data["owner"] == "Ada ä"
    assert opened.data["branch"] == "00000000-0000-0000-0000-000000000007"
    assert opened.created_at == datetime(2026, 11, 27, 23, 19, 6, 982014, timezone.utc)
    assert [event.metadata["version"] for event in deposits] == [2, 3, 4]
    assert deposits[-1].data == {
        "amount": "6.00",
        "at": "2026-01-05T00:00:00+00:00",
        "slips": [4, {"no": "s4"}],
    }
    run_sql(url, "INSERT INTO bank_events VALUES (gen_random_uuid(), 1, 'm:C', '\\x00ff', 9)")
    result = imported("eventsourcing")
    assert result.exit_code == 1 and "event 9: its state is not JSON" in result.output


def test_what_message_db_has_written(log: EventClient, url: str, imported: Import) -> None:
    """Times without a zone are UTC; its metadata stand in ours."""
    load(url, "message-db")
    assert imported("message-db").exit_code == 0
    events = of_stream(log, "account-2")
    assert [event.metadata["version"] for event in events] == [0, 1, 2, 3]
    assert events[0].created_at == datetime(2026, 11, 27, 23, 17, 37, 697124, timezone.utc)
    assert events[0].data == {"note": "ä", "amount": 2.5, "accountId": "2"}
    assert events[0].metadata["metadata"] == {"correlationStreamName": "teller-1"}
    assert events[0].metadata["id"] == "5841b46e-396a-4757-8642-a774723935cb"


def test_what_martens_table_holds(log: EventClient, url: str, imported: Import) -> None:
    """Numbers keep all digits; archived events say so."""
    load(url, "marten")
    assert imported("marten").exit_code == 0
    first, second = of_stream(log, "00000000-0000-0000-0000-00000000000a")
    assert (first.type, second.type) == ("account_opened", "deposited")
    assert first.created_at == datetime(2025, 5, 1, 10, tzinfo=timezone.utc)
    (text,) = log.session.execute("SELECT data->>'Amount' FROM copy.events WHERE id = 1").fetchone()
    assert text == "12345678901234567890.10"
    (archived,) = of_stream(log, "00000000-0000-0000-0000-00000000000b")
    assert archived.metadata["is_archived"] is True


def test_totals_that_differ_are_an_error(log: EventClient, url: str, imported: Import) -> None:
    """What was left out, or is gone from the source since, does not pass unnoticed."""
    load(url, "marten")
    broken = "INSERT INTO shop.mt_events SELECT 5, id, stream_id, 3, '[]', type FROM shop.mt_events LIMIT 1"
    run_sql(url, broken)
    stopped = imported("marten")
    assert stopped.exit_code == 1 and "event 5: its data are not a JSON object" in stopped.output
    skipped = imported("marten", "--skip")
    assert skipped.exit_code == 1 and "events 3, there 4" in skipped.output
    run_sql(url, "DELETE FROM shop.mt_events WHERE seq_id = 5")
    assert imported("marten").exit_code == 0


def test_which_table_is_meant(log: EventClient, url: str, imported: Import) -> None:
    """None or several are an error that names them; options of files are refused."""
    assert "there are: none" in imported("marten").output
    load(url, "marten")
    run_sql(url, "CREATE TABLE other AS TABLE shop.mt_events")
    assert "there are: public.other, shop.mt_events" in imported("marten").output
    assert imported("marten", "--table", "shop.mt_events").exit_code == 0
    assert "are for files" in imported("marten", "--key", "k").output
    unreachable = CliRunner().invoke(cli, ["import", "--from", "marten", "postgresql://x:pw@127.0.0.1:1/x"])
    assert unreachable.exit_code != 0 and "pw" not in unreachable.output
