"""Tenants on several servers: a client for each, and moves that lose nothing, whoever is killed and when."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import psycopg2
import pytest
from click.testing import CliRunner
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseUnavailableError,
    EventClient,
    InvalidValueError,
    MovedError,
    NotInstalledError,
    RetryableError,
    TenantsError,
    create_events_table,
    create_projections_table,
    event,
    many,
    stream,
)
from pgevents.cli.commands import cli
from pgevents.subscriptions import Runner, checkpoint, follow, subscription
from pgevents.tenants import Tenants
from pgevents.tenants.moving import Mover, Recovery
from pgevents.testing import drain

from .conftest import database


@event
class ItemAdded:
    cart_id: str
    tags: list[str] = attrs.field(factory=list)


@attrs.define
class Place:
    """A directory and two nodes, each a database of its own on the suite's server."""

    urls: dict[str, str]
    opened: list[PostgresqlDatabase] = attrs.field(factory=list)

    def tenants(self, **options: Any) -> Tenants:
        dbs = {name: database(url) for name, url in self.urls.items()}
        self.opened += dbs.values()
        return Tenants(
            dbs.pop("directory"),
            dbs,
            create_events_table(data_indexes=["cart_id", many("tags")]),
            create_projections_table(),
            [ItemAdded],
            **options,
        )

    def sql(self, node: str, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(self.urls[node])
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, params)
            rows = cursor.fetchall() if cursor.description else []
        connection.close()
        return rows


@pytest.fixture
def place(url: str) -> Iterator[Place]:
    base = psycopg2.extensions.parse_dsn(url)
    made = Place({})
    connection = psycopg2.connect(url)
    connection.autocommit = True
    for node in ("directory", "n1", "n2"):
        name = f"{base['dbname']}_{node}"
        connection.cursor().execute(f'CREATE DATABASE "{name}"')
        made.urls[node] = psycopg2.extensions.make_dsn(**{**base, "dbname": name})
    yield made
    for db in made.opened:
        db.close()
    for made_url in made.urls.values():
        name = psycopg2.extensions.parse_dsn(made_url)["dbname"]
        connection.cursor().execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    connection.close()


@pytest.fixture
def tenants(place: Place) -> Tenants:
    made = place.tenants()
    made.create_tables()
    made.add("acme", "n1")
    return made


def test_each_tenant_is_a_log_of_its_own(tenants: Tenants) -> None:
    """Added to the server with the fewest, found by its name; the same client until it moves."""
    assert tenants.add("beta").node == "n2"
    assert tenants.add("acme", "n2").node == "n1"
    tenants.client("acme").save_event(ItemAdded("c1"))
    assert tenants.client("acme") is tenants.client("acme")
    assert len(tenants.client("beta").get_event_stream(ItemAdded)) == 0
    assert [(t.name, t.node) for t in tenants.list()] == [("acme", "n1"), ("beta", "n2")]
    assert tenants.each(lambda client: len(client.get_event_stream(ItemAdded))) == {"acme": 1, "beta": 0}


@pytest.mark.parametrize(
    "name", ["", "Acme", "1a", "a-b", "a" * 49, "pg_a", "moved_1", "public", 'a"b', None]
)
def test_a_name_that_no_schema_can_have_is_refused(tenants: Tenants, name: Any) -> None:
    for call in (tenants.add, tenants.client, tenants.recover):
        with pytest.raises(InvalidValueError, match="a tenant's name"):
            call(name)


def test_what_is_not_there_is_refused(place: Place, tenants: Tenants) -> None:
    with pytest.raises(InvalidValueError, match="no tenant 'beta'"):
        tenants.client("beta")
    with pytest.raises(InvalidValueError, match="no node 'n3'"):
        tenants.add("beta", "n3")
    with pytest.raises(InvalidValueError, match="no node 'n3'"):
        tenants.move("acme", to="n3")
    with pytest.raises(ConfigurationError, match="lives on 'n1' already"):
        tenants.move("acme", to="n1")
    with pytest.raises(ConfigurationError, match="names the schema"):
        Tenants(
            place.urls["n1"],
            {"n1": database(place.urls["n1"])},
            create_events_table("x"),
            create_projections_table(),
        )
    place.sql("n2", 'CREATE SCHEMA "acme"')
    with pytest.raises(ConfigurationError, match="has a schema 'acme' already"):
        tenants.move("acme", to="n2")
    assert tenants.recover("acme") is None


def test_one_that_fails_does_not_keep_the_others_from_it(tenants: Tenants) -> None:
    tenants.add("beta", "n2")

    def work(client: EventClient) -> str:
        if client.events.pgevents_spec.schema == "acme":
            raise ValueError("no")
        return "done"

    with pytest.raises(TenantsError, match="1 of 2 tenants .acme: ValueError: no.") as caught:
        tenants.each(work)
    assert caught.value.results == {"beta": "done"}
    assert isinstance(caught.value.errors["acme"], ValueError)


def test_a_tenant_moves_with_all_that_it_has(place: Place, tenants: Tenants) -> None:
    """Events, values of lists, ids, keys and places; the client of the former place says where to go."""
    old = tenants.client("acme")
    saved = [
        old.save_event(ItemAdded(f"c{n % 3}", ["x", f"t{n}"]), idempotency_key=f"k{n}") for n in range(50)
    ]
    seen: list[int] = []

    @subscription("seen", stream(ItemAdded))
    def handler(one: Any, client: EventClient) -> None:
        seen.append(one.id)

    drain(old, [handler])
    place_of_follower = checkpoint(old, saved[9].id)
    moved = tenants.move("acme", to="n2")
    assert (moved.rows["events"], moved.rows["events_lists"]) == (50, 100)
    assert place.sql("n1", "SELECT nspname FROM pg_namespace WHERE nspname ~ 'acme|moved'") == []
    with pytest.raises(MovedError, match=r"lives on 'n2' now.*tenants.client\('acme'\)") as caught:
        old.save_event(ItemAdded("c1"))
    assert (caught.value.tenant, caught.value.node) == ("acme", "n2")
    with pytest.raises(MovedError):
        old.get_event_stream(ItemAdded)

    new = tenants.client("acme")
    assert [e.id for e in new.get_event_stream(ItemAdded, tags="x")] == [e.id for e in saved]
    assert new.save_event(ItemAdded("c0", ["x", "t0"]), idempotency_key="k0").id == saved[0].id
    assert new.save_event(ItemAdded("c1")).id == saved[-1].id + 1
    drain(new, [handler])
    assert seen == [e.id for e in saved] + [saved[-1].id + 1]
    stop = threading.Event()
    for found in follow(new, after=place_of_follower, stop=stop):  # a place kept outside counts here, too
        assert found.id == saved[10].id
        stop.set()
    tenants.move("acme", to="n1")
    assert old.save_event(ItemAdded("c1")).id == saved[-1].id + 2
    assert next(iter(follow(old, after=place_of_follower))).id == saved[10].id


def test_timers_move_along_and_fire_once_at_the_new_place(place: Place, tenants: Tenants) -> None:
    """One that is due, and one that is not; nobody schedules at the former place any more."""
    old = tenants.client("acme")
    old.schedule(ItemAdded("due"), after=timedelta(0), key="due")
    old.schedule(ItemAdded("late"), after=timedelta(days=1), key="late")
    tenants.move("acme", to="n2")
    with pytest.raises(MovedError):
        old.schedule(ItemAdded("c1"), after=timedelta(0))
    new = tenants.client("acme")
    assert [timer.key for timer in new.scheduled()] == ["due", "late"]
    for _ in range(2):
        drain(new, [])
    assert [saved.data.cart_id for saved in new.get_event_stream(ItemAdded)] == ["due"]
    assert (new.unschedule("due"), new.unschedule("late")) == ("fired", "cancelled")


def test_a_block_is_repeated_at_the_new_place(tenants: Tenants) -> None:
    """The transaction of a block that the move cut off is not there; the block runs again."""
    calls: list[str | None] = []

    def work(client: EventClient) -> int:
        calls.append(str(client.db.database))
        if len(calls) == 1:
            client.save_event(ItemAdded("c0"))
            mover = threading.Thread(target=tenants.move, args=("acme",), kwargs={"to": "n2"})
            mover.start()
            mover.join()
        return client.save_event(ItemAdded("c1")).id

    assert tenants.run("acme", work) == 2
    assert len(calls) == 2
    tenants.retry_for = 0
    stale = tenants.client("acme")
    tenants.move("acme", to="n1")

    def stubborn(client: EventClient) -> Any:
        return stale.save_event(ItemAdded("c1"))

    with pytest.raises(MovedError):
        tenants.run("acme", stubborn)


def test_a_runner_ends_where_its_tenant_has_moved_away(tenants: Tenants) -> None:
    """It would look for tables that are elsewhere; whoever runs it takes a new client."""

    @subscription("s", stream(ItemAdded))
    def handler(one: Any, client: EventClient) -> None: ...

    runner = Runner(tenants.client("acme"), [handler])
    ended: list[BaseException] = []

    def run() -> None:
        try:
            runner.run()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert runner.wait_until_ready(10)
    tenants.move("acme", to="n2")
    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1 and isinstance(ended[0], MovedError)


def test_what_is_made_nowhere_else_does_not_stay_behind(place: Place, tenants: Tenants) -> None:
    """A table of the program's own moves along if it is made at the target; else the move is refused."""
    place.sql(
        "n1",
        "CREATE TABLE acme.totals (cart text PRIMARY KEY, n serial); INSERT INTO acme.totals VALUES ('c1')",
    )
    tenants.client("acme").save_event(ItemAdded("c1"))
    with pytest.raises(ConfigurationError, match=r"holds the table 'totals'.*prepare="):
        tenants.move("acme", to="n2")
    assert place.sql("n2", "SELECT 1 FROM pg_namespace WHERE nspname = 'acme'") == []
    assert tenants.client("acme").save_event(ItemAdded("c1")).id == 2

    def prepare(client: EventClient) -> None:
        client.db.execute_sql("CREATE TABLE IF NOT EXISTS acme.totals (n serial, cart text PRIMARY KEY)")

    place.tenants(prepare=prepare).move("acme", to="n2")
    assert place.sql("n2", "SELECT cart, n FROM acme.totals") == [("c1", 1)]
    assert place.sql("n2", "SELECT nextval('acme.totals_n_seq')") == [(2,)]
    place.sql("n2", "ALTER TABLE acme.totals ADD FOREIGN KEY (n) REFERENCES acme.events (id)")
    with pytest.raises(ConfigurationError, match="foreign key"):
        place.tenants(prepare=prepare).move("acme", to="n1")


CITUS = "SET allow_system_table_mods = on; CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass)"
"""Where Citus notes the tables that it has distributed. No package registry has Citus itself."""


def test_a_distributed_table_is_refused(place: Place, tenants: Tenants) -> None:
    """By a move, and by every save and final read of a client."""
    place.sql("n1", CITUS)
    tenants.client("acme").save_event(ItemAdded("c1"))  # not distributed yet
    place.sql("n1", "INSERT INTO pg_catalog.pg_dist_partition VALUES ('acme.events')")
    with pytest.raises(ConfigurationError, match="acme.events is distributed by Citus"):
        tenants.move("acme", to="n2")
    another = place.tenants().client("acme")
    for call in (another.check_installed, lambda: another.save_event(ItemAdded("c1"))):
        with pytest.raises(ConfigurationError, match='"acme"."events" is distributed by Citus'):
            call()
    assert place.sql("n1", "SELECT count(*) FROM acme.events") == [(1,)]


def test_tables_that_are_distributed_as_they_are_made_are_refused(place: Place, tenants: Tenants) -> None:
    """As Citus does in a schema of its own kind: by add, and by a move to such a server."""
    place.sql("n2", CITUS)
    place.sql(
        "n2",
        """
        CREATE FUNCTION distribute() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO pg_catalog.pg_dist_partition
            SELECT objid FROM pg_event_trigger_ddl_commands() WHERE object_type = 'table';
        END $$;
        CREATE EVENT TRIGGER distribute ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
        EXECUTE FUNCTION distribute();
        """,
    )
    for call in (lambda: tenants.add("beta", "n2"), lambda: tenants.move("acme", to="n2")):
        with pytest.raises(ConfigurationError, match="distributed by Citus"):
            call()
    assert place.sql("n2", "SELECT nspname FROM pg_namespace WHERE nspname IN ('acme', 'beta')") == []
    assert [(t.name, t.node, t.moving_to) for t in tenants.list()] == [("acme", "n1", None)]


def test_nobody_makes_the_tables_anew_where_the_tenant_has_lived(place: Place, tenants: Tenants) -> None:
    """A program that held its client across the move would save to a log that nobody else reads."""
    held = tenants.client("acme")
    held.save_event(ItemAdded("c1"))
    place.tenants().move("acme", to="n2")  # by another program
    with pytest.raises(MovedError, match="lives on 'n2' now"):
        held.create_tables()
    assert place.sql("n1", "SELECT nspname FROM pg_namespace WHERE nspname = 'acme'") == []
    tenants.each(lambda client: client.create_tables())  # finds the new place
    assert tenants.client("acme").save_event(ItemAdded("c1")).id == 2
    place.sql("n2", "DROP SCHEMA acme CASCADE")  # by hand: it lives nowhere else
    tenants.client("acme").create_tables()
    assert tenants.client("acme").save_event(ItemAdded("c1")).id == 1


def test_a_place_kept_outside_outlives_moves(place: Place, tenants: Tenants) -> None:
    """The follower of the former place ends; at each new one its checkpoint counts, and no stranger's."""
    old = tenants.client("acme")
    saved = [old.save_event(ItemAdded(f"c{n}")).id for n in range(3)]
    following = follow(old)
    outside = checkpoint(old, next(following).id)
    tenants.move("acme", to="n2")
    with pytest.raises(MovedError, match="lives on 'n2' now"):
        list(following)
    for node in ("n2", "n1", "n2"):
        if tenants.list()[0].node != node:
            tenants.move("acme", to=node)
        tenants.each(lambda client: client.create_tables())  # brings up to date, and forgets nothing
        client = tenants.client("acme")
        assert next(iter(follow(client, after=outside))).id == saved[1]
        outside = checkpoint(client, saved[0])
    tenants.add("beta", "n2")
    with pytest.raises(ConfigurationError, match="another log"):
        next(iter(follow(tenants.client("beta"), after=outside)))
    place.sql("n2", "COMMENT ON SEQUENCE acme.events_id_seq IS NULL")  # as if nobody had noted the move
    with pytest.raises(ConfigurationError, match="another log"):
        first = f"{outside.partition('.')[0]}.1.1/1/{saved[0]}"
        next(iter(follow(tenants.client("acme"), after=first)))


def test_who_uses_the_tables_is_named_and_nobody_waits_long(place: Place, tenants: Tenants) -> None:
    """The move gives up; what it has copied is gone, and the tenant lives on."""
    tenants.lock_wait = 0.5
    client = tenants.client("acme")
    client.save_event(ItemAdded("c1"))
    holder = psycopg2.connect(place.urls["n1"], application_name="a long report")
    holder.cursor().execute("LOCK TABLE acme.events IN ROW EXCLUSIVE MODE")
    waits: list[float] = []
    stop = threading.Event()

    def save() -> None:
        while not stop.is_set():
            began = time.monotonic()
            tenants.client("acme").save_event(ItemAdded("c2"))
            waits.append(time.monotonic() - began)
        tenants.client("acme").db.close()

    saving = threading.Thread(target=save)
    saving.start()
    with pytest.raises(RetryableError, match="a long report"):
        tenants.move("acme", to="n2")
    stop.set()
    saving.join()
    holder.rollback()
    assert max(waits) < 1
    assert tenants.list()[0].moving_to is None
    assert tenants.move("acme", to="n2").rows["events"] == len(waits) + 1
    holder.close()


def test_maintenance_and_a_move_exclude_each_other(place: Place, tenants: Tenants) -> None:
    """Final events change under maintenance: it waits for the move, or the move is refused."""
    client = tenants.client("acme")
    client.save_event(ItemAdded("c1"))
    tenants.lock_wait = 0.3
    redactor = psycopg2.connect(place.urls["n1"])
    redactor.cursor().execute("SET pgevents.maintenance = 'erasure'; UPDATE acme.events SET data = '{}'")
    with pytest.raises(RetryableError, match="under maintenance"):
        tenants.move("acme", to="n2")
    redactor.rollback()
    mover = place.tenants()._mover("acme", "n2")
    steps = mover.steps()
    assert [next(steps) for _ in range(2)] == ["began", "made"]
    redactor.cursor().execute("SET lock_timeout = '100ms'")
    with pytest.raises(psycopg2.errors.LockNotAvailable):
        redactor.cursor().execute("SET pgevents.maintenance = 'erasure'; UPDATE acme.events SET data = '{}'")
    redactor.close()
    steps.close()  # type: ignore[attr-defined]


STEPS = [
    "began",
    "made",
    "copied",
    "copied",
    "locked",
    "renamed",
    "fenced",
    "committed",
    "arrived",
    "cleared",
]


def killed_after(place: Place, step: str, times: int = 1) -> None:
    """A process that moves the tenant and dies after some step."""
    child = os.fork()
    if child == 0:
        done: Counter[str] = Counter()
        try:
            for name in place.tenants()._mover("acme", "n2").steps():
                done[name] += 1
                if done[step] == times:
                    os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 9


def settled(tenants: Tenants) -> bool | None:
    """What recover() says, once the servers have noticed that the mover is dead."""
    for _ in range(200):
        try:
            return tenants.recover("acme")
        except RetryableError:
            time.sleep(0.02)
    raise AssertionError("the move seems to be at work for ever")


@pytest.mark.long
@pytest.mark.parametrize("step", range(len(STEPS)), ids=[f"{n}-{name}" for n, name in enumerate(STEPS)])
def test_killed_between_any_two_steps_it_goes_on_or_back(place: Place, tenants: Tenants, step: int) -> None:
    """Whatever was committed at the target is the tenant; else the source is. Nothing is lost either way."""
    saved = [tenants.client("acme").save_event(ItemAdded(f"c{n}")).id for n in range(300)]
    for db in place.opened:
        db.close()
    killed_after(place, STEPS[step], STEPS[: step + 1].count(STEPS[step]))
    again = place.tenants()
    again.retry_for = 0.2
    if step in (STEPS.index("fenced"), STEPS.index("committed")):
        with pytest.raises(MovedError, match="being moved from 'n1' to 'n2'"):
            again.run("acme", lambda client: client.save_event(ItemAdded("c1")))
    if step < len(STEPS) - 1:
        with pytest.raises((ConfigurationError, RetryableError), match="recover|at work"):
            again.move("acme", to="n2" if step < STEPS.index("arrived") else "n1")
    has_moved = settled(again)
    expected = None if step == len(STEPS) - 1 else step >= STEPS.index("committed")
    assert has_moved is expected
    node = "n2" if has_moved is not False else "n1"
    assert [(t.name, t.node, t.moving_to) for t in again.list()] == [("acme", node, None)]
    client = again.client("acme")
    assert [e.id for e in client.get_event_stream(ItemAdded)] == saved
    assert client.save_event(ItemAdded("c1")).id > saved[-1]
    other = {"n1": "n2", "n2": "n1"}[node]
    assert place.sql(other, "SELECT nspname FROM pg_namespace WHERE nspname ~ 'acme|moved'") == []
    assert again.move("acme", to=other).rows["events"] == 301


def test_nothing_is_guessed_while_the_target_cannot_be_asked(place: Place, tenants: Tenants) -> None:
    """It may hold the only copy that counts: the tenant stays where nobody can write until that is known."""
    tenants.client("acme").save_event(ItemAdded("c1"))
    for db in place.opened:
        db.close()
    killed_after(place, "committed")
    name = psycopg2.extensions.parse_dsn(place.urls["n2"])["dbname"]
    admin = psycopg2.connect(place.urls["directory"])
    admin.autocommit = True
    admin.cursor().execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    again = place.tenants()
    with pytest.raises(DatabaseUnavailableError):
        again.recover("acme")
    assert place.sql("n1", "SELECT nspname FROM pg_namespace WHERE nspname ~ 'acme|moved'") == [("moved_1",)]
    admin.cursor().execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    admin.close()
    assert settled(again) is True
    assert len(again.client("acme").get_event_stream(ItemAdded)) == 1


def test_a_move_at_work_is_left_alone(place: Place, tenants: Tenants) -> None:
    """recover() and a second move keep off while somebody is at it, in whatever step."""
    tenants.client("acme").save_event(ItemAdded("c1"))
    mover = place.tenants()._mover("acme", "n2")
    for step in mover.steps():
        if step in ("arrived", "cleared"):
            break
        with pytest.raises(RetryableError, match="still running"):
            place.tenants().recover("acme")
        with pytest.raises(ConfigurationError, match="running or was interrupted"):
            place.tenants()._mover("acme", "n2")


def test_the_known_place_does_while_the_directory_is_down(place: Place, tenants: Tenants) -> None:
    client = tenants.client("acme")
    name = psycopg2.extensions.parse_dsn(place.urls["directory"])["dbname"]
    admin = psycopg2.connect(place.urls["n1"])
    admin.autocommit = True
    admin.cursor().execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    assert tenants.run("acme", lambda c: c.save_event(ItemAdded("c1"))).id == 1
    with pytest.raises(DatabaseUnavailableError):
        tenants.add("beta")
    place.sql("n1", 'ALTER SCHEMA "acme" RENAME TO "moved_9"')
    with pytest.raises(MovedError, match="the directory cannot be asked"):
        client.save_event(ItemAdded("c1"))
    admin.cursor().execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    with pytest.raises(NotInstalledError):  # it says that the tenant is here, where it is not
        tenants.client("acme").save_event(ItemAdded("c1"))
    admin.close()


# -- moves under load ------------------------------------------------------------

WRITERS = 3


@attrs.define
class Load:
    """Writers that save, decide and keep transactions open; some never ask the directory."""

    place: Place
    stop: threading.Event = attrs.field(factory=threading.Event)
    acknowledged: dict[str, list[int]] = attrs.field(factory=dict)
    tally: Counter[str] = attrs.field(factory=Counter)
    faults: list[BaseException] = attrs.field(factory=list)
    threads: list[threading.Thread] = attrs.field(factory=list)

    def start(self, writers: int) -> None:
        for n in range(writers):
            mine = self.place.tenants()
            mine.retry_for = 20
            thread = threading.Thread(target=self._write, args=(n, mine))
            self.threads.append(thread)
            thread.start()

    def end(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert not self.faults, self.faults

    def saved(self) -> int:
        """How many saves were acknowledged."""
        return sum(map(len, list(self.acknowledged.values())))

    def _write(self, writer: int, mine: Tenants) -> None:
        works: list[Callable[[EventClient, str], Any]] = [self._plain, self._in_transaction, self._decide]
        stubborn = [mine._client_at("acme", database(self.place.urls[node])) for node in ("n1", "n2")]
        n = 0
        try:
            while not self.stop.is_set():
                key, work = f"{writer}:{n}", works[n % 3]
                try:
                    if writer % 2:  # tries both places, and asks nobody
                        saved = self._somewhere(stubborn, work, key)
                    else:
                        saved = mine.run("acme", lambda client, key=key, work=work: work(client, key))
                except (ConcurrencyError, MovedError, NotInstalledError) as error:
                    self.tally[type(error).__name__] += 1
                    continue
                self.acknowledged.setdefault(key, []).append(saved)
                n += 1
        except BaseException as error:
            self.faults.append(error)
        finally:
            for client in stubborn:
                client.db.close()
            for db in mine.nodes.values():
                db.close()

    def _somewhere(
        self, clients: list[EventClient], work: Callable[[EventClient, str], int], key: str
    ) -> int:
        try:
            return work(clients[0], key)
        except NotInstalledError:
            clients.reverse()
            time.sleep(0.002)
            raise

    def _plain(self, client: EventClient, key: str) -> int:
        return client.save_event({"type": "P", "data": {"cart_id": "a", "key": key}}, idempotency_key=key).id

    def _in_transaction(self, client: EventClient, key: str) -> int:
        with client.db.atomic():
            saved = self._plain(client, key)
            time.sleep(0.003)
            return saved

    def _decide(self, client: EventClient, key: str) -> int:
        seen = client.get_event_stream(["P", "V"], cart_id="a")
        last = seen[-1].id if seen else 0
        data = {"cart_id": "a", "key": key, "seen": len(seen), "last": last}
        wanted = stream(["P", "V"], cart_id="a")
        saved = client.save_event_with_stream_validation(
            {"type": "V", "data": data}, seen.position, [wanted], idempotency_key=key
        )
        return saved.id


def faults_of(load: Load, client: EventClient) -> list[str]:
    """What was lost, doubled, out of order or wrongly validated."""
    found: list[str] = []
    log = client.get_event_stream(["P", "V"], cart_id="a")
    keys = Counter(e.data["key"] for e in log)
    by_key = {e.data["key"]: e.id for e in log}
    found += [f"doubled {key}" for key, count in keys.items() if count > 1]
    for key, ids in load.acknowledged.items():
        found += [f"lost {key}" for one in ids if by_key.get(key) != one]
    last: dict[str, int] = {}
    ids: list[int] = []
    for one in log:
        writer, _, n = one.data["key"].partition(":")
        if int(n) < last.get(writer, 0):
            found.append(f"out of order {one.data['key']}")
        last[writer] = int(n)
        if one.type == "V" and (one.data["seen"], one.data["last"]) != (len(ids), ids[-1] if ids else 0):
            found.append(f"decided on other events {one.data['key']}")
        ids.append(one.id)
    return found


def moved_under_load(place: Place, hops: int) -> list[str]:
    """What goes wrong while a tenant moves to and fro."""
    tenants = place.tenants()
    load = Load(place)
    load.start(WRITERS)
    try:
        for _ in range(hops):
            time.sleep(0.4)
            (found,) = tenants.list()
            tenants.move("acme", to={"n1": "n2", "n2": "n1"}[found.node])
        time.sleep(0.2)
    finally:
        load.end()
    assert load.saved() > 50
    return faults_of(load, tenants.client("acme"))


@pytest.mark.long
def test_a_tenant_moves_under_load_and_nothing_is_lost(place: Place, tenants: Tenants) -> None:
    """Saves, transactions and decisions go on, also of clients that never ask the directory."""
    assert moved_under_load(place, hops=3) == []


@pytest.mark.long
def test_a_move_without_locks_is_found_out(
    place: Place, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: what is saved between the last copy and the new name is lost. The count of rows,
    which would notice most of it, is left out, too."""
    load = Load(place)
    copy_rest = Mover._copy_rest

    def too_early(self: Mover, contents: Any) -> None:
        with suppress(RetryableError):
            copy_rest(self, contents)
        # One of them was begun after the copy, because each writer has one at a time.
        enough = load.saved() + WRITERS + 1
        end = time.monotonic() + 60
        while load.saved() < enough and time.monotonic() < end:
            time.sleep(0.002)
        load.end()  # before the tables go: what writers would meet then is no part of this

    monkeypatch.setattr(Mover, "_fence", lambda self, contents, backend: None)
    monkeypatch.setattr(Mover, "_copy_rest", too_early)
    load.start(WRITERS)
    tenants.move("acme", to="n2")
    assert any(fault.startswith("lost") for fault in faults_of(load, tenants.client("acme")))


def test_a_recovery_that_looks_at_the_source_alone_is_found_out(
    place: Place, tenants: Tenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken variant: it takes the tenant back although the copy was committed: now there are two."""
    tenants.client("acme").save_event(ItemAdded("c1"))
    for db in place.opened:
        db.close()
    killed_after(place, "committed")
    monkeypatch.setattr(Recovery, "_mark", lambda self: None)
    assert settled(place.tenants()) is False
    both = [place.sql(node, "SELECT count(*) FROM acme.events") for node in ("n1", "n2")]
    assert both == [[(1,)], [(1,)]]


# -- around it ------------------------------------------------------------


def test_a_request_is_about_one_tenant(tenants: Tenants) -> None:
    """Unknown: 404. On its way to another server: 503, to be tried again. Connections are given back."""
    from flask import Flask, request

    from pgevents.flask import PgEvents, TenantEvents, current_events

    app = Flask(__name__)
    TenantEvents(app, tenants, tenant_of=lambda: request.view_args["tenant"] if request.view_args else "")

    @app.post("/<tenant>/carts/<cart_id>")
    def add(tenant: str, cart_id: str) -> dict[str, int]:
        return {"event": current_events.save_event(ItemAdded(cart_id)).id}

    browser = app.test_client()
    assert browser.post("/acme/carts/c1").json == {"event": 1}
    assert browser.post("/nobody/carts/c1").status_code == 404
    assert browser.post("/pg_catalog/carts/c1").status_code == 404
    tenants.move("acme", to="n2")
    first = browser.post("/acme/carts/c1")
    assert (first.status_code, first.headers["Retry-After"]) == (503, "1")
    assert browser.post("/acme/carts/c1").json == {"event": 2}
    nodes: Any = tenants.nodes
    assert all(db.is_closed() for db in nodes.values())
    with pytest.raises(ConfigurationError, match="has its PgEvents already"):
        PgEvents(app)


def test_the_command_line_knows_tenants(
    place: Place, tenants: Tenants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pgevents tenants`, and every command for one of them by --tenant."""
    nodes = {name: url for name, url in place.urls.items() if name != "directory"}
    (tmp_path / "manytenants.py").write_text(
        f"""
from psycopg2.extensions import parse_dsn
from peewee import PostgresqlDatabase
from pgevents import create_events_table, create_projections_table, many
from pgevents.tenants import Tenants

def database(url):
    parts = parse_dsn(url)
    return PostgresqlDatabase(parts.pop("dbname"), **parts)

tenants = Tenants(
    database({place.urls["directory"]!r}),
    {{name: database(url) for name, url in {nodes!r}.items()}},
    create_events_table(data_indexes=["cart_id", many("tags")]), create_projections_table(), [])
"""
    )

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> str:
        monkeypatch.delitem(sys.modules, "manytenants", raising=False)  # connections of its own
        return CliRunner().invoke(cli, ["--app", "manytenants:tenants", *arguments]).output

    assert run("tenants", "add", "beta", "--node", "n2").startswith("beta  n2  since ")
    assert run("tenants", "list", "--json").count("\n") == 2
    run("--tenant", "beta", "append", "ADDED", "cart_id=c1")
    moved = run("tenants", "move", "beta", "n1")
    assert "beta has moved from n2 to n1: 1 rows" in moved
    assert "ADDED" in run("tail", "--tenant", "beta")
    assert "no move was interrupted" in run("tenants", "recover", "beta")
    assert "say which, --tenant NAME" in run("tail")
    assert "no tenant 'gamma'" in run("tail", "--tenant", "gamma")
    assert "lives on 'n1' already" in run("tenants", "move", "beta", "n1")
