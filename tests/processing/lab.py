"""A race for subscriptions: savers, workers, and somebody who kills, stops, cuts off, pauses and resizes.

Handlers write what they were given into a table, with a number that grows in the order of writing. In the
end the oracle compares that with the log.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import peewee

from pgevents import Event, EventClient, stream
from pgevents.errors import PgEventsError
from pgevents.subscriptions import Runner, Subscription, pause, resize, resume, retry, subscription

from ..conftest import database, shop_client
from .oracle import Kind, judge

TABLES_SQL = """
CREATE TABLE handled (n bigserial, subscription text, event_id bigint, key text, pid int DEFAULT
pg_backend_pid()); CREATE TABLE tried (subscription text, event_id bigint);
"""
TYPES = ("A", "B", "C")
# Forked from a process that has imported everything: who begins late is rarely killed in the middle.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def nothing() -> None:
    """No fault."""


@attrs.frozen
class Variant:
    """What is broken, if anything; applied in each worker process."""

    name: str = "as it is"
    patch: Callable[[], None] = nothing


@attrs.frozen
class Race:
    """How it is run.

    Attributes:
        seconds: For how long events are saved.
        rate: Events a second of each saver.
        savers: Processes that save.
        workers: Processes that handle, with two threads each.
        keys: How many keys.
        kills: How often a second a worker process is killed, stopped for a while, or its backends are cut
        off. changes: How often a second lanes are resized, or the subscription paused and resumed.
        failures: The share of events whose first try raises.
        deaths: The share of events whose first try kills its process.
        subscriptions: Which.
        seed: Of the random numbers.
        patience: Seconds without any progress after which what is left counts as lost.
    """

    seconds: float = 4.0
    rate: float = 100.0
    savers: int = 2
    workers: int = 2
    keys: int = 12
    kills: float = 1.0
    changes: float = 1.0
    failures: float = 0.02
    deaths: float = 0.002
    subscriptions: tuple[str, ...] = ("keyed", "plain", "outside", "batches")
    seed: int = 1
    patience: float = 90.0
    variant: Variant = attrs.field(factory=Variant)


def client_of(url: str) -> EventClient:
    return shop_client(database(url), ())


def save(url: str, race: Race, number: int) -> None:
    """Save events of some keys, alone, late, in batches, and rolled back."""
    client, rng = client_of(url), random.Random(race.seed * 1000 + number)
    end, count = time.monotonic() + race.seconds, 0
    start = time.monotonic()
    while time.monotonic() < end:
        try:
            count += _save_some(client, rng, race)
        except (PgEventsError, peewee.PeeweeException):  # its backend was cut off
            if not client.db.is_closed() and not client.db.in_transaction():
                client.db.close()
        time.sleep(max(0.0, start + count / race.rate - time.monotonic()))
    client.db.close()


def _save_some(client: EventClient, rng: random.Random, race: Race) -> int:
    def one() -> dict[str, Any]:
        key = rng.randrange(race.keys)
        data = {"cart_id": f"k{key}"} if key else rng.choice([{"cart_id": None}, {}])
        return {"type": rng.choice(TYPES), "data": data}

    shape = rng.random()
    if shape < 0.75:
        client.save_event(one())
        return 1
    if shape < 0.85:
        client.save_events([one() for _ in range(5)])
        return 5
    with client.db.atomic() as transaction:
        client.save_event(one())
        time.sleep(rng.random() * 0.1)
        with client.db.atomic() as savepoint:
            client.save_event(one())
            if shape > 0.92:
                savepoint.rollback()
        if shape > 0.97:
            transaction.rollback()
    return 2


def handlers(race: Race, client: EventClient, own: Any) -> list[Any]:
    """The subscriptions. `own` is another connection, whose writes stay whatever becomes of the
    transaction."""

    def is_first_try(name: str, event: Event[Any]) -> bool:
        return own.execute(
            "INSERT INTO tried SELECT %(name)s, %(id)s "
            "WHERE NOT EXISTS (SELECT FROM tried WHERE subscription = %(name)s AND event_id = %(id)s)",
            {"name": name, "id": event.id},
        )

    def handle(name: str, event: Event[Any], execute: Any) -> None:
        key = str(event.data.get("cart_id") or "") if name != "plain" and name != "batches" else "all"
        execute(
            "INSERT INTO handled (subscription, event_id, key) VALUES (%s, %s, %s)", [name, event.id, key]
        )
        luck = random.Random(f"{name} {event.id} {race.seed}").random()
        if luck < race.failures + race.deaths and is_first_try(name, event):
            if luck < race.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"the first try of {event.id} fails")

    again = retry(50, delay=0.02, longest=0.1, after_death=0.1)

    @subscription("keyed", stream(TYPES), key="cart_id", lanes=6, on_error=again)
    def keyed(event: Event[Any]) -> None:
        handle("keyed", event, client.db.execute_sql)

    @subscription("plain", stream(TYPES), on_error=again)
    def plain(event: Event[Any]) -> None:
        handle("plain", event, client.db.execute_sql)

    @subscription(
        "outside", stream(TYPES), key="cart_id", lanes=6, effects="outside", on_error=again, lease=0.5
    )
    def outside(event: Event[Any]) -> None:
        # A failure is one before the effect here, or it could not be told from a repeat.
        luck = random.Random(f"outside {event.id} {race.seed}").random()
        if luck < race.failures and is_first_try("outside", event):
            raise ValueError(f"the first try of {event.id} fails")
        key = str(event.data.get("cart_id") or "")
        own.execute(
            "INSERT INTO handled (subscription, event_id, key) VALUES ('outside', %(id)s, %(key)s)",
            {"id": event.id, "key": key},
        )

    class Batches(Subscription[Any]):
        name = "batches"
        streams = (stream(TYPES),)
        on_error = again

        def handle_batch(self, events: Sequence[Event[Any]]) -> None:
            for event in events:
                handle("batches", event, self.client.db.execute_sql)

    known = {"keyed": keyed, "plain": plain, "outside": outside, "batches": Batches}
    return [known[name] for name in race.subscriptions]


class _Own:
    """A connection beside that of the client, made anew when it was cut off."""

    def __init__(self, url: str) -> None:
        self.db: Any = database(url, thread_safe=False)
        self.lock = threading.Lock()

    def execute(self, sql: str, params: dict[str, Any]) -> bool:
        """Whether the statement wrote a row."""
        with self.lock:
            for _ in range(20):
                try:
                    return bool(self.db.execute_sql(sql, params).rowcount)
                except peewee.PeeweeException:
                    self.db.close()
                    time.sleep(0.05)  # the server may be restarting
            raise AssertionError("the laboratory's own connection is cut off again and again")


def work(url: str, race: Race) -> None:
    """A worker process, until it is killed or told to end."""
    race.variant.patch()
    client = client_of(url)
    runner = Runner(client, handlers(race, client, _Own(url)))
    signal.signal(signal.SIGTERM, lambda number, frame: runner.stop())
    try:
        runner.run(workers=2)
    except Exception as error:
        print(f"worker: {error!r}", file=sys.stderr)
        raise


@attrs.define
class Workers:
    """Worker processes, which are started again when they die."""

    url: str
    race: Race
    processes: list[Any] = attrs.field(factory=list)
    deaths: int = 0

    def keep(self) -> None:
        for process in list(self.processes):
            if not process.is_alive():
                self.processes.remove(process)
                self.deaths += 1
        while len(self.processes) < self.race.workers:
            process = PROCESSES.Process(target=work, args=(self.url, self.race), daemon=True)
            process.start()
            self.processes.append(process)

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.join(10)
            process.kill()


@attrs.define
class Result:
    """What happened in a race, or in several.

    Attributes:
        handled: How many events were handled, by all subscriptions together.
        counts: How often what was done: "kill", "stop", "cut", "restart", "death" (a handler that ended its
            process) and "change" (lanes resized, or a subscription paused and resumed).
        rounds: How many races.
        wrong: What the oracle finds.
        faults: How many events were missing, given twice, or out of order.
    """

    handled: int = 0
    counts: Counter[str] = attrs.field(factory=Counter[str])
    rounds: int = 0
    wrong: list[str] = attrs.field(factory=list[str])
    faults: Counter[Kind] = attrs.field(factory=Counter[Kind])

    @property
    def kills(self) -> int:
        """How many times a worker was killed, ended itself, was stopped, was cut off, or lost its server."""
        return sum(self.counts[what] for what in ("kill", "stop", "cut", "restart", "death"))

    def __str__(self) -> str:
        return (
            f"{self.handled} events handled in {self.rounds} races, {self.kills} kills ("
            f"{self.counts['kill']} by -9, {self.counts['death']} by the handler, {self.counts['stop']} "
            f"SIGSTOP, {self.counts['cut']} times backends terminated, {self.counts['restart']} server "
            f"restarts), {self.counts['change']} changes; missing {self.faults['missing']}, twice "
            f"{self.faults['twice']}, out of order {self.faults['order']}"
        )


def run(url: str, race: Race, direct: str | None = None) -> list[str]:
    """Run the race on an empty database; what the oracle finds.

    Args:
        url: The database, perhaps through a PgBouncer.
        race: How.
        direct: The database itself, for looking at it.
    """
    result = Result()
    _run(url, race, direct, result)
    return result.wrong


def race_until(
    url: str,
    race: Race,
    handled: int,
    kills: int,
    direct: str | None = None,
    restart: Callable[[], None] | None = None,
) -> Result:
    """Run races, each on an empty database, until so many events were handled and so many workers killed.

    Args:
        url: The database, perhaps through a PgBouncer.
        race: How.
        handled: So many events.
        kills: So many kills.
        direct: The database itself, for looking at it.
        restart: Ends the server at once and starts it again.
    """
    result = Result()
    while result.handled < handled or result.kills < kills:
        if result.rounds:
            client = client_of(direct or url)
            client.db.execute_sql("DROP SCHEMA my_app CASCADE; DROP TABLE handled, tried")
            client.db.close()
        _run(url, attrs.evolve(race, seed=race.seed + result.rounds), direct, result, restart)
        assert result.wrong == [], f"{result}: {result.wrong}"
    return result


def _run(
    url: str, race: Race, direct: str | None, result: Result, restart: Callable[[], None] | None = None
) -> None:
    client = client_of(direct or url)
    client.create_tables()
    client.db.execute_sql(TABLES_SQL)
    rng = random.Random(race.seed)
    workers = Workers(url, race)
    workers.keep()
    savers = [PROCESSES.Process(target=save, args=(url, race, n), daemon=True) for n in range(race.savers)]
    for saver in savers:
        saver.start()
    stopped: list[tuple[float, int]] = []
    counts: Counter[str] = Counter()
    restart_at = time.monotonic() + race.seconds / 2
    while any(saver.is_alive() for saver in savers):
        time.sleep(0.05)
        workers.keep()
        for until, pid in list(stopped):
            if time.monotonic() > until:
                stopped.remove((until, pid))
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
        if rng.random() < race.kills * 0.05:
            counts[_disturb(rng, workers, client, stopped)] += 1
        if restart is not None and time.monotonic() > restart_at:
            restart_at = math.inf
            restart()
            client.db.close()
            counts["restart"] += 1
        if rng.random() < race.changes * 0.05:
            counts["change"] += _change(rng, client, race)
    for _, pid in stopped:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    settled = _settle(client, race, workers, race.patience)
    workers.end()
    total = client.db.execute_sql("SELECT count(*) FROM my_app.events").fetchone()[0]
    counts["death"] = max(0, workers.deaths - counts["kill"])
    print(f"{race.variant.name}: {total} events, {dict(counts)}", flush=True)
    result.rounds += 1
    result.handled += client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0]
    result.counts += counts
    result.wrong += [*settled, *judge(client, race.subscriptions, result.faults)]
    client.db.close()


def _disturb(
    rng: random.Random, workers: Workers, client: EventClient, stopped: list[tuple[float, int]]
) -> str:
    at_work = {row[0] for row in client.db.execute_sql("SELECT pid FROM my_app.events_runners").fetchall()}
    ready = [process for process in workers.processes if process.pid in at_work]
    if not ready:  # who is killed while he starts proves nothing
        return "none"
    process = rng.choice(ready)
    what = rng.choice(["kill", "stop", "cut"])
    if what == "kill":
        process.kill()
    elif what == "stop":
        try:
            os.kill(process.pid, signal.SIGSTOP)
        except ProcessLookupError:  # its handler has just ended it
            return "none"
        stopped.append((time.monotonic() + rng.random() * 1.0, process.pid))
    else:
        client.db.execute_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND random() < 0.3"
        )
    return what


def _change(rng: random.Random, client: EventClient, race: Race) -> int:
    name = rng.choice(race.subscriptions)
    with suppress(PgEventsError):
        if name in ("keyed", "outside") and rng.random() < 0.6:
            resize(client, name, rng.choice([1, 3, 6, 11]))
        else:
            pause(client, name)
            time.sleep(rng.random() * 0.1)
            resume(client, name)
        return 1
    return 0


def _settle(client: EventClient, race: Race, workers: Workers, patience: float) -> list[str]:
    """Wait until all is dealt with, or nothing goes forward any more; what is not dealt with."""
    end, before = time.monotonic() + patience, _progress(client)
    (last,) = client.db.execute_sql("SELECT max(id) FROM my_app.events").fetchone()
    for name in race.subscriptions:
        with suppress(PgEventsError):
            resume(client, name)
    for name in race.subscriptions:
        while True:
            workers.keep()
            now = _progress(client)
            if now != before:
                end, before = time.monotonic() + patience, now
            with suppress(PgEventsError):
                resume(client, name)
            try:
                client.wait(name, last or 0, timeout=1.0)
                if not _parked(client, name):
                    break
                time.sleep(0.1)
            except PgEventsError as error:
                if time.monotonic() > end:
                    return [f"{name}: not settled: {error}: {_state(client, name)}"]
            if time.monotonic() > end:
                return [f"{name}: {_parked(client, name)} events stay parked: {_state(client, name)}"]
    return []


def _progress(client: EventClient) -> tuple[Any, ...]:
    """What changes while events are dealt with: how many were, and how far the lanes came."""
    sql = "SELECT count(*), (SELECT sum(position) FROM my_app.events_checkpoints) FROM handled"
    found: tuple[Any, ...] = client.db.execute_sql(sql).fetchone()
    return found


def _state(client: EventClient, name: str) -> str:
    lanes = client.db.execute_sql(
        "SELECT lane, position, state, generation, careful, announced, attempts, failed_id, "
        "interruptions, due_at, "
        "leased_until, error, layers FROM my_app.events_checkpoints WHERE name = %s ORDER BY lane",
        [name],
    ).fetchall()
    parked = client.db.execute_sql(
        "SELECT key, event_id, hash, state, attempts, due_at, clock_timestamp(), error FROM "
        "my_app.events_parked "
        "WHERE name = %s ORDER BY key, event_id",
        [name],
    ).fetchall()
    return "\n".join(map(str, [*lanes, *parked[:20]]))


def _parked(client: EventClient, name: str) -> int:
    sql = "SELECT count(*) FROM my_app.events_parked WHERE name = %s AND state <> 'discarded'"
    return int(client.db.execute_sql(sql, [name]).fetchone()[0])


@contextmanager
def in_thread(runner: Runner, workers: int = 1) -> Iterator[None]:
    """A runner in a thread."""
    thread = threading.Thread(target=runner.run, args=(workers,))
    thread.start()
    runner.wait_until_ready(10)
    try:
        yield
    finally:
        runner.stop()
        thread.join(20)
