"""A log goes on after a change of the server's major version, by dump and restore and by pg_upgrade."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import attrs
import pytest

from pgevents import ConfigurationError, Event, EventClient, ScheduledTimer
from pgevents.diagnosis import diagnose
from pgevents.subscriptions import ParkedEvent, checkpoint, follow, keep, parked, replay, retry, subscription
from pgevents.testing import Clock, drain

from ..conftest import database, shop_client
from ..shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart
from .servers import Server, programs_of, run, server

pytestmark = pytest.mark.long
CARTS = [f"c{number}" for number in range(6)]
BROKEN = "c1"
BURN_SQL = """\
CREATE TABLE burned (n integer);
DO $$ BEGIN
    FOR n IN 1..20000 LOOP
        BEGIN
            INSERT INTO burned VALUES (n);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END LOOP;
END $$;
"""


def dump_and_restore(old: Server, new: Server) -> None:
    """By the newer version's programs, as PostgreSQL advises."""
    script = run(new.programs / "pg_dump", "-d", old.url)
    run(new.programs / "psql", "-v", "ON_ERROR_STOP=1", "-q", "-d", new.url, input=script)


def upgrade(old: Server, new: Server) -> None:
    old.stop("fast")
    new.stop("fast")
    folders = ("-b", old.programs, "-B", new.programs, "-d", old.data, "-D", new.data, "-s", new.folder)
    run(new.programs / "pg_upgrade", *folders, "-U", "postgres", "-N", cwd=new.folder)
    new.start()


WAYS = {"dump": dump_and_restore, "pg_upgrade": upgrade}


@attrs.define
class Writer:
    """A subscription that writes each event into a table of the database, and fails at one cart's."""

    client: EventClient
    is_broken: bool = True

    def handle(self, event: Event[ItemAddedToCart]) -> None:
        if self.is_broken and event.data.cart_id == BROKEN:
            raise ValueError("broken")
        values = [event.id, event.data.cart_id]
        self.client.db.execute_sql("INSERT INTO written (event_id, cart) VALUES (%s, %s)", values)

    def written(self) -> list[int]:
        rows = self.client.db.execute_sql("SELECT event_id FROM written ORDER BY number").fetchall()
        return [row[0] for row in rows]


@attrs.frozen
class Held:
    """What programs hold of the log before the change, and what its tables say."""

    log: list[Event[Any]]
    keyed: list[Event[Any]]
    position: Any
    pickled: bytes
    place: str
    bookmark: str
    parked: list[ParkedEvent]
    timers: list[ScheduledTimer]
    written: list[int]


def items() -> list[CartEvent]:
    return [ItemAddedToCart(cart, f"p{number}", 1, 100) for number in range(2) for cart in CARTS]


def fill(client: EventClient, writer: Writer, works: list[Any]) -> Held:
    """Subscriptions half way, events parked and queued behind them, timers due and not yet due."""
    client.db.execute_sql(BURN_SQL)
    client.create_tables()
    client.db.execute_sql("CREATE TABLE written (number serial, event_id bigint PRIMARY KEY, cart text)")
    client.save_events([CartCreated(cart, "u1") for cart in CARTS])
    client.save_events(items())
    drain(client, works)
    client.schedule(CartCreated("due", "u1"), after=timedelta(0), key="due")
    client.schedule(CartCreated("later", "u1"), after=timedelta(hours=1), key="later")
    client.save_events(items())
    keyed = client.save_events([ItemAddedToCart("c2", "p9", 3, 50)], idempotency_key="k")
    position = client.get_event_stream(cart_id="c2").position
    assert [row.state for row in parked(client, "writer")] == ["parked", "queued"]
    return Held(
        client.get_event_stream()[:],
        list(keyed),
        position,
        pickle.dumps(position),
        checkpoint(client, 10),
        client.bookmark(),
        parked(client, "writer"),
        client.scheduled(),
        writer.written(),
    )


def faults(client: EventClient) -> list[str]:
    return [finding.what for finding in diagnose(client) if finding.level == "fault"]


def check_held(client: EventClient, held: Held, writer: Writer) -> None:
    """What stands in the database is as it was; what programs hold outside goes on, or is refused."""
    assert client.get_event_stream()[:] == held.log
    assert list(client.save_events([ItemAddedToCart("c2", "p9", 3, 50)], idempotency_key="k")) == held.keyed
    assert (parked(client, "writer"), client.scheduled()) == (held.parked, held.timers)
    assert writer.written() == held.written
    assert client.query_projections(CartProjection).position < held.log[-1].id
    item = ItemAddedToCart("c2", "p1", 1, 1)
    with pytest.raises(ConfigurationError, match="read from the events table of another database"):
        client.save_event_with_stream_validation(item, pickle.loads(held.pickled))
    with pytest.raises(ConfigurationError, match="of another database|whose server does not answer"):
        client.save_event_with_stream_validation(item, held.position)
    with pytest.raises(ConfigurationError, match="comes from another log or another timeline"):
        next(iter(follow(client, after=held.place)))
    with client.reading_after(held.bookmark):
        assert client.get_event_stream(final=False)[:] == held.log
    position = client.get_event_stream(cart_id="c2").position
    saved = client.save_event_with_stream_validation(item, position)
    assert saved.id > held.log[-1].id


def check_going_on(client: EventClient, writer: Writer, works: list[Any]) -> None:
    """Subscriptions, timers and views go on from where they stood."""
    clock = Clock(client)
    drain(client, works)
    assert [timer.key for timer in client.scheduled()] == ["later"]
    clock.advance(timedelta(hours=2))
    writer.is_broken = False
    replay(client, "writer")
    drain(client, works)
    assert (client.scheduled(), parked(client, "writer")) == ([], [])
    added = client.get_event_stream(ItemAddedToCart)[:]
    written = writer.written()
    assert sorted(written) == [event.id for event in added]
    for cart in CARTS:
        ids = [event.id for event in added if event.data.cart_id == cart]
        assert [event_id for event_id in written if event_id in ids] == ids
    created = [event.data.cart_id for event in client.get_event_stream(CartCreated)]
    assert created == [*CARTS, "due", "later"]
    views = {view.id: view for view in client.query_projections(CartProjection)}
    assert set(views) == set(created)
    for cart in created:
        assert views[cart].data == CartProjection(cart, client, load_existing_projection=False).view


@pytest.mark.parametrize("versions", [(15, 18), (16, 18)], ids=["15 to 18", "16 to 18"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_log_goes_on_under_a_newer_server(
    way: Callable[[Server, Server], None], versions: tuple[int, int]
) -> None:
    """Subscriptions half way, parked events, timers and kept views go on; places held outside are refused
    with words; `doctor` finds no fault, before and after `create_tables()`."""
    old_version, new_version = versions
    programs_of(new_version)
    with (
        server(version=old_version, checksums=True) as old,
        server(version=new_version, checksums=True) as new,
    ):
        client = shop_client(database(old.url))
        writer = Writer(client)
        works = [
            subscription("writer", ItemAddedToCart, key="cart_id", lanes=4, on_error=retry(1))(writer.handle),
            keep(CartProjection),
        ]
        held = fill(client, writer, works)
        assert faults(client) == []
        client.db.close()
        way(old, new)
        moved = writer.client = shop_client(database(new.url))
        assert moved.db.execute_sql("SHOW server_version").fetchone()[0].startswith(f"{new_version}.")
        assert faults(moved) == []
        check_held(moved, held, writer)
        moved.create_tables()
        check_going_on(moved, writer, works)
        assert faults(moved) == []
        moved.db.close()
