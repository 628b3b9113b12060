"""The race laboratory: processes that collide on few identifiers and write down all that they saw and were
    told.

What they saw stands in the events themselves (`saw`); what they were told stands in their journals.
`oracle.py` compares both with the log that is left in the end.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import attrs
from peewee import PostgresqlDatabase

import pgevents.client
from pgevents import (
    ConcurrencyError,
    Event,
    EventClient,
    MultiStreamProjectionBase,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    everything,
    latest,
    many,
    pipeline,
    stream,
)
from pgevents.event_types import EventType
from pgevents.store.options import ReadOptions
from pgevents.streams import Stream
from pgevents.subscriptions import Subscription

from ..conftest import database
from .variants import RIGHT, Variant

TYPES = ("A", "B", "C")
FIELDS = ("k", "g", "tenant", "o", many("tags"))
"""The data indexes; `tenant` is the same on every event, `u` is a field without an index, `o` is what `k` was
called in the first version of the type R, and `tags` are several, in the shape "many" alone."""
EPOCH = 1.0
"""Seconds after which identifiers change, so that streams stay short however long a race lasts."""

NEWEST_ALONE = -1
"""In place of a count, where a decision rests on the newest event alone."""

Streams = Sequence[Stream[Any]]


def lab_client(url: str, **options: Any) -> EventClient:
    """A client of the laboratory's tables, with a connection of its own."""
    return _client_on(database(url), (), **options)


def _client_on(db: PostgresqlDatabase, classes: Sequence[type[Any]], **options: Any) -> EventClient:
    events = create_events_table(schema="lab", name="events", data_indexes=FIELDS)
    views = create_projections_table(schema="lab", name="views")
    return create_event_client(db, events, views, classes, **options)


class _Lookup:
    """Lets an instance be looked into as the data of others are."""

    __slots__ = ()

    def __getitem__(self, field: str) -> Any:
        return getattr(self, field)


def _class_of(name: str, **options: Any) -> type[Any]:
    """A class for decisions of one type; in no registry, so that no other test meets it."""
    kinds = dict.fromkeys(("k", "g", "u", "tenant", "m", "saw_streams"), str) | {
        "saw_count": int,
        "saw_last": int,
    }
    fields = {field: attrs.field(type=kind) for field, kind in kinds.items()}
    fields["tags"] = attrs.field(type=list[str], factory=list)
    if options:
        fields |= {field: attrs.field(type=kind | None, default=None) for field, kind in kinds.items()}
    made: Any = attrs.make_class(name, fields, bases=(_Lookup,), frozen=True, slots=True)
    made.__pgevents_type__ = EventType(name, made, **options)
    return cast("type[Any]", made)


def _to_k(data: dict[str, Any]) -> dict[str, Any]:
    data = dict(data)
    data["k"] = data.pop("o")
    return data


CLASSES = {name: _class_of(name) for name in TYPES}
RENAMED = _class_of("R", version=2, upcasters={1: _to_k})
"""Events of two versions: what is `k` in the second is `o` in the first."""


# -- shapes of questions ------------------------------------------------------------


@attrs.frozen
class Names:
    """The identifiers of the moment: few, so that everything collides."""

    rng: random.Random

    def one(self, field: str, count: int = 2) -> str:
        return f"{field}{int(time.time() / EPOCH)}-{self.rng.randrange(count)}"

    def several(self, field: str) -> list[str]:
        return sorted({self.one(field), self.one(field), self.one(field)})


def many_values(names: Names) -> list[Stream[Any]]:
    """A list over the key limit, which is locked by its types, or by the table if it has none."""
    values = [*names.several("k"), *(f"nobody-{number}" for number in range(80))]
    return [stream(names.rng.choice([None, ["A", "B"]]), k=values)]


def tagged(names: Names) -> list[Stream[Any]]:
    """One of the values that events have several of, two, or one beside another identifier."""
    types = names.rng.choice([None, ["A", "B"]])
    more = names.rng.choice([{}, {}, {"u": names.one("u")}])
    tags = names.one("tag") if names.rng.random() < 0.8 else names.several("tag")
    return [stream(types, tags=tags, **more)]


SHAPES: dict[str, Callable[[Names], list[Stream[Any]]]] = {
    "one key": lambda names: [stream(k=names.one("k"))],
    "two keys": lambda names: [stream(["A", "B"], k=names.one("k"), g=names.one("g"))],
    "two streams": lambda names: [stream("A", k=names.one("k")), stream(["B", "C"], g=names.one("g"))],
    "types": lambda names: [stream(["A", "B"])],
    "everything": lambda names: [stream()],
    "no index": lambda names: [stream(names.rng.choice([None, "A"]), u=names.one("u"))],
    "list": lambda names: (
        many_values(names) if names.rng.random() < 0.2 else [stream("A", k=names.several("k"))]
    ),
    "many": tagged,
    "renamed": lambda names: [stream("R", k=names.one("k"))],
    "hot value": lambda names: [stream("A", tenant="acme", k=names.one("k")), stream("C", tenant="acme")],
}
SHAPES["mixed"] = lambda names: SHAPES[names.rng.choice(list(SHAPES)[:-1])](names)


def streams_text(streams: Streams) -> str:
    return json.dumps([one.as_json() for one in streams], sort_keys=True)


def streams_of(text: str) -> list[Stream[Any]]:
    return [stream(one["types"], data=one["match"] or everything) for one in json.loads(text)]


# -- what the processes fold ------------------------------------------------------------


@attrs.frozen
class Tally:
    """How many events, the last one's id, and a digest of all ids in order."""

    count: int = 0
    last: int = 0
    digest: int = 0

    def add(self, event_id: int) -> Tally:
        return Tally(self.count + 1, event_id, (self.digest * 1_000_003 + event_id) % (2**61 - 1))


class TallyProjection(MultiStreamProjectionBase[Tally, Any]):
    """The tally of the streams that its id spells out."""

    projection_type = "TALLY"
    reducers = pipeline(lambda tally, event: tally.add(event.id))

    def initial_view(self) -> Tally:
        return Tally()

    def get_stream_options(self) -> list[Stream[Any]]:
        return streams_of(self.id)


# -- what they write down ------------------------------------------------------------


@attrs.frozen
class FinalRead:
    """A final read: all ids of `streams` in (after, bound]; `own` if uncommitted events of its own were among
    them."""

    streams: str
    after: int
    bound: int
    ids: tuple[int, ...]
    own: bool = False


@attrs.frozen
class Taken:
    """A snapshot as it was saved."""

    streams: str
    upto: int
    tally: Tally


@attrs.define
class Journal:
    """What one process was told."""

    saved: dict[str, int] = attrs.field(factory=dict)
    withdrawn: set[str] = attrs.field(factory=set)
    repeats: dict[str, set[tuple[int, ...]]] = attrs.field(factory=dict)
    finals: list[FinalRead] = attrs.field(factory=list)
    snapshots: list[Taken] = attrs.field(factory=list)
    followed: dict[str, list[int]] = attrs.field(factory=dict)
    counts: Counter[str] = attrs.field(factory=Counter)
    failures: list[str] = attrs.field(factory=list)

    def add(self, other: Journal) -> None:
        """Take over what another process, or a transaction that was committed, has written down."""
        self.saved |= other.saved
        self.withdrawn |= other.withdrawn
        for key, ids in other.repeats.items():
            self.repeats.setdefault(key, set()).update(ids)
        self.finals += other.finals
        self.snapshots += other.snapshots
        self.followed |= other.followed
        self.counts += other.counts
        self.failures += other.failures

    def rolled_back(self) -> Journal:
        """What is left to say of a transaction that was rolled back."""
        finals = [attrs.evolve(final, own=True) for final in self.finals]
        return Journal(withdrawn={*self.withdrawn, *self.saved}, finals=finals)


class Withdraw(Exception):
    """Thrown to roll a transaction or a savepoint back."""


# -- a process ------------------------------------------------------------

WEIGHTS: dict[str, int] = {
    "plain": 20,
    "small_batch": 5,
    "bulk_batch": 1,
    "by_position": 20,
    "by_id": 8,
    "by_tail": 8,
    "validated_batch": 4,
    "decide": 8,
    "by_newest": 6,
    "decide_newest": 6,
    "transaction": 10,
    "snapshot": 6,
    "final": 6,
    "horizon": 3,
    "repeat": 4,
}
STEPS: dict[str, int] = {
    "plain": 6,
    "by_position": 5,
    "savepoint": 5,
    "stale_after_rollback": 1,
    "rest": 4,
    "snapshot": 2,
    "final_cut": 2,
    "small_batch": 2,
    "many": 1,
    "decide": 1,
    "decide_newest": 1,
}


@attrs.frozen
class Race:
    """One race.

    Attributes:
        shape: Which of `SHAPES` the validated saves ask.
        seconds: How long.
        processes: How many at once.
        weights: What they do, and how often.
        variant: Which functions and which client; the right ones by default.
        pause: Seconds, at most, of the pauses that are injected into the functions; 0: none.
        seed: For what is left to chance.
        followers: Whether two more processes follow the log.
    """

    shape: str
    seconds: float = 2.0
    processes: int = 6
    weights: Mapping[str, int] = WEIGHTS
    steps: Mapping[str, int] = STEPS
    variant: Variant = RIGHT
    pause: float = 0.004
    seed: int = attrs.field(factory=lambda: random.randrange(10**6))
    followers: bool = True

    def install(self, url: str) -> None:
        """Fresh tables, with the variant's functions."""
        client = lab_client(url)
        client.db.execute_sql("DROP SCHEMA IF EXISTS lab CASCADE")
        client.create_tables()
        client.db.execute_sql(
            self.variant.sql_for(client.events.pgevents_spec, self.pause).replace("%", "%%")
        )
        client.db.close()

    def run(self, url: str, *, is_installed: bool = False) -> Journal:
        """Race, and return what all processes have written down."""
        if not is_installed:
            self.install(url)
        context = multiprocessing.get_context("fork")
        with tempfile.TemporaryDirectory() as folder:
            workers = [
                context.Process(target=_work, args=(self, url, number, Path(folder) / f"{number}"))
                for number in range(self.processes)
            ]
            ending = context.Event()
            followers = [
                context.Process(target=_follow, args=(self, url, name, ending, Path(folder) / name))
                for name in (("all", "shape") if self.followers else ())
            ]
            for process in [*workers, *followers]:
                process.start()
            for process in workers:
                process.join(self.seconds + 60)
            ending.set()
            whole = Journal()
            for process in [*workers, *followers]:
                process.join(30)
                if process.exitcode is None:
                    process.kill()
                    whole.failures.append(f"{process.name} did not end")
            for path in Path(folder).iterdir():
                whole.add(pickle.loads(path.read_bytes()))
        return whole


def _work(race: Race, url: str, number: int, path: Path) -> None:
    race.variant.patch()
    pgevents.client.EventClient.final_wait = 2.0
    worker = Worker(race, url, number)
    try:
        worker.run()
    except BaseException:
        worker.journal.failures.append(traceback.format_exc())
    path.write_bytes(pickle.dumps(worker.journal))


def _follow(race: Race, url: str, name: str, ending: Any, path: Path) -> None:
    """A follower; it ends when the others have ended and nothing is left."""
    journal = Journal()
    try:
        race.variant.patch()
        client = lab_client(url)
        wanted = [stream()] if name == "all" else [stream(["A", "B"], tenant="acme")]
        subscription = Subscription(client, name, wanted)
        ids: list[int] = []
        while True:
            is_over = ending.is_set()
            if not subscription.process(lambda event: ids.append(event.id), limit=50) and is_over:
                break
            time.sleep(0.002)
        journal.followed[streams_text(wanted)] = ids
    except BaseException:
        journal.failures.append(traceback.format_exc())
    path.write_bytes(pickle.dumps(journal))


class Worker:
    """One process: one client, one connection, one journal."""

    def __init__(self, race: Race, url: str, number: int) -> None:
        self.race = race
        self.url = url
        self.number = number
        self.rng = random.Random(f"{race.seed}/{number}")
        self.names = Names(self.rng)
        self.journal = Journal()
        self.last_marker = 0
        self.known: dict[str, tuple[int, Tally]] = {}

    @cached_property
    def client(self) -> EventClient:
        return _client_on(database(self.url), (RENAMED,) if self.is_renamed else ())

    @cached_property
    def old_client(self) -> EventClient:
        """A program that knows the first version alone."""
        return _client_on(self.client.db, ())

    @property
    def is_renamed(self) -> bool:
        return self.race.shape == "renamed"

    @cached_property
    def typed_client(self) -> EventClient:
        """One for instances, on the same connection: the functions for one event are for these above all."""
        classes = (RENAMED,) if self.is_renamed else tuple(CLASSES.values())
        return _client_on(self.client.db, classes)

    def run(self) -> None:
        """Do one thing after another until time is up."""
        end = time.monotonic() + self.race.seconds
        names, weights = zip(*self.race.weights.items(), strict=True)
        while time.monotonic() < end:
            action = self.rng.choices(names, weights)[0]
            try:
                getattr(self, action)()
            except ConcurrencyError:
                self.journal.counts["conflicts"] += 1
            except RetryableError as error:
                self.journal.counts["retryable"] += 1
                self.journal.counts[f"retryable in {action}: {str(error)[:50]}"] += 1

    # -- saving --

    def new(self, saw: Mapping[str, Any] | None = None, **fixed: Any) -> dict[str, Any]:
        """An event that can be told from all others."""
        self.last_marker += 1
        data = {field: self.names.one(field) for field in ("k", "g", "u")} | {"tenant": "acme"}
        if self.race.shape == "many":
            data["tags"] = self.names.several("tag")[: self.rng.randrange(4)]
        data |= fixed
        data |= {"m": f"{self.number}-{self.last_marker}"} | {
            f"saw_{name}": value for name, value in (saw or {}).items()
        }
        return {"type": "R" if self.is_renamed else self.rng.choice(TYPES), "data": data}

    def acknowledge(self, events: Sequence[Event[Any]]) -> None:
        for event in events:
            self.journal.saved[event.data["m"] if isinstance(event.data, dict) else event.data.m] = event.id

    @contextmanager
    def expecting(self, events: Sequence[dict[str, Any]]) -> Iterator[None]:
        """Events whose save is refused must never be in the log."""
        try:
            yield
        except RetryableError:
            self.journal.withdrawn |= {event["data"]["m"] for event in events}
            raise

    def plain(self) -> None:
        self.save([self.new()])

    def small_batch(self) -> None:
        self.save([self.new() for _ in range(self.rng.randint(2, 6))])

    def bulk_batch(self) -> None:
        """More keys than are locked one by one, the contested ones among them."""
        if self.race.shape == "many" and self.rng.random() < 0.7:  # in one event, or in a few
            tags = [f"tag{self.rng.randrange(10**9)}" for _ in range(100)]
            more = [self.new(tags=tags[:30]) for _ in range(self.rng.choice([0, 3]))]
            self.save([*more, self.new(tags=[*tags, self.names.one("tag")])])
            return
        events = [self.new(k=f"k{self.rng.randrange(10**9)}") for _ in range(80)]
        self.save([*events, self.new(), self.new()])

    def save(self, events: list[dict[str, Any]]) -> None:
        client = self.client
        if self.is_renamed and self.rng.random() < 0.5:
            client, events = self.old_client, [_by_old_name(event) for event in events]
        with self.expecting(events):
            self.acknowledge(client.save_events(events))
        self.journal.counts["plain"] += 1

    def validated(
        self, known: Any, saw: Tally, streams: Streams, given: Streams | None = None, count: int = 1
    ) -> None:
        text = streams_text(streams)
        noted = {"streams": text, "count": saw.count, "last": saw.last}
        events = [self.new(noted), *(self.new() for _ in range(count - 1))]
        with self.expecting(events):
            if count == 1 and self.rng.random() < 0.5:
                self.acknowledge([self.validated_instance(events[0], known, streams, given)])
            else:
                self.acknowledge(self.client.save_events_with_stream_validation(events, known, given))
        self.journal.counts["validated"] += 1

    def validated_instance(
        self, new: Mapping[str, Any], known: Any, streams: Streams, given: Streams | None
    ) -> Event[Any]:
        """As an instance, which mostly belongs to the stream that it is decided on."""
        asked = dict(streams[0].match).get("k", ())
        own: dict[str, Any] = {"k": asked[0]} if len(asked) == 1 and self.rng.random() < 0.8 else {}
        if self.race.shape == "many" and self.rng.random() < 0.8:
            own = {"tags": [*dict(streams[0].match)["tags"], "tag"]}
        cls = RENAMED if self.is_renamed else CLASSES[new["type"]]
        decision = cls(**new["data"] | own)
        return self.typed_client.save_event_with_stream_validation(decision, known, given)

    def streams(self) -> list[Stream[Any]]:
        return SHAPES[self.race.shape](self.names)

    def is_long(self, streams: Streams) -> bool:
        """Whether a stream has no identifier that changes, so that it is read from a final bound on."""
        return any(set(dict(one.match)) <= {"tenant"} for one in streams)

    def by_position(self) -> None:
        """An ordinary read, and its position."""
        streams = self.streams()
        if self.is_long(streams):
            self.by_tail(streams)
            return
        read = self.client.get_event_streams(streams)
        self.think()
        self.validated(read, tally(read), streams)

    def validated_batch(self) -> None:
        streams = self.streams()
        if self.is_long(streams):
            self.by_tail(streams)
            return
        read = self.client.get_event_streams(streams)
        self.validated(read.position, tally(read), streams, count=self.rng.choice([2, 3, 40]))

    def by_tail(self, streams: Streams | None = None) -> None:
        """A final read as the base, continued by an ordinary read."""
        streams = streams or self.streams()
        base, known = self.final_tally(streams)
        tail = self.client.get_event_streams(streams, after=base)
        self.think()
        self.validated(tail, tally(tail, known), streams)

    def final_tally(self, streams: Streams) -> tuple[int, Tally]:
        """The tally up to a final bound, continued from the last one of the same streams."""
        text = streams_text(streams)
        base, known = self.known.get(text, (0, Tally()))
        read = self.client.reader.read_final(streams, ReadOptions(base))
        known = tally(read, known)
        if not self.client.db.in_transaction():
            self.known[text] = read.position.base, known
        return read.position.base, known

    def by_id(self) -> None:
        """A bare id, from a final look at the latest event."""
        streams = self.streams()
        if len(streams) > 1:
            streams = streams[:1]
        types, match = streams[0].types, {field: list(values) for field, values in streams[0].match}
        latest = self.client.get_latest_event(types, data=match or everything)
        upto = 0 if latest is None else latest.id
        base, known = self.known.get(streams_text(streams), (0, Tally()))
        if base > upto:
            base, known = 0, Tally()
        seen = self.client.get_event_streams(streams, after=base, as_of=upto)
        self.think()
        self.validated(upto, tally(seen, known), streams, streams)

    def decide(self) -> None:
        streams = self.streams()
        decided: list[dict[str, Any]] = []

        def decider(view: Tally) -> dict[str, Any]:
            self.think()
            noted = {"streams": streams_text(streams), "count": view.count, "last": view.last}
            decided.append(self.new(noted))
            return decided[-1]

        projection = TallyProjection(streams_text(streams), self.client)
        if self.is_long(streams):
            projection.save_projection()
        with self.expecting(decided):
            self.acknowledge(self.client.decide(projection, decider))
        self.journal.withdrawn |= {event["data"]["m"] for event in decided[:-1]}
        self.journal.counts["validated"] += 1
        self.journal.counts["decisions"] += 1
        self.journal.counts["tries of decisions"] += len(decided)

    def by_newest(self) -> None:
        """A read of the newest event alone: what it is decided on is that there is no newer one."""
        streams = self.streams()
        read = self.client.get_event_streams(streams, limit=1, reverse=True)
        self.think()
        self.validated(read, newest(read), streams)

    def decide_newest(self) -> None:
        """The same by `decide`, of a question with one stream."""
        asked, *_ = self.streams()
        decided: list[dict[str, Any]] = []

        def decider(last: Event[Any] | None) -> dict[str, Any]:
            self.think()
            saw = newest([] if last is None else [last])
            noted = {"streams": streams_text([asked]), "count": saw.count, "last": saw.last}
            decided.append(self.new(noted))
            return decided[-1]

        match = {field: list(values) for field, values in asked.match}
        with self.expecting(decided):
            question = latest(asked.types, data=match or everything)
            self.acknowledge(self.client.decide(question, decider))
        self.journal.withdrawn |= {event["data"]["m"] for event in decided[:-1]}
        self.journal.counts["validated"] += 1

    def repeat(self) -> None:
        """One of few keys, with its content, by everybody: it is saved once, and everybody hears of that."""
        number = f"{int(time.time() / EPOCH)}-{self.rng.randrange(4)}"
        events = [
            {
                "type": "A",
                "data": {"k": f"k{number}", "u": f"u{number}", "tenant": "acme", "m": f"key-{number}-{n}"},
            }
            for n in range(1 + hash(number) % 3)
        ]
        if self.rng.random() < 0.5:
            saved = self.client.save_events(events, idempotency_key=number)
        else:
            read = self.client.get_event_stream(k=f"k{number}")
            saved = self.client.save_events_with_stream_validation(events, read, idempotency_key=number)
        self.acknowledge(saved)
        self.journal.repeats.setdefault(number, set()).add(tuple(event.id for event in saved))
        self.journal.counts["repeats"] += 1

    def think(self) -> None:
        if self.rng.random() < 0.3:
            time.sleep(self.rng.random() * self.race.pause)

    # -- transactions of the caller --

    def transaction(self) -> None:
        """Several steps in one transaction, some rolled back."""
        with self.joint() as withdraw:
            for _ in range(self.rng.randint(1, 4)):
                self.step()
            if self.rng.random() < 0.2:
                withdraw()

    def step(self) -> None:
        """A step; a conflict does not harm the transaction, and is no reason to leave it."""
        names, weights = zip(*self.race.steps.items(), strict=True)
        try:
            getattr(self, self.rng.choices(names, weights)[0])()
        except ConcurrencyError:
            self.journal.counts["conflicts"] += 1

    def savepoint(self) -> None:
        """Steps in a savepoint, half of the time rolled back; the transaction goes on in any case."""
        try:
            with self.joint() as withdraw:
                for _ in range(self.rng.randint(1, 2)):
                    self.step()
                if self.rng.random() < 0.5:
                    withdraw()
        except RetryableError:
            self.journal.counts["retryable"] += 1
            self.journal.counts["retryable in savepoint"] += 1

    def withdrawn_first(self) -> None:
        """A savepoint that is rolled back, and then a save which nobody must believe to be published
        already."""
        with self.joint():
            with self.joint() as withdraw:
                self.plain()
                withdraw()
            self.rest()
            self.plain()
            self.rest()

    def stale_after_rollback(self) -> None:
        """A position that has seen events of a savepoint which was rolled back: must be refused, or be
        empty-handed."""
        streams = self.streams()
        with self.joint() as withdraw:
            self.plain()
            read = self.client.get_event_streams(streams, after=self.final_tally(streams)[0])
            withdraw()
        if any(event.data["m"] in self.journal.withdrawn for event in read):
            try:
                self.validated(read, Tally(-1, -1), streams)
            except ConcurrencyError:
                self.journal.counts["conflicts"] += 1

    def withdrawn_premise(self) -> None:
        """A position that has seen events of a savepoint which was rolled back, while others save: an
        ordinary read, or a final one."""
        with self.joint():
            streams = self.streams()
            with self.joint() as withdraw:
                self.plain()
                is_final = self.rng.random() < 0.5
                read = (
                    self.client.reader.read_final(streams)
                    if is_final
                    else self.client.get_event_streams(streams)
                )
                withdraw()
            self.rest()
            if any(event.data["m"] in self.journal.withdrawn for event in read):
                with suppress(ConcurrencyError):
                    self.validated(read, Tally(-1, -1), streams)

    def withdrawn_newest(self) -> None:
        """The newest event is one of a savepoint which was rolled back: it is not the newest any more."""
        with self.joint():
            streams = self.streams()
            with self.joint() as withdraw:
                self.plain()
                read = self.client.get_event_streams(streams, limit=1, reverse=True)
                withdraw()
            self.rest()
            if any(event.data["m"] in self.journal.withdrawn for event in read):
                with suppress(ConcurrencyError):
                    self.validated(read, newest(read), streams)

    def many(self) -> None:
        """So many saves that the transaction passes from single keys to the bulk lock."""
        for _ in range(self.rng.choice([3, 25])):
            self.save([self.new(k=f"k{self.rng.randrange(10**9)}"), self.new()])

    def rest(self) -> None:
        time.sleep(self.rng.random() * 0.006)

    @contextmanager
    def joint(self) -> Iterator[Callable[[], None]]:
        """A transaction, or a savepoint in one: what it tells is true only once it ends well."""
        outer, self.journal = self.journal, Journal(counts=Counter())

        def withdraw() -> None:
            raise Withdraw

        try:
            with self.client.db.atomic():
                yield withdraw
        except BaseException as error:
            outer.add(self.journal.rolled_back())
            self.journal = outer
            if not isinstance(error, Withdraw):
                raise
            self.journal.counts["rolled back"] += 1
        else:
            self.journal, inner = outer, self.journal
            outer.add(inner)

    # -- final reads --

    def snapshot(self) -> None:
        streams = self.streams()
        projection = TallyProjection(streams_text(streams), self.client)
        result = projection.save_projection()
        row = result.projection
        self.journal.snapshots.append(Taken(row.id, row.latest_event_id, row.data))
        self.journal.counts["snapshots"] += 1

    def final(self) -> None:
        """A final read that waits for what is visible, or one that cuts."""
        self.note_final(wait=2.0 if self.rng.random() < 0.5 else None)

    def final_cut(self) -> None:
        self.note_final(wait=None)

    def note_final(self, wait: float | None) -> None:
        streams = self.streams()
        after = 0
        if self.is_long(streams):
            after = max(0, self.client.horizon().id - self.rng.randrange(200))
        read = self.client.reader.read_final(streams, ReadOptions(after), wait=wait)
        ids = tuple(event.id for event in read)
        own = self.client.db.in_transaction()
        self.journal.finals.append(FinalRead(streams_text(streams), after, read.position.base, ids, own))
        self.journal.counts["final reads"] += 1

    def horizon(self) -> None:
        """Below the horizon nothing comes; what is read afterwards is all there will ever be."""
        bound = self.client.horizon().id
        after = max(0, bound - 200)
        read = self.client.get_event_streams([stream()], after=after, as_of=bound)
        ids = tuple(event.id for event in read)
        self.journal.finals.append(FinalRead(streams_text([stream()]), after, bound, ids))
        self.journal.counts["final reads"] += 1


def newest(events: Sequence[Event[Any]]) -> Tally:
    """What a read of the newest event alone has seen; of older ones it says nothing."""
    return Tally(NEWEST_ALONE, events[0].id if events else 0)


def _by_old_name(event: dict[str, Any]) -> dict[str, Any]:
    data = dict(event["data"])
    data["o"] = data.pop("k")
    return {"type": event["type"], "data": data}


def tally(events: Sequence[Event[Any]], start: Tally | None = None) -> Tally:
    folded = start or Tally()
    for event in events:
        folded = folded.add(event.id)
    return folded
