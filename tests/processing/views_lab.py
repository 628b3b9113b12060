"""A race for kept views: savers, keepers, and somebody who kills, deletes, saves by hand, erases and resizes.

In the end every view is compared with its fold from the start, and the oracle sees whether one is missing.
"""

from __future__ import annotations

import multiprocessing
import random
import signal
import sys
import time
from contextlib import suppress
from typing import Any

import attrs
import peewee
from attrs import frozen

from pgevents import (
    Event,
    EventClient,
    MultiStreamProjectionBase,
    ProjectionBase,
    event,
    pipeline,
    stream,
)
from pgevents.errors import PgEventsError
from pgevents.subscriptions import Runner, keep, resize

from ..conftest import database, shop_client

SPAWN = multiprocessing.get_context("spawn")


@event("MOVED")
class Moved:
    """Money that goes from one account to another."""

    cart_id: str
    product_id: str
    cents: int
    by: str = "somebody"


@frozen
class Sent:
    id: str
    count: int = 0
    cents: int = 0
    last: int = 0


class SentProjection(ProjectionBase[Sent, Moved]):
    """What an account has sent."""

    projection_type = "SENT"
    reducers = pipeline(
        count=lambda count, event: count + 1,
        cents=lambda cents, event: cents * 3 % 1_000_003 + event.data.cents,
        last=lambda last, event: event.id,
    )

    def get_event_identifiers(self) -> dict[str, Any]:
        return {"cart_id": self.id}


class SentTwo(SentProjection):
    """The next version: in another order of operations."""

    version = 2
    reducers = pipeline(cents=lambda cents, event: (cents + event.data.cents) * 5 % 1_000_003)


def to_sent(view: Sent, event: Event[Moved]) -> Sent:
    sign = (event.data.product_id == view.id) - (event.data.cart_id == view.id)
    return Sent(view.id, view.count + 1, view.cents * 3 % 1_000_003 + sign * event.data.cents, event.id)


class AccountProjection(MultiStreamProjectionBase[Sent, Moved]):
    """What an account has sent and got: an event changes two views."""

    projection_type = "ACCOUNT"
    reducers = pipeline(to_sent)

    def get_stream_options(self) -> Any:
        return [stream(Moved, cart_id=self.id), stream(Moved, product_id=self.id)]

    @staticmethod
    def ids_of(event: Event[Moved]) -> set[str]:
        return {event.data.cart_id, event.data.product_id}


CLASSES: tuple[Any, ...] = (SentProjection, SentTwo, AccountProjection)
LANES = 16


def keeps() -> list[Any]:
    """What keepers keep."""
    return [keep(cls, lanes=LANES) for cls in CLASSES]


def name_of(cls: Any) -> str:
    return f"view {cls.projection_type} {cls.version} in views"


@attrs.frozen
class Race:
    """How it is run.

    Attributes:
        seconds: For how long events are saved.
        accounts: How many ids.
        keepers: Processes that keep, with two threads each.
        disturbances: How many a second.
        patience: Seconds until all must be folded.
        seed: Of the random numbers.
    """

    seconds: float = 3.0
    accounts: int = 12
    keepers: int = 2
    disturbances: float = 4.0
    patience: float = 60.0
    seed: int = 1


def client_of(url: str) -> EventClient:
    return shop_client(database(url), [Moved])


def save(url: str, race: Race, number: int) -> None:
    """Plain saves, batches, late commits and rollbacks."""
    client, rng = client_of(url), random.Random(race.seed * 100 + number)

    def one() -> Moved:
        return Moved(
            f"a{rng.randrange(race.accounts)}", f"a{rng.randrange(race.accounts)}", rng.randrange(99)
        )

    end = time.monotonic() + race.seconds
    while time.monotonic() < end:
        with suppress(PgEventsError, peewee.PeeweeException):
            if rng.random() < 0.8:
                client.save_events([one() for _ in range(rng.choice([1, 1, 5]))])
            else:
                with client.db.atomic() as transaction:
                    client.save_event(one())
                    time.sleep(rng.random() * 0.05)
                    if rng.random() < 0.3:
                        transaction.rollback()
        time.sleep(0.01)
    client.db.close()


def work(url: str) -> None:
    """A keeper, until it is killed or told to end."""
    client = client_of(url)
    runner = Runner(client, keeps())
    signal.signal(signal.SIGTERM, lambda number, frame: runner.stop())
    try:
        runner.run(workers=2)
    except Exception as error:
        print(f"keeper: {error!r}", file=sys.stderr)
        raise


def disturb(client: EventClient, rng: random.Random, race: Race, keepers: list[Any]) -> str:
    """One of the things that happen to views."""
    account = f"a{rng.randrange(race.accounts)}"
    what = rng.choice(["kill", "delete", "save", "erase", "remove", "resize"])
    with suppress(PgEventsError, peewee.PeeweeException):
        if what == "kill" and keepers:
            rng.choice(keepers).kill()
        elif what == "delete":
            client.db.execute_sql("DELETE FROM my_app.views WHERE id = %s", [account])
        elif what == "save":
            rng.choice(CLASSES)(account, client).save_projection()
        elif what in ("erase", "remove"):
            client.db.execute_sql("SET lock_timeout = '2s'")
            with client.maintenance("erasure"):
                sql = "UPDATE my_app.events SET data = data || '{\"cents\": 0}'"
                if what == "remove":
                    sql = "DELETE FROM my_app.events"
                client.db.execute_sql(
                    f"{sql} WHERE id = (SELECT max(id) - %s FROM my_app.events)", [rng.randrange(40)]
                )
        elif what == "resize":
            resize(client, name_of(rng.choice(CLASSES)), rng.choice([1, 3, 16]))
    return what


def run(url: str, race: Race) -> list[str]:
    """Run the race on an empty database; what is wrong in the end."""
    client = client_of(url)
    client.create_tables()
    rng = random.Random(race.seed)
    keepers: list[Any] = []
    savers = [SPAWN.Process(target=save, args=(url, race, n), daemon=True) for n in range(2)]
    for saver in savers:
        saver.start()
    counts: dict[str, int] = {}
    while any(saver.is_alive() for saver in savers):
        _start(url, race, keepers)
        time.sleep(rng.expovariate(race.disturbances))
        what = disturb(client, rng, race, keepers)
        counts[what] = counts.get(what, 0) + 1
    found = settle(client, url, race, keepers)
    for keeper in keepers:
        keeper.terminate()
        keeper.join(10)
        keeper.kill()
    (total,) = client.db.execute_sql("SELECT count(*) FROM my_app.events").fetchone()
    print(f"{total} events, {counts}")
    found += judge(client, race)
    client.db.close()
    return found


def _start(url: str, race: Race, keepers: list[Any]) -> None:
    keepers[:] = [keeper for keeper in keepers if keeper.is_alive()]
    while len(keepers) < race.keepers:
        keepers.append(SPAWN.Process(target=work, args=(url,), daemon=True))
        keepers[-1].start()


def settle(client: EventClient, url: str, race: Race, keepers: list[Any]) -> list[str]:
    """Wait until queries are answered in whole, as of the end of the log."""
    (last,) = client.db.execute_sql("SELECT coalesce(max(id), 0) FROM my_app.events").fetchone()
    end = time.monotonic() + race.patience
    for cls in CLASSES:
        while True:
            _start(url, race, keepers)
            try:
                client.wait(cls, last, timeout=1)
                client.snapshots.kept.forget()
                if client.query_projections(cls, limit=1).is_whole:
                    break
            except PgEventsError as error:
                if time.monotonic() > end:
                    return [f"{cls.__name__}: not settled: {error}"]
    return []


def judge(client: EventClient, race: Race) -> list[str]:
    """Which views are other than their folds from the start."""
    wrong: list[str] = []
    for cls in CLASSES:
        rows = {row.id: row for row in client.query_projections(cls, partial="allow")}
        for number in range(race.accounts):
            whole = cls(f"a{number}", client, load_existing_projection=False)
            row = rows.get(f"a{number}")
            last = whole.position.last_id
            if row is None:
                if last:
                    wrong.append(f"{cls.__name__} a{number} is missing")
            elif row.data != whole.view:
                wrong.append(
                    f"{cls.__name__} a{number}: {row.data} at {row.latest_event_id}, not {whole.view}"
                )
    return wrong
