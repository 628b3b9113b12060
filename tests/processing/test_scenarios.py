"""What happens to a living system: restarts, rolling deployments, writers that hang, old snapshots.

The long forms run with `pytest -m soak tests/processing`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import psycopg2
import pytest

from pgevents import Event, EventClient, stream
from pgevents.errors import PgEventsError, WaitError
from pgevents.subscriptions import discard, overview, parked, rename, replay, retry, subscription

from ..conftest import database, shop_client
from ..consistency.servers import Server, pgbouncer, server
from ..test_subscriptions_runner import running, until
from .lab import Race, run

Make = Callable[..., EventClient]
TYPES = ("A", "B")
PATIENT = retry(9, delay=0.05)


def writer(client: EventClient, name: str = "writer", types: Any = TYPES, **options: Any) -> Any:
    """A subscription that notes what it was given, in the order of the writes."""

    @subscription(name, stream(types), **{"key": "cart_id", "lanes": 4, "on_error": retry(1), **options})
    def write(event: Event[Any]) -> None:
        if event.data.get("fails"):
            raise ValueError("not yet")
        row = [event.id, event.data["cart_id"]]
        client.db.execute_sql("INSERT INTO handled (event_id, key) VALUES (%s, %s)", row)

    return write


def prepare(client: EventClient) -> None:
    client.create_tables()
    client.db.execute_sql("CREATE TABLE handled (n bigserial, event_id bigint, key text)")


def an_event(n: int, kind: str = "A", keys: int = 5) -> dict[str, Any]:
    return {"type": kind, "data": {"cart_id": f"k{n % keys}"}}


def check_handled(client: EventClient) -> int:
    """That each event was handled once, in order within its key; how many."""
    rows = client.db.execute_sql("SELECT event_id, key FROM handled ORDER BY n").fetchall()
    log = [row[0] for row in client.db.execute_sql("SELECT id FROM my_app.events ORDER BY id").fetchall()]
    assert sorted(row[0] for row in rows) == log
    newest: dict[str, int] = {}
    for event_id, key in rows:
        assert event_id > newest.get(key, 0), f"{event_id} after {newest[key]} of {key}"
        newest[key] = event_id
    return len(log)


def wait(client: EventClient, name: str = "writer", seconds: float = 30.0) -> None:
    (last,) = client.db.execute_sql("SELECT max(id) FROM my_app.events").fetchone()
    try:
        client.wait(name, last, timeout=seconds)
    except WaitError as error:
        raise AssertionError(parked(client, name)) from error


@contextmanager
def saving(client: EventClient, kinds: tuple[str, ...] = ("A",), pause: float = 0.005) -> Iterator[None]:
    """Somebody saves all the while, whatever becomes of the server."""
    stop = threading.Event()

    def save() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            try:
                client.save_event(an_event(n, kinds[n % len(kinds)]), idempotency_key=f"{kinds}{n}")
            except PgEventsError:
                n -= 1
                stop.wait(0.05)
            stop.wait(pause)
        client.db.close()

    thread = threading.Thread(target=save)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)


# -- restarts -------------------------------------------------------------------------------


def restarts(made: Server, count: int, seconds: float) -> None:
    direct = shop_client(database(made.url), ())
    prepare(direct)
    direct.db.close()
    with pgbouncer(made.url) as through:
        saver, worker = shop_client(database(through), ()), shop_client(database(through), ())
        with running(worker, writer(worker, on_error=PATIENT), workers=2), saving(saver):
            for number in range(count):
                time.sleep(seconds)
                made.stop("immediate" if number % 2 == 0 else "fast")
                made.start()
            time.sleep(seconds)
        with running(worker, writer(worker, on_error=PATIENT), workers=2):
            wait(direct, seconds=60)
    assert check_handled(direct) > count
    assert parked(direct, "writer") == []
    direct.db.close()


@pytest.mark.long
def test_a_server_that_is_restarted_behind_pgbouncer_is_not_noticed() -> None:
    """The worker lives on, and each event is handled once."""
    with server(fsync="off") as made:
        restarts(made, 1, 0.7)


@pytest.mark.soak
def test_a_server_that_is_restarted_again_and_again() -> None:
    """Twenty times, at any moment."""
    with server() as made:
        restarts(made, 20, 1.3)


# -- deployments ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["old first", "new first"])
def test_a_question_is_widened_while_old_and_new_programs_run(
    client: EventClient, make_client: Make, order: str
) -> None:
    """Whichever of them begins; the old ones stand by, and nothing is missing or doubled."""
    client.db.execute_sql("CREATE TABLE handled (n bigserial, event_id bigint, key text)")
    old, new, saver = make_client(event_types=()), make_client(event_types=()), make_client(event_types=())
    first, second = (writer(old, types="A"), old), (writer(new), new)
    if order == "new first":
        first, second = second, first
    with running(first[1], first[0], workers=2), saving(saver):
        time.sleep(0.3)
        with running(second[1], second[0], workers=2):
            time.sleep(0.3)
            with saving(make_client(event_types=()), kinds=("B",)):  # its keys are others: see an_event
                time.sleep(0.3)
            wait(client)
    with running(new, second[0] if order == "old first" else first[0]):
        wait(client)
    assert check_handled(client) > 20


def test_a_subscription_is_renamed_while_an_old_program_runs(client: EventClient, make_client: Make) -> None:
    """What runs under the old name has nothing to do any more; the new name goes on from its place."""
    client.db.execute_sql("CREATE TABLE handled (n bigserial, event_id bigint, key text)")
    old, new, saver = make_client(event_types=()), make_client(event_types=()), make_client(event_types=())
    with running(old, writer(old), workers=2), saving(saver):
        time.sleep(0.3)
        rename(client, "writer", "author")
        with running(new, writer(new, "author"), workers=2):
            time.sleep(0.3)
            wait(client, "author")
    with running(new, writer(new, "author")):
        wait(client, "author")
    assert check_handled(client) > 20
    assert [one.name for one in overview(client)] == ["author"]


# -- writers and readers that hold things back ----------------------------------------------


def test_a_writer_that_hangs_holds_back_what_comes_after_it(client: EventClient, make_client: Make) -> None:
    """Nothing is given before its time; when the writer is gone it all comes, in order."""
    client.db.execute_sql("CREATE TABLE handled (n bigserial, event_id bigint, key text)")
    worker, stuck = make_client(event_types=()), make_client(event_types=())
    with running(worker, writer(worker)):
        for ends in (lambda: stuck.db.commit(), lambda: cut_off(client, stuck)):
            stuck.db.begin()
            held = stuck.save_event(an_event(1)).id
            with saving(make_client(event_types=())):
                time.sleep(0.2)
            reached = client.db.execute_sql("SELECT max(event_id) FROM handled").fetchone()[0] or 0
            assert reached < held
            ends()
            wait(client)
    assert check_handled(client) > 10


def cut_off(client: EventClient, stuck: EventClient) -> None:
    (pid,) = stuck.db.execute_sql("SELECT pg_backend_pid()").fetchone()
    client.db.execute_sql("SELECT pg_terminate_backend(%s, 5000)", [pid])


def old_snapshot(url: str, race: Race) -> list[str]:
    """A race while somebody holds a snapshot of before."""
    reader: Any = psycopg2.connect(url)
    reader.set_session(isolation_level="REPEATABLE READ")
    reader.cursor().execute("SELECT 1")
    try:
        return run(url, race)
    finally:
        reader.close()


QUIET = Race(subscriptions=("keyed",), seconds=1.0, rate=100, kills=0, changes=0, deaths=0, patience=60)


def test_an_old_snapshot_changes_nothing(url: str) -> None:
    """Places grow old versions meanwhile, and are right."""
    assert old_snapshot(url, QUIET) == []


@pytest.mark.soak
def test_an_old_snapshot_for_long(url: str) -> None:
    """With kills and changes."""
    assert old_snapshot(url, attrs.evolve(QUIET, seconds=60, kills=1, changes=1, patience=240)) == []


@pytest.mark.soak
def test_ten_thousand_events_of_one_key_are_replayed_against_the_live_flow(
    client: EventClient, make_client: Make
) -> None:
    """The key's order holds, and the other keys do not wait."""
    client.db.execute_sql("CREATE TABLE handled (n bigserial, event_id bigint, key text)")
    worker, saver = make_client(event_types=()), make_client(event_types=())
    broken = {"type": "A", "data": {"cart_id": "k1", "fails": True}}
    client.save_event(broken)
    with running(worker, writer(worker), workers=2):
        until(lambda: len(parked(client, "writer")) == 1)
        for _ in range(100):
            client.save_events([{"type": "A", "data": {"cart_id": "k1"}} for _ in range(100)])
        until(lambda: len(parked(client, "writer", limit=20_000)) == 10_001, 120)
        with saving(saver):
            replay(client, "writer")
            until(lambda: [one.state for one in parked(client, "writer", limit=1)] == ["parked"], 30)
    # The first one fails for good: it is discarded, and the others go on.
    discard(client, "writer", 1, "broken for good")
    with running(worker, writer(worker), workers=2), saving(saver):
        until(lambda: not parked(client, "writer", limit=1), 240)
    with running(worker, writer(worker)):
        wait(client)
    client.db.execute_sql("INSERT INTO handled VALUES (0, 1, 'discarded')")
    assert check_handled(client) > 10_001
