"""A load of saves, decisions and followers that goes on while servers fail, and writes down what it was told.

Each client process appends to a file of its own, so that what was acknowledged is known whoever is killed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import peewee

from pgevents import Event, EventClient, latest, stream
from pgevents.errors import (
    ConcurrencyError,
    ConfigurationError,
    ConnectionLostError,
    DatabaseError,
    DatabaseUnavailableError,
    PgEventsError,
    RetryableError,
)
from pgevents.subscriptions import Runner, checkpoint, follow, retry, subscription

from ..conftest import shop_client
from ..processing.lab import TABLES_SQL, TYPES, _progress, _state

SUBSCRIPTIONS = ("keyed", "plain")
EPOCH = 20
"""Seconds after which keys change, so that streams stay short however long it lasts."""
NOTHING_WRITTEN = (ConcurrencyError, RetryableError, DatabaseUnavailableError, DatabaseError)
"""Errors after which an event must not be in the log."""
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def client_of(url: str) -> EventClient:
    return shop_client(url, ())


def install(url: str) -> None:
    """Make the tables of the load."""
    client = client_of(url)
    client.create_tables()
    client.db.execute_sql(TABLES_SQL)
    client.db.close()


@attrs.define
class Journal:
    """What a process was told, a line of JSON each, on the disk as soon as it is noted.

    A line has `t` (seconds of the machine's monotonic clock) and `what`: "ok" with markers and ids, "no"
    with markers (refused, nothing was written), "error", "followed" with an id and a marker, "refused" (a
    follower's place), "checkpoint".
    """

    path: Path
    _file: int | None = attrs.field(init=False, default=None)

    def note(self, what: str, **more: Any) -> None:
        if self._file is None:
            self._file = os.open(self.path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)
        line = json.dumps({"t": time.monotonic(), "what": what, **more}) + "\n"
        os.write(self._file, line.encode())

    @staticmethod
    def read(path: Path, last_bytes: int = 0) -> Iterator[dict[str, Any]]:
        """The lines of a journal, or those in its last bytes."""
        with path.open("rb") as file:
            if last_bytes and path.stat().st_size > last_bytes:
                file.seek(-last_bytes, os.SEEK_END)
            text = file.read().decode(errors="replace")
        for line in text.splitlines():
            with suppress(ValueError):  # half a line: of a process that was killed, or the first of the last
                yield json.loads(line)


@attrs.define
class Saver:
    """Saves and decides until it is told to end; repeats by key what it does not know the end of."""

    client: EventClient
    journal: Journal
    name: str
    rng: random.Random
    keys: int
    ended: threading.Event = attrs.field(factory=threading.Event)
    count: int = 0

    def step(self) -> None:
        self.count += 1
        key = f"k{self.rng.randrange(self.keys)}-{int(time.time()) // EPOCH}"
        marker = f"{self.name}-{self.count}"
        shape = self.rng.random()
        if shape < 0.35:
            self.attempt([marker], self._saving([marker], key, marker))
        elif shape < 0.5:  # without a key of its own it is never repeated
            self.attempt([marker], self._saving([marker], key, None), repeat=False)
        elif shape < 0.6:
            markers = [f"{marker}-{number}" for number in range(3)]
            self.attempt(markers, self._saving(markers, key, marker))
        elif shape < 0.8:
            self._validated(key, marker)
        else:
            self.attempt([marker], self._deciding(key, marker))

    def _event(self, key: str, marker: str, **saw: Any) -> dict[str, Any]:
        return {"type": self.rng.choice(TYPES), "data": {"cart_id": key, "m": marker, **saw}}

    def _saving(self, markers: list[str], key: str, idempotency_key: str | None) -> Callable[[], Any]:
        events = [self._event(key, marker) for marker in markers]
        return lambda: self.client.save_events(events, idempotency_key=idempotency_key)

    def _validated(self, key: str, marker: str) -> None:
        """Read a stream, and save an event that says what was read, if the stream is still as it was."""
        try:
            read = self.client.get_event_stream(cart_id=key)
        except PgEventsError as error:
            self.failed(error)
            return
        last = read[-1].id if len(read) else 0
        saved = self._event(key, marker, saw_count=len(read), saw_last=last)
        self.attempt(
            [marker],
            lambda: self.client.save_events_with_stream_validation([saved], read, idempotency_key=marker),
        )

    def _deciding(self, key: str, marker: str) -> Callable[[], Any]:
        """Decide by the newest event of a stream."""

        def decider(newest: Event[Any] | None) -> dict[str, Any]:
            return self._event(key, marker, saw_last=newest.id if newest else 0)

        rests_on = latest(cart_id=key)
        return lambda: self.client.decide(rests_on, decider, idempotency_key=marker)

    def attempt(self, markers: list[str], save: Callable[[], Any], *, repeat: bool = True) -> None:
        """Try until it is known how it ended; note what is known."""
        is_known = True
        while not self.ended.is_set():
            try:
                saved = save()
            except PgEventsError as error:
                self.failed(error)
                is_known = is_known and isinstance(error, NOTHING_WRITTEN)
                is_conflict = isinstance(error, ConcurrencyError)
                gives_up = is_conflict or not repeat or self.rng.random() < 0.1
                if gives_up and is_known:
                    self.journal.note("no", m=markers, error=type(error).__name__)
                if is_conflict or not repeat or (gives_up and is_known):
                    return
            else:
                self.journal.note("ok", m=markers, ids=[event.id for event in saved])
                return

    def failed(self, error: Exception) -> None:
        if isinstance(error, ConcurrencyError):
            return
        code = getattr(error, "sqlstate", "")
        self.journal.note("error", error=type(error).__name__, code=code, said=str(error)[:200])
        if isinstance(error, DatabaseError) and code[:2] not in ("53", "57", "58", "XX", "55"):
            raise error
        self.ended.wait(0.05 if isinstance(error, ConnectionLostError) else 0.2)


def save(url: str, folder: str, name: str, rate: float, keys: int) -> None:
    """A process that saves."""
    saver = Saver(client_of(url), Journal(Path(folder) / f"saver-{name}"), name, random.Random(name), keys)
    signal.signal(signal.SIGTERM, lambda number, frame: saver.ended.set())
    try:
        while not saver.ended.is_set():
            saver.step()
            saver.ended.wait(random.random() * 2 / rate)
    except Exception as error:
        saver.journal.note("ended", error=repr(error))
        raise


SAVES: Callable[..., None] = save
"""What saving processes run; another one in a test of the oracle."""


def handle(url: str, folder: str, name: str) -> None:
    """A process that handles events: what it was given is written beside its place."""
    client = client_of(url)
    journal = Journal(Path(folder) / f"worker-{name}")
    again = retry(1000, delay=0.02, longest=0.5)

    def write(subscription: str, event: Event[Any]) -> None:
        key = event.data["cart_id"] if subscription == "keyed" else "all"
        client.db.execute_sql(
            "INSERT INTO handled (subscription, event_id, key) VALUES (%s, %s, %s)",
            [subscription, event.id, key],
        )

    @subscription("keyed", stream(TYPES), key="cart_id", lanes=4, on_error=again)
    def keyed(event: Event[Any]) -> None:
        write("keyed", event)

    @subscription("plain", stream(TYPES), on_error=again)
    def plain(event: Event[Any]) -> None:
        write("plain", event)

    runner = Runner(client, [keyed, plain])
    signal.signal(signal.SIGTERM, lambda number, frame: runner.stop())
    _await_server(client)
    try:
        runner.run(workers=2)
    except Exception as error:
        journal.note("ended", error=repr(error))
        raise


def _await_server(client: EventClient) -> None:
    """As whoever starts processes does: a runner ends if there is no server when it begins."""
    while True:
        try:
            client.check_installed()
            return
        except (ConnectionLostError, DatabaseUnavailableError):
            time.sleep(0.2)


def observe(url: str, folder: str, name: str) -> None:
    """A process that follows the log with its place outside the database, and again from what it is sure of
    when the place is refused."""
    client = client_of(url)
    journal = Journal(Path(folder) / f"follower-{name}")
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    after: int | str = 0
    last = 0
    while not stop.is_set():
        try:
            for event in follow(client, after=after, stop=stop):
                journal.note("followed", id=event.id, m=event.data["m"])
                last = event.id
                if event.id % 10 == 0:
                    after = checkpoint(client, event.id)
                    journal.note("checkpoint", place=after)
        except ConfigurationError as error:
            journal.note("refused", said=str(error)[:300])
            after = 0 if "ahead of the log" in str(error) else last
        except (PgEventsError, peewee.PeeweeException) as error:
            journal.note("error", error=type(error).__name__, said=str(error)[:200])
            after = after if isinstance(after, str) else last
            stop.wait(0.2)


@attrs.define
class Load:
    """The processes of a load, which are started again where they were killed.

    Args:
        url: What clients connect to.
        folder: For the journals.
        savers: How many processes save.
        workers: How many handle events, with two threads each.
        followers: How many follow the log.
        rate: Saves a second that each tries.
        keys: How many streams there are at a time.
    """

    url: str
    folder: Path
    savers: int = 3
    workers: int = 1
    followers: int = 1
    rate: float = 15.0
    keys: int = 6
    processes: dict[str, Any] = attrs.field(factory=dict)
    incarnations: Counter[str] = attrs.field(factory=Counter)
    killed: set[int] = attrs.field(factory=set)
    unexpected: list[str] = attrs.field(factory=list)

    def keep(self) -> None:
        """Start what does not run; who ended without being killed is noted."""
        wanted = [f"s{n}" for n in range(self.savers)] + [f"w{n}" for n in range(self.workers)]
        wanted += [f"f{n}" for n in range(self.followers)]
        for name in wanted:
            process = self.processes.get(name)
            if process is not None and process.is_alive():
                continue
            if process is not None and process.pid not in self.killed:
                self.unexpected.append(f"{name} ended by itself with {process.exitcode}")
            self.incarnations[name] += 1
            self.processes[name] = self._start(name, f"{name}.{self.incarnations[name]}")

    def _start(self, name: str, full_name: str) -> Any:
        target: Any
        common: tuple[Any, ...] = (self.url, str(self.folder), full_name)
        if name[0] == "s":
            target, common = SAVES, (*common, self.rate, self.keys)
        else:
            target = handle if name[0] == "w" else observe
        process = PROCESSES.Process(target=target, args=common, daemon=True)
        process.start()
        return process

    def kill(self, name: str) -> None:
        """kill -9 of one; `keep` starts it again."""
        process = self.processes[name]
        self.killed.add(process.pid)
        process.kill()
        process.join()

    def end(self, kind: str) -> None:
        """Let those of one kind ("s", "w" or "f") finish."""
        ending = [(name, process) for name, process in self.processes.items() if name[0] == kind]
        for _, process in ending:
            process.terminate()
        for name, process in ending:
            process.join(30)
            if process.is_alive():
                self.unexpected.append(f"{name} did not end")
                process.kill()
            del self.processes[name]

    def settle(self, patience: float = 120.0) -> list[str]:
        """End the savers and wait until the subscriptions have dealt with all, or nothing goes forward; what
        they have not."""
        self.end("s")
        client = client_of(self.url)
        wrong: list[str] = []
        end, before = time.monotonic() + patience, _progress(client)
        newest = client.get_latest_event()
        assert newest is not None
        for name in SUBSCRIPTIONS:
            while True:
                try:
                    client.wait(name, newest.id, timeout=2.0)
                    break
                except PgEventsError as error:
                    now = _progress(client)
                    if now != before:
                        end, before = time.monotonic() + patience, now
                    if time.monotonic() > end:
                        wrong.append(f"{name}: not settled: {error}: {_state(client, name)}")
                        break
                    self.keep_followers()
        time.sleep(1.0)  # the follower polls every 0.05 s
        client.db.close()
        self.end("w")
        self.end("f")
        return wrong

    def keep_followers(self) -> None:
        """As `keep`, without new savers."""
        savers, self.savers = self.savers, 0
        self.keep()
        self.savers = savers

    def acknowledged_since(self, moment: float) -> bool:
        """Whether each saver has had a save acknowledged since a moment."""
        return all(
            any(line["what"] == "ok" and line["t"] > moment for line in self.lines(f"s{number}"))
            for number in range(self.savers)
        )

    def lines(self, name: str) -> list[dict[str, Any]]:
        """What the present incarnation of a process has noted of late."""
        kind = {"s": "saver", "w": "worker", "f": "follower"}[name[0]]
        path = self.folder / f"{kind}-{name}.{self.incarnations[name]}"
        return list(Journal.read(path, 20_000)) if path.exists() else []

    def wait_until_all_go_on(self, timeout: float = 120.0) -> None:
        """Until each saver has a save acknowledged.

        Raises:
            AssertionError: One has none within the time.
        """
        moment = time.monotonic()
        while not self.acknowledged_since(moment):
            self.keep()
            if time.monotonic() > moment + timeout:
                ends = {name: self.lines(name)[-1:] for name in self.processes}
                raise AssertionError(f"not all clients go on within {timeout} s: {ends}")
            time.sleep(0.1)


def say(*words: object) -> None:
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), *words, file=sys.stderr, flush=True)
