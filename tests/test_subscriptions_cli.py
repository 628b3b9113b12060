"""Subscriptions from the command line: run, list, health, pause, reset, parked; and drained in a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgevents import Event, EventClient, stream
from pgevents.cli.commands import cli
from pgevents.subscriptions import Subscription, parked, retry, subscription
from pgevents.testing import drain

from .shop import CartCreated, CartEvent, ItemAddedToCart

Command = Callable[..., Any]


@pytest.fixture
def command(url: str, client: EventClient) -> Command:
    """Runs a command on the test's database; what it printed, and its exit code."""

    def call(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, [*arguments], env={"PGEVENTS_DATABASE_URL": pg_url(url)})
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return call


def pg_url(dsn: str) -> str:
    from urllib.parse import quote, urlencode

    from psycopg2.extensions import parse_dsn

    return "postgresql:///?" + urlencode(parse_dsn(dsn), quote_via=quote)


def broken(client: EventClient) -> Any:
    """Fails at the cart "bad"."""

    @subscription("writer", CartCreated, key="cart_id", on_error=retry(1))
    def write(event: Event[CartCreated]) -> None:
        if event.data.cart_id == "bad":
            raise ValueError("it is bad")

    return write


def test_drain_handles_all_that_is_due(client: EventClient) -> None:
    """Also what handlers save, in a fixed order, in this thread."""
    order: list[tuple[str, int]] = []

    @subscription("gifts", CartCreated)
    def give(event: Event[CartCreated]) -> None:
        order.append(("gifts", event.id))
        client.save_event(ItemAddedToCart(event.data.cart_id, "gift", 1, 0))

    @subscription("items", ItemAddedToCart, effects="outside")
    def count(event: Event[ItemAddedToCart]) -> None:
        order.append(("items", event.id))

    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1")])
    assert drain(client, [give, count]) == 4
    assert sorted(order) == [("gifts", 1), ("gifts", 2), ("items", 3), ("items", 4)]
    assert drain(client, [give, count]) == 0


def test_subscriptions_and_health_say_how_they_do(client: EventClient, command: Command) -> None:
    """Lag, what is parked, and an exit code for probes."""
    assert command("subscriptions") == "No subscriptions.\n"
    assert command("health") == "All is well.\n"
    client.save_events([CartCreated("c1", "u1"), CartCreated("bad", "u1"), CartCreated("bad", "u1")])
    Subscription(client, "reader", [stream(CartEvent)]).process(lambda event: None)
    drain(client, [broken(client)])
    client.save_event(CartCreated("c2", "u1"))
    reader, writer = map(json.loads, command("subscriptions", "--json").splitlines())
    assert (reader["name"], reader["lag"], reader["parked"]) == ("reader", 1, 0)
    assert (writer["lag"], writer["parked"], writer["parked_keys"]) == (1, 2, 1)
    assert "2 events of 1 key are parked" in command("health", code=1)
    assert not json.loads(command("health", "--json", "--max-lag", "5m", code=1))["is_healthy"]


def test_pause_resume_reset_resize_and_rename(client: EventClient, command: Command) -> None:
    """Each says what it did, or in one line why not."""
    write = broken(client)
    client.save_event(CartCreated("c1", "u1"))
    drain(client, [write])
    assert command("pause", "writer") == "writer is paused.\n"
    assert "writer: paused" in command("subscriptions")
    assert command("reset", "writer", "0") == "writer starts again above 0.\n"
    assert drain(client, [write]) == 0
    assert command("resume", "writer") == "writer goes on.\n"
    assert command("resize", "writer", "3") == "writer has 3 lanes.\n"
    assert drain(client, [write]) == 1
    assert command("rename", "writer", "scribe") == "writer is scribe now.\n"
    assert "there is no subscription 'writer'" in command("pause", "writer", code=1)


def test_parked_events_are_shown_retried_and_discarded(client: EventClient, command: Command) -> None:
    """Who discarded one, and why, is kept."""
    write = broken(client)
    client.save_events([CartCreated("bad", "u1"), CartCreated("bad", "u2")])
    drain(client, [write])
    assert "1  bad  parked, 1 attempts  ValueError: it is bad" in command("parked", "list", "writer")
    assert json.loads(command("parked", "show", "writer", "1"))["type"] == "CART_CREATED"
    assert command("parked", "retry", "writer", "--key", "bad") == "1 will be tried again.\n"
    drain(client, [write])
    assert [one.state for one in parked(client, "writer")] == ["parked", "queued"]
    assert command("parked", "discard", "writer", "1", "--reason", "a test") == "Event 1 is discarded.\n"
    shown = json.loads(command("parked", "show", "writer", "1"))["notes"]
    assert [(one["action"], one["reason"]) for one in shown] == [("discarded", "a test"), ("retried", "")]
    lines = command("parked", "notes", "writer").splitlines()
    assert "  discarded 1  by " in lines[0] and lines[0].endswith(": a test") and "  retried 1" in lines[1]
    as_json = command("parked", "notes", "writer", "1", "--json").splitlines()
    assert [json.loads(line)["action"] for line in as_json] == ["discarded", "retried"]
    (note,) = [one.note for one in parked(client, "writer", discarded=True) if one.note]
    assert note.endswith(": a test")
    assert "is not parked" in command("parked", "discard", "writer", "99", "--reason", "x", code=1)


PROGRAM = """
from pgevents import create_event_client, create_events_table, create_projections_table
from pgevents.subscriptions import Runner, subscription

client = create_event_client(URL, create_events_table("my_app"), create_projections_table("my_app", "views"))

@subscription("writer", "CART_CREATED", key="cart_id")
def write(event):
    client.db.execute_sql("INSERT INTO handled VALUES (%s)", [event.id])

def make():
    return Runner(client, [write])
"""


def test_run_works_until_it_is_told_to_stop(client: EventClient, url: str, tmp_path: Path) -> None:
    """A process of its own handles what is saved, and ends well on SIGTERM."""
    client.db.execute_sql("CREATE TABLE handled (event_id bigint PRIMARY KEY)")
    text = PROGRAM.replace("URL", repr(pg_url(url)), 1).replace(
        'create_events_table("my_app")',
        'create_events_table("my_app", data_indexes=["cart_id", "product_id"])',
    )
    (tmp_path / "shop_tasks.py").write_text(text)
    start = "from pgevents.cli import main; main()"
    command = [sys.executable, "-c", start, "run", "shop_tasks:make", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ}, stderr=subprocess.PIPE, text=True)
    try:
        client.save_events([CartCreated(f"c{n}", "u1") for n in range(20)])
        end = time.monotonic() + 20
        while client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0] < 20:
            assert time.monotonic() < end and process.poll() is None, process.stderr
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_doctor_names_what_is_wrong_with_subscriptions(client: EventClient, command: Command) -> None:
    """What the health check finds, among its other findings."""
    assert "subscriptions, if there are any, are at work" in command("doctor", code=1)
    client.save_event(CartCreated("bad", "u1"))
    drain(client, [broken(client)])
    assert "writer: 1 event of 1 key is parked" in command("doctor", code=1)
