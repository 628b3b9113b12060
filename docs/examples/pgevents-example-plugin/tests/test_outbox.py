"""The plugin in a program that knows it by its entry point only."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from pgevents_example_plugin import Outbox

from pgevents import EventClient, create_event_client, create_events_table, create_projections_table
from pgevents.embedded import embedded_database


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The database that PGEVENTS_DATABASE_URL names, or an embedded one."""
    given = os.environ.get("PGEVENTS_DATABASE_URL")
    if given:
        yield given
        return
    with embedded_database(durable=False) as db:
        yield db.url


@pytest.fixture
def client(url: str) -> Iterator[EventClient]:
    """A client on a schema of the test's own."""
    tables = create_events_table("outbox_test"), create_projections_table("outbox_test")
    made = create_event_client(url, *tables, plugins="auto")
    made.create_tables()
    yield made
    made.db.execute_sql("DROP SCHEMA outbox_test CASCADE")
    made.db.close()


def note(text: str) -> dict[str, object]:
    return {"type": "NOTE", "data": {"text": text}}


def test_the_plugin_is_found(client: EventClient) -> None:
    """By its entry point, under its name there."""
    assert isinstance(client.plugins.get("outbox"), Outbox)


def test_each_saved_event_is_taken_once(client: EventClient) -> None:
    """In order, and not again."""
    client.save_events([note("a"), note("b")])
    assert Outbox.take(client, 1) == [(1, "note")]
    assert Outbox.take(client) == [(2, "note")]
    assert Outbox.take(client) == []


def test_no_message_without_its_event(client: EventClient) -> None:
    """What is rolled back leaves none, and a sender that fails gives its messages back."""
    with client.db.atomic() as transaction:
        client.save_event(note("a"))
        transaction.rollback()
    client.save_event(note("b"))
    with pytest.raises(ConnectionError), client.db.atomic():
        assert len(Outbox.take(client)) == 1
        raise ConnectionError("the queue is down")
    assert len(Outbox.take(client)) == 1
