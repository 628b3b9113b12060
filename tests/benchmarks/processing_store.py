"""The log that subscriptions are measured on."""

from __future__ import annotations

from pgevents import EventClient, create_event_client, create_events_table, create_projections_table, event


@event("BENCH_ADDED")
class Added:
    cart_id: str
    n: int
    at: float


def client_of(url: str) -> EventClient:
    events = create_events_table("bench", data_indexes=["cart_id"])
    return create_event_client(url, events, create_projections_table("bench", "views"), Added)


def fresh(url: str) -> EventClient:
    client = client_of(url)
    client.db.execute_sql("DROP SCHEMA IF EXISTS bench CASCADE")
    client.create_tables()
    client.db.execute_sql(
        "CREATE TABLE bench.out (event_id bigint, cart text, lag float8, at float8, pid int DEFAULT "
        "pg_backend_pid())"
    )
    client.db.execute_sql("CREATE TABLE bench.totals (name text PRIMARY KEY, n bigint)")
    return client


def fill(client: EventClient, count: int) -> None:
    for start in range(0, count, 1000):
        client.save_events([Added(f"c{n % 200}", n, 0.0) for n in range(start, min(start + 1000, count))])
    client.db.execute_sql("ANALYZE bench.events")
