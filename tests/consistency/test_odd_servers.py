"""The promises hold on servers that are set up in unexpected ways, or the library says that it cannot keep
them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from peewee import PeeweeException
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    NotInstalledError,
    PgEventsError,
    RetryableError,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)
from pgevents.subscriptions import checkpoint, follow

from ..conftest import database, shop_client
from ..shop import CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart
from .lab import Race
from .oracle import judge
from .servers import pgbouncer, programs, run, server

MakeClient = Callable[..., EventClient]
SEQUENCE = '"my_app"."events_id_seq"'


def item(cart: str = "c1", product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


def sql(url: str, *statements: str) -> list[Any]:
    """Run statements on a connection of their own; the rows of the last."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    cursor = connection.cursor()
    for statement in statements:
        cursor.execute(statement)
    rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


@contextmanager
def shop(url: str) -> Iterator[EventClient]:
    """A client for the shop, tables made."""
    client = shop_client(database(url))
    client.create_tables()
    yield client
    client.db.close()


FINAL_OR_WRITING: dict[str, Callable[[EventClient], object]] = {
    "save": lambda client: client.save_event(item()),
    "validated save": lambda client: client.save_event_with_stream_validation(
        item(), None, stream(cart_id="new")
    ),
    "decision": lambda client: client.decide(CartProjection("c1", client), lambda cart: item()),
    "final read": lambda client: client.get_event_stream(cart_id="c1", final=True),
    "latest event": lambda client: client.get_latest_event(cart_id="c1"),
    "snapshot": lambda client: client.save_projection(CartProjection("c1", client)),
}
"""What needs to see the present, one by one."""


def assert_only_display_reads(client: EventClient) -> None:
    """Display reads answer; everything that needs the present is refused, and nothing is written."""
    before = len(client.get_event_stream())
    for name, action in FINAL_OR_WRITING.items():
        with pytest.raises(UnsupportedTransactionError):
            action(client)
            pytest.fail(f"{name} was not refused")
    assert CartProjection("c1", client).view.items
    assert client.get_latest_event(cart_id="c1", final=False) is not None
    assert len(client.get_event_stream()) == before


# -- the sequence ------------------------------------------------------------


@pytest.mark.parametrize("change", ["CACHE 10", "INCREMENT 2", "CYCLE", "INCREMENT -1 MINVALUE -100"])
def test_a_sequence_out_of_order_is_refused_when_the_client_starts(
    client: EventClient, make_client: MakeClient, change: str
) -> None:
    """Ids that come in blocks, with steps or in a circle would break the order."""
    client.save_event(item())
    client.db.execute_sql(f"ALTER SEQUENCE {SEQUENCE} {change}")
    late_comer = make_client()
    for action in (lambda: late_comer.save_event(item()), lambda: late_comer.horizon()):
        with pytest.raises(ConfigurationError, match="ALTER SEQUENCE"):
            action()


def test_a_cached_sequence_under_running_clients_is_noticed(
    client: EventClient, make_client: MakeClient
) -> None:
    """If the cache is switched on while clients run, no event gets an id below one that was given out
    before."""
    clients = [client, make_client(), make_client()]
    for one in clients:
        one.save_event(item())
    client.db.execute_sql(f"ALTER SEQUENCE {SEQUENCE} CACHE 10")
    ids, refused = [3], 0
    for number in range(30):
        try:
            ids.append(clients[number % 3].save_event(item()).id)
        except ConfigurationError:
            refused += 1
    assert ids == sorted(ids)
    assert refused > 0
    assert [event.id for event in client.get_event_stream()][2:] == ids


def test_a_sequence_that_was_set_back_is_refused_when_the_client_starts(
    client: EventClient, make_client: MakeClient
) -> None:
    """After RESTART, or a restore that forgot the sequence, the error says how to set it; then all is
    well."""
    client.save_events([item() for _ in range(20)])
    client.db.execute_sql(f"ALTER SEQUENCE {SEQUENCE} RESTART WITH 5")
    late_comer = make_client()
    with pytest.raises(ConfigurationError, match="setval") as refusal:
        late_comer.save_event(item())
    with pytest.raises(
        (PgEventsError, PeeweeException)
    ):  # a running client meets the id that is taken already
        client.save_event(item())
    client.db.execute_sql(str(refusal.value).split("set it: ")[1])
    assert late_comer.save_event(item()).id == 21
    assert client.save_event(item()).id == 22


def test_a_sequence_that_was_set_forward_is_fine(client: EventClient, make_client: MakeClient) -> None:
    """A jump of the ids, by RESTART or setval, disturbs neither clients that run nor final reads."""
    client.save_event(item())
    for jump in (f"ALTER SEQUENCE {SEQUENCE} RESTART WITH 1000", f"SELECT setval('{SEQUENCE}', 5000, false)"):
        client.db.execute_sql(jump)
        read = client.get_event_stream(cart_id="c1", final=True)
        client.save_event_with_stream_validation(item(), read)
        latest = client.get_latest_event(cart_id="c1")
        assert latest is not None
        make_client().save_event_with_stream_validation(item(), latest, stream(cart_id="c1"))
    assert [event.id for event in client.get_event_stream()] == [1, 1000, 1001, 5000, 5001]


@pytest.mark.parametrize("start", [2**31 - 30, 3 * 2**31 - 30])
@pytest.mark.parametrize("is_called", ["true", "false"])
def test_ids_beyond_the_range_of_the_published_bound_are_right(url: str, start: int, is_called: str) -> None:
    """What is published has 31 bits; where they wrap round, nothing goes wrong, not even in the first
    save."""
    race = Race("mixed", seconds=1.2)
    race.install(url)
    sql(url, f"SELECT setval('lab.events_id_seq', {start}, {is_called})")
    report = judge(url, race.shape, race.run(url, is_installed=True))
    assert report.failures == []
    assert report.anomalies == []
    assert report.counts["validated"] > 5


@pytest.mark.parametrize("start", [2**31 - 1, 2**31, 2**31 + 1, 2**33, 2**40])
def test_the_first_save_after_a_far_jump_holds_the_bound_back(
    client: EventClient, make_client: MakeClient, start: int
) -> None:
    """A save in flight just after the sequence was set far ahead keeps the horizon below itself."""
    client.save_event(item())
    client.db.execute_sql(f"ALTER SEQUENCE {SEQUENCE} RESTART WITH {start}")
    slow = make_client()
    with slow.db.atomic():
        slow.save_event(item("c1"))
        client.save_event(item("c1"))
        assert client.horizon().id == start - 1
        assert [event.id for event in client.reader.read_final([stream(cart_id="c1")])] == [1]
    assert [event.id for event in client.reader.read_final([stream(cart_id="c1")])] == [1, start, start + 1]


# -- neighbours, standbys, copies ------------------------------------------------------------


def test_a_busy_neighbour_database_with_the_same_tables_does_not_matter(
    url: str, pgevents_server: str
) -> None:
    """A copy of the database, with the same table ids, keeps all locks and an old publication: nobody here
    waits."""
    one, two = (f"{parse_dsn(url)['dbname']}_{name}" for name in ("one", "two"))
    sql(pgevents_server, f"CREATE DATABASE {one}")
    url, neighbour_url = (make_dsn(**{**parse_dsn(url), "dbname": name}) for name in (one, two))
    with shop(url) as client:
        client.save_event(item())
    sql(pgevents_server, f"CREATE DATABASE {two} TEMPLATE {one}")
    neighbour = shop_client(database(neighbour_url))
    try:
        with shop(url) as client, neighbour.db.atomic():
            neighbour.save_event_with_stream_validation(item(), neighbour.get_event_stream())
            neighbour.save_events([item(f"c{number}") for number in range(200)])
            start = time.monotonic()
            client.save_event(item())
            client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
            client.save_events([item(f"c{number}") for number in range(100)])
            assert client.get_latest_event() is not None
            assert len(client.reader.read_final([stream()])) == 103
            assert client.horizon().holders == ()
            assert time.monotonic() - start < 1
    finally:
        neighbour.db.close()
        sql(pgevents_server, f"DROP DATABASE {one} WITH (FORCE)", f"DROP DATABASE {two} WITH (FORCE)")


def test_a_standby_answers_display_reads_only() -> None:
    """A standby cannot know what is in flight on the primary: it says so, and shows what it has."""
    with server(fsync="off") as primary:
        with shop(primary.url) as client:
            client.save_event(item())
            client.save_projection(CartProjection("c1", client))
        with server(copy_of=primary, fsync="off") as standby:
            replica = shop_client(database(standby.url))
            assert_only_display_reads(replica)
            assert CartProjection("c1", replica).saved_projection is not None
            replica.db.close()


def test_a_checkpoint_from_before_a_failover_is_refused_at_once() -> None:
    """The standby has not got the last events, and gives their ids out anew. Its control file names the old
    timeline until its first checkpoint, which this one does not make."""
    with server(fsync="off", checkpoint_timeout="1h") as primary:
        with shop(primary.url) as client:
            client.save_events([item(f"c{number}") for number in range(10)])
            with server(copy_of=primary, fsync="off", checkpoint_timeout="1h") as standby:
                stop_following = "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'"
                sql(standby.url, stop_following, "SELECT pg_reload_conf()")
                time.sleep(1)
                client.save_events([item("lost") for _ in range(20)])
                last = client.get_latest_event()
                assert last is not None
                place = checkpoint(client, last.id)
                with pytest.raises(UnsupportedTransactionError, match="standby"):
                    checkpoint(shop_client(database(standby.url)), 1)
                sql(standby.url, "SELECT pg_promote()")
                promoted = shop_client(database(standby.url))
                promoted.save_events([item("new") for _ in range(60)])
                with pytest.raises(ConfigurationError, match="another timeline"):
                    next(follow(promoted, after=place))
                now = checkpoint(promoted, last.id)
                sql(standby.url, "CHECKPOINT")
                assert next(follow(promoted, after=now)).id == last.id + 1
                promoted.db.close()


@pytest.mark.long
def test_a_copy_by_logical_replication_is_no_log_until_it_is_cut_off() -> None:
    """Its rows come past locks and sequence: it is not filled while its guards stand, and refused while it is
    fed. What the errors say makes it the log."""
    table = '"my_app"."events"'
    with server(fsync="off", wal_level="logical") as old, server(fsync="off", wal_level="logical") as new:
        with shop(old.url) as client, shop(new.url) as copy:
            client.save_events([item(f"c{number}") for number in range(10)])
            sql(old.url, f"CREATE PUBLICATION log FOR TABLE {table}")
            sql(new.url, f"CREATE SUBSCRIPTION log CONNECTION '{old.url}' PUBLICATION log")
            time.sleep(1)
            assert len(copy.get_event_stream()) == 0
            sql(new.url, f"ALTER TABLE {table} DISABLE TRIGGER USER")
            end = time.monotonic() + 30
            while len(copy.get_event_stream()) < 10 and time.monotonic() < end:
                time.sleep(0.2)
            assert copy.get_event_stream()[:] == client.get_event_stream()[:]
            for name in ("save", "validated save", "decision", "final read", "latest event"):
                with pytest.raises(ConfigurationError, match="is a copy: a subscription"):
                    FINAL_OR_WRITING[name](shop_client(copy.db))
            sql(new.url, "DROP SUBSCRIPTION log")
            fresh = shop_client(copy.db)
            with pytest.raises(NotInstalledError, match="is not guarded"):
                fresh.save_event(item())
            fresh.create_tables()
            with pytest.raises(ConfigurationError, match="behind the last event 10"):
                fresh.save_event(item())
            sql(new.url, f"SELECT setval('{SEQUENCE}', 10)")
            assert fresh.save_event(item()).id == 11


def test_after_dump_and_restore_into_another_cluster_everything_goes_on() -> None:
    """pg_dump, psql, another cluster: projections, keys and the order are as they were; who holds a position
    of the former log reads again."""
    with server(fsync="off") as old, server(fsync="off") as new:
        with shop(old.url) as client:
            client.save_events([CartCreated("c1", "u1"), item(), item("c2", "p2")])
            with pytest.raises(ZeroDivisionError), client.db.atomic():
                client.save_event(item())
                raise ZeroDivisionError
            keyed = client.save_events([item(), item()], idempotency_key="k")
            client.save_projection(CartProjection("c1", client))
            position = client.get_event_stream(cart_id="c1").position
            before = (client.get_event_stream()[:], CartProjection("c1", client).as_json())
        sql(new.url, *[f"CREATE TABLE padding{number} ()" for number in range(5)])  # so that table ids differ
        script = run(programs() / "pg_dump", "-d", old.url)
        run(programs() / "psql", "-v", "ON_ERROR_STOP=1", "-q", "-d", new.url, input=script)
        moved = shop_client(database(new.url))
        assert (moved.get_event_stream()[:], CartProjection("c1", moved).as_json()) == before
        assert moved.save_events([item(), item()], idempotency_key="k") == keyed
        with pytest.raises(ConfigurationError, match="read from the events table of another database"):
            moved.save_event_with_stream_validation(item(), position)
        position = moved.get_event_stream(cart_id="c1").position
        assert moved.save_event_with_stream_validation(item(), position).id == keyed[-1].id + 1
        with pytest.raises(ConcurrencyError):
            moved.save_event_with_stream_validation(item(), position)
        assert moved.save_projection(CartProjection("c1", moved)).status == "updated"
        with pytest.raises(PeeweeException):  # the guards came along
            moved.db.execute_sql("INSERT INTO my_app.events (type, data) VALUES ('A', '{}')")
        moved.create_tables()
        assert moved.save_event(item()).id == keyed[-1].id + 2
        moved.db.close()


def test_the_laboratory_passes_through_pgbouncer(url: str) -> None:
    """In PgBouncer's transaction mode each transaction may have another server connection: the races stay
    clean."""
    race = Race("mixed", seconds=2.0)
    race.install(url)
    with pgbouncer(url) as through:
        journal = race.run(through, is_installed=True)
    report = judge(url, race.shape, journal)
    assert report.failures == []
    assert report.anomalies == []
    assert report.counts["validated"] > 5


# -- isolation, roles, transactions ------------------------------------------------------------


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
@pytest.mark.parametrize("by", ["the database", "the role", "the caller"])
def test_other_isolation_levels_are_refused(url: str, level: str, by: str) -> None:
    """A frozen snapshot cannot see what others commit: saves and final reads are refused, whoever set the
    level."""
    with shop(url) as client:
        client.save_event(item())
    name = parse_dsn(url)["dbname"]
    setting = f"SET default_transaction_isolation TO '{level}'"
    if by == "the database":
        sql(url, f"ALTER DATABASE {name} {setting}")
    elif by == "the role":
        sql(url, f"ALTER ROLE CURRENT_USER IN DATABASE {name} {setting}")
    client = shop_client(database(url))
    try:
        if by != "the caller":
            assert_only_display_reads(client)
        else:
            for action in FINAL_OR_WRITING.values():
                with pytest.raises(UnsupportedTransactionError), client.db.atomic():
                    client.db.execute_sql(f"SET TRANSACTION ISOLATION LEVEL {level}")
                    action(client)
            assert len(client.get_event_stream()) == 1
    finally:
        client.db.close()
        sql(url, f"ALTER ROLE CURRENT_USER IN DATABASE {name} RESET ALL", f"ALTER DATABASE {name} RESET ALL")


def test_read_uncommitted_is_read_committed(client: EventClient) -> None:
    """PostgreSQL treats it so, and so do we."""
    with client.db.atomic():
        client.db.execute_sql("SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED")
        client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
        assert client.get_latest_event(cart_id="c1") is not None


def test_a_prepared_transaction_holds_its_keys_also_after_a_restart() -> None:
    """Two-phase commit: until it ends, nothing at or above its events is final, and nobody can decide about
    them."""
    with server(max_prepared_transactions="5", fsync="off") as own:
        with shop(own.url) as client:
            client.save_event(item())
            client.db.begin()
            client.save_event(item())
            client.db.execute_sql("PREPARE TRANSACTION 'both'")
            client.db.execute_sql("ROLLBACK")
            client.db.connection().rollback()
        own.stop("fast")
        own.start()
        client = shop_client(database(own.url))
        client.save_event(item())
        client.save_event_with_stream_validation(item("c2", "p2"), client.get_event_stream(cart_id="c2"))
        assert [event.id for event in client.reader.read_final([stream(cart_id="c1")])] == [1]
        assert client.horizon().id == 1
        assert client.horizon().holders[0].pid is None
        client.db.execute_sql("SET lock_timeout = '300ms'")
        with pytest.raises(RetryableError):
            client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
        client.db.execute_sql("COMMIT PREPARED 'both'")
        assert [event.id for event in client.reader.read_final([stream(cart_id="c1")])] == [1, 2, 3]
        client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
        client.db.close()


def test_autocommit_switched_off_is_refused(client: EventClient) -> None:
    """Nobody would commit, so nothing is saved and the error says so."""
    client.save_event(item())
    client.db.connection().autocommit = False
    for action in (lambda: client.save_event(item()), lambda: client.get_latest_event(cart_id="c1")):
        with pytest.raises(UnsupportedTransactionError, match="autocommit"):
            action()
    client.db.connection().rollback()
    client.db.connection().autocommit = True
    assert len(client.get_event_stream()) == 1


def test_a_validated_save_in_a_rolled_back_savepoint_leaves_nothing(
    client: EventClient, make_client: MakeClient
) -> None:
    """Neither its event nor its locks: the same position is good again, for anybody."""
    other = make_client()
    read = client.get_event_stream(cart_id="c1")
    with client.db.atomic():
        with client.db.atomic() as savepoint:
            client.save_event_with_stream_validation(item(), read)
            savepoint.rollback()
        other.save_event_with_stream_validation(item(), read)
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(item(), read)
        client.save_event(item())
    assert len(client.get_event_stream(cart_id="c1")) == 2


def test_a_position_read_in_a_rolled_back_savepoint_is_refused(
    client: EventClient, make_client: MakeClient
) -> None:
    """Even if meanwhile as many others stand there as were rolled back."""
    other = make_client()
    with client.db.atomic():
        with client.db.atomic() as savepoint:
            client.save_event(item())
            read = client.get_event_stream(cart_id="c1")
            savepoint.rollback()
        other.save_event(item())
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(item(), read)


def test_nested_transactions_commit_together(client: EventClient, make_client: MakeClient) -> None:
    """Validated saves in nested blocks see each other, are one commit, and hold the horizon until then."""
    other = make_client()
    with client.db.atomic():
        client.save_event(item())
        with client.db.atomic():
            client.save_event_with_stream_validation(item(), client.get_event_stream(cart_id="c1"))
            with client.db.atomic():
                client.decide(
                    CartProjection("c1", client), lambda cart: item() if len(cart.items) == 2 else None
                )
        assert other.horizon().id == 0
        assert len(other.get_event_stream()) == 0
    assert other.horizon().id == 3
    assert len(other.reader.read_final([stream()])) == 3


def test_a_change_of_the_data_indexes_waits_for_writers_and_turns_away_none_wrongly(url: str) -> None:
    """While writers are at it, the functions are replaced for other data indexes, again and again: no
    decision is wrong."""
    from pgevents import (
        create_event_client,
        create_events_table,
    )

    race = Race("one key", seconds=2.5, pause=0, followers=False)
    race.install(url)
    stop = threading.Event()

    def change() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            fields = ["k", "g", "tenant"] if number % 2 else ["tenant", "k", "g"]
            events = create_events_table(schema="lab", name="events", data_indexes=fields)
            own = create_event_client(
                database(url), events, create_projections_table(schema="lab", name="views"), ()
            )
            own.create_tables()
            own.db.close()
            time.sleep(0.1)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        journal = race.run(url, is_installed=True)
    finally:
        stop.set()
        changer.join()
    report = judge(url, race.shape, journal)
    assert report.anomalies == []
    assert all("create_tables" in failure for failure in report.failures), report.failures


def test_a_decision_is_right_though_the_data_indexes_change_while_it_is_made(
    client: EventClient, url: str
) -> None:
    """The locks that it took are not those that others take now: what it read is checked all the same."""

    def decide(cart: CartView) -> ItemAddedToCart:
        events = create_events_table(schema="my_app", name="events", data_indexes=["product_id"])
        other = create_event_client(database(url), events, client.projections, CartEvent)
        other.create_tables()
        other.save_event(item("c1", "p2"))
        other.db.close()
        client.db.bind([client.projections])
        client.db.execute_sql(
            "CREATE TEMPORARY TABLE any_new_lock ()"
        )  # makes this backend hear of the change
        return item("c1", "p1")

    with pytest.raises(RetryableError), client.db.atomic():
        client.decide(CartProjection("c1", client), decide)
    assert len(client.get_event_stream(cart_id="c1")) == 1


@pytest.mark.parametrize("kind", ["final read", "snapshot", "tail"])
def test_a_final_part_read_in_a_rolled_back_savepoint_is_refused(client: EventClient, kind: str) -> None:
    """What a transaction sees of itself is final for itself only as long as it stands."""
    with client.db.atomic():
        client.save_event(item("other"))
        with client.db.atomic() as savepoint:
            client.save_event(item())
            if kind == "final read":
                position = client.get_event_stream(cart_id="c1", final=True).position
            elif kind == "snapshot":
                client.save_projection(CartProjection("c1", client))
                position = CartProjection("c1", client).position
            else:
                base = client.get_event_stream(cart_id="c1", final=True).position.base
                position = client.get_event_stream(cart_id="c1", after=base).position
            savepoint.rollback()
        with pytest.raises(ConcurrencyError):
            client.save_event_with_stream_validation(item(), position)
        read = client.get_event_stream(cart_id="c1", final=True)
        client.save_event_with_stream_validation(item(), read)
