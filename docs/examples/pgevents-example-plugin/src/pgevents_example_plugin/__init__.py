"""An outbox: for each saved event a message to send, written in the same transaction, so that none is lost or
    invented.

It uses two hooks and nothing but public names of pgevents; copy it, and put your own hooks in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pgevents import Event, EventClient, hookimpl

__all__ = ["Outbox"]

CREATE_SQL = """\
CREATE TABLE IF NOT EXISTS {outbox} (
    event_id bigint PRIMARY KEY,
    topic text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
INSERT_SQL = "INSERT INTO {outbox} (event_id, topic) SELECT * FROM unnest(%s::bigint[], %s::text[])"
TAKE_SQL = """\
DELETE FROM {outbox} WHERE event_id IN (
    SELECT event_id FROM {outbox} ORDER BY event_id LIMIT %s FOR UPDATE SKIP LOCKED
) RETURNING event_id, topic
"""


class Outbox:
    """Notes each saved event in a table `<events>_outbox`, from which a sender takes them.

    Example:
        ```python
        client = create_event_client(db, events, views, plugins="auto")
        client.create_tables()
        client.save_event(CartCreated("c1", "u1"))

        with client.db.atomic():
            for event_id, topic in Outbox.take(client):
                queue.publish(topic, event_id)
        ```
    """

    @hookimpl
    def pgevents_create_tables(self, client: EventClient) -> None:
        """Make the table, in the transaction of `client.create_tables()`."""
        client.session.execute(_named(client, CREATE_SQL))

    @hookimpl
    def pgevents_after_save(self, client: EventClient, events: Sequence[Event[Any]]) -> None:
        """Write the messages; they commit with the events, or not at all."""
        topics = [event.type.lower() for event in events]
        client.session.execute(_named(client, INSERT_SQL), [[event.id for event in events], topics])

    @staticmethod
    def take(client: EventClient, limit: int = 100) -> list[tuple[int, str]]:
        """Take the oldest messages; inside `db.atomic()` they come back if the block fails. Senders do not
        meet.

        Args:
            client: The client whose outbox it is.
            limit: At most so many.

        Returns:
            Event id and topic of each, in order.
        """
        return sorted(client.session.execute(_named(client, TAKE_SQL), [limit]).fetchall())


def _named(client: EventClient, sql: str) -> str:
    return sql.format(outbox=client.events.pgevents_spec.qualified("_outbox"))
