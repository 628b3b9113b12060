"""The way down: what was made can be dropped again, all of it and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConfigurationError,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    many,
    stream,
)
from pgevents.subscriptions import Subscription

from .test_fields import pgevents  # noqa: F401  (a fixture)

CATALOGS_SQL = """\
SELECT 'relation', n.nspname || '.' || c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
UNION ALL SELECT 'function', n.nspname || '.' || p.proname
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
UNION ALL SELECT 'type', n.nspname || '.' || t.typname
FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace
UNION ALL SELECT 'trigger', tgname FROM pg_trigger
UNION ALL SELECT 'constraint', conname FROM pg_constraint
UNION ALL SELECT 'schema', nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'
UNION ALL SELECT 'comment', description FROM pg_description
ORDER BY 1, 2
"""


def catalogs(db: PostgresqlDatabase) -> list[Any]:
    """All that stands in the catalogs, without the parts that PostgreSQL makes for large values."""
    return [row for row in db.execute_sql(CATALOGS_SQL).fetchall() if "pg_toast" not in row[1]]


def client_of(db: PostgresqlDatabase, schema: str | None) -> EventClient:
    events = create_events_table(schema=schema, data_indexes=["cart_id", many("product_ids")])
    views = create_projections_table(schema=schema, data_indexes=["user_id"])
    return create_event_client(db, events, views, ())


@pytest.mark.parametrize("schema", ["shop", None])
def test_up_down_and_up_again(db: PostgresqlDatabase, schema: str | None) -> None:
    """With events, a subscription and a snapshot's table in it, nothing is left; and it works once more."""
    before = catalogs(db)
    for _ in range(2):
        client = client_of(db, schema)
        db.execute_sql(client.create_tables_sql())
        made = catalogs(db)
        client.create_tables()
        assert catalogs(db) == made  # what the SQL makes is all that create_tables() wants
        client.save_event({"type": "A", "data": {"cart_id": "c1", "product_ids": ["p1", "p2"]}})
        Subscription(client, "reader", [stream()]).process(print)
        assert len(client.get_event_stream(product_ids="p1")) == 1
        db.execute_sql(client.create_tables_sql(down=True))
        assert catalogs(db) == before
    db.execute_sql(
        client_of(db, schema).create_tables_sql(down=True)
    )  # what is not there can be dropped, too
    assert catalogs(db) == before


def test_what_is_not_ours_stays(db: PostgresqlDatabase) -> None:
    """A table in the same schema, and another log beside it."""
    client = client_of(db, "shop")
    db.execute_sql("CREATE SCHEMA shop; CREATE TABLE shop.customers (id int)")
    other = create_events_table(schema="shop", name="events_more")
    beside = create_event_client(db, other, create_projections_table(schema="shop", name="views"), ())
    beside.create_tables()
    before = catalogs(db)
    client.create_tables()
    db.execute_sql(client.create_tables_sql(down=True))
    assert catalogs(db) == before
    beside.save_event({"type": "A", "data": {}})


def test_down_is_a_flag(db: PostgresqlDatabase) -> None:
    """Anything else is refused."""
    with pytest.raises(ConfigurationError, match="down is True or False"):
        client_of(db, "shop").create_tables_sql(down="yes")  # type: ignore[arg-type]


def test_the_command_line_prints_both_ways(db: PostgresqlDatabase, pgevents: Any, tmp_path: Any) -> None:  # noqa: F811
    """Also what an import has noted is dropped; a way down is only ever printed."""
    before = catalogs(db)
    options = ("--events", "shop.events", "--index", "cart_id", "--index", "product_ids[]")
    db.execute_sql(pgevents("init", "--sql", *options))
    lines = tmp_path / "log.jsonl"
    lines.write_text('{"type": "A", "data": {"cart_id": "c1", "product_ids": ["p1"]}}\n')
    pgevents("import", str(lines))
    assert "A" in pgevents("stream", "product_ids=p1")
    assert "give --sql" in pgevents("init", "--down", *options)
    assert "leave out --sql" in pgevents("init", "--sql", "--writer", "me", *options)
    db.execute_sql(pgevents("init", "--sql", "--down", *options))
    assert catalogs(db) == before
