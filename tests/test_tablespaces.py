"""A grown log on cheaper disks: the table in another tablespace, its indexes where they are."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg2
import pytest

from pgevents import ConcurrencyError, EventClient, stream
from pgevents.diagnosis import diagnose
from pgevents.subscriptions import checkpoint, follow

from .shop import CartCreated, ItemAddedToCart

PLACES_SQL = """\
SELECT c.relkind::text, coalesce(t.spcname::text, 'default')
FROM pg_class AS c LEFT JOIN pg_tablespace AS t ON t.oid = c.reltablespace
WHERE c.oid = 'my_app.events'::regclass
    OR c.oid IN (SELECT indexrelid FROM pg_index WHERE indrelid = 'my_app.events'::regclass)
"""


@pytest.fixture
def cheap(client: EventClient, url: str) -> Iterator[str]:
    """The name of another tablespace of the server."""
    name = f"cheap_{uuid.uuid4().hex[:8]}"
    connection = psycopg2.connect(url)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    if connection.server_version < 150000 or cursor.fetchone() != (True,):
        # allow_in_place_tablespaces is new in 15; elsewhere a folder that the server owns would be needed.
        pytest.skip("a tablespace without a folder of its own takes PostgreSQL 15 and a superuser")
    cursor.execute("SET allow_in_place_tablespaces = on")
    cursor.execute(f"CREATE TABLESPACE {name} LOCATION ''")
    yield name
    client.db.execute_sql("ALTER TABLE my_app.events SET TABLESPACE pg_default")
    cursor.execute(f"DROP TABLESPACE {name}")
    connection.close()


def test_the_table_moves_to_other_disks_and_every_promise_stays(client: EventClient, cheap: str) -> None:
    """Saves, validation, keys, final reads, checkpoints, guards and create_tables() go on as before."""
    first = client.save_event(CartCreated("c1", "u1"), idempotency_key="k")
    place = checkpoint(client, first.id)
    client.db.execute_sql(f"ALTER TABLE my_app.events SET TABLESPACE {cheap}")
    client.create_tables()
    places = client.db.execute_sql(PLACES_SQL).fetchall()
    assert sorted(places) == [*[("i", "default")] * (len(places) - 1), ("r", cheap)]
    assert [
        found.what for found in diagnose(client) if found.level == "fault" and "fsync" not in found.what
    ] == []

    added = client.save_event(ItemAddedToCart("c1", "p1", 1, 1))
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(
            ItemAddedToCart("c1", "p2", 1, 1), latest_event_id=first.id, streams=[stream(cart_id="c1")]
        )
    assert client.save_event(CartCreated("c1", "u1"), idempotency_key="k").id == first.id
    assert [e.id for e in client.get_event_stream(cart_id="c1", final=True)] == [first.id, added.id]
    assert next(iter(follow(client, after=place))).id == added.id
    with pytest.raises(Exception, match="append-only"):
        client.db.execute_sql("DELETE FROM my_app.events")
    with client.maintenance("erasure"):
        client.db.execute_sql(
            'UPDATE my_app.events SET data = data || \'{"user_id": "erased"}\' WHERE id = %s', [first.id]
        )
    assert client.get_event_stream(CartCreated, cart_id="c1")[0].data.user_id == "erased"
