"""Who feeds the contenders: a driver makes the operation that is repeated, from a method of a contender."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from attrs import frozen

from .carts import PLAIN, TENANT, Sample, Shop, samples, small_carts
from .contenders import Contender

__all__ = [
    "Database",
    "Driver",
    "Run",
    "Task",
    "batches",
    "carts",
    "hot_cart",
    "long_cart",
    "single_events",
    "some_carts",
    "users",
    "whole_log",
]

Op = Callable[[], int]
Driver = Callable[["Contender", "Task"], Op]


@frozen
class Database:
    """A database that is made and filled for some workloads.

    Attributes:
        kind: "carts": a shop's log; "cart": one cart only; "views": snapshots, and a short log.
        size: How many events, or snapshots.
        tenant: Whether every event carries the one tenant, which is indexed too.
    """

    kind: str
    size: int
    tenant: bool = False

    @property
    def shop(self) -> Shop:
        """The kind of events in it."""
        return TENANT if self.tenant else PLAIN

    @property
    def name(self) -> str:
        """What it is called on the server, after a prefix."""
        return f"{self.kind}_{self.size}{'_tenant' if self.tenant else ''}"


@frozen
class Run:
    """What one contender does in a workload.

    Attributes:
        contender: Key of `CONTENDERS`.
        method: Its method.
        database: Where.
    """

    contender: str
    method: str
    database: Database


@frozen
class Task:
    """What a worker knows of its place.

    Attributes:
        key: The workload's.
        label: The run's.
        run: What to do.
        number: Of the worker among those of its run, from 0.
        hot: Counters that the workers of a run share: the cart that all decide on, tries, failures.
    """

    key: str
    label: str
    run: Run
    number: int
    hot: Any = None

    @property
    def owner(self) -> str:
        """What the ids of its own carts begin with."""
        return f"w{self.key}-{self.label}-{self.number}".replace(" ", "-")


def _pool(task: Task, count: int) -> list[Sample]:
    return samples(task.run.database.shop, task.owner, count)


def single_events(contender: Contender, task: Task) -> Op:
    """One event after the other, of carts that nobody else writes to."""
    save, several = getattr(contender, task.run.method), itertools.cycle(_pool(task, 2_000))

    def op() -> int:
        save(next(several))
        return 1

    return op


def batches(size: int) -> Driver:
    """So many events at once."""

    def driver(contender: Contender, task: Task) -> Op:
        save, pool = getattr(contender, task.run.method), _pool(task, max(size, 2_000))
        starts = itertools.cycle(range(0, len(pool) - size + 1, size))

        def op() -> int:
            start = next(starts)
            save(pool[start : start + size])
            return size

        return op

    return driver


def carts(contender: Contender, task: Task) -> Op:
    """One ordinary cart after the other, in random order, none twice before all were asked for."""
    ids = small_carts(task.run.database.size)
    random.Random(task.number).shuffle(ids)
    ask, several = getattr(contender, task.run.method), itertools.cycle(ids)

    def op() -> int:
        ask(next(several))
        return 1

    return op


def some_carts(ids: Callable[[int], list[str]]) -> Driver:
    """A few carts again and again; every other one has a snapshot, for those runs that are labelled so."""

    def driver(contender: Contender, task: Task) -> Op:
        snapshot = "snapshot" in task.label
        chosen = ids(task.run.database.size)[int(snapshot) :: 2][:200]
        if snapshot:
            for cart in chosen:
                contender.snapshot(cart)  # type: ignore[attr-defined]
        ask, several = getattr(contender, task.run.method), itertools.cycle(chosen)

        def op() -> int:
            ask(next(several))
            return 1

        return op

    return driver


def hot_cart(contender: Contender, task: Task) -> Op:
    """All decide on the same cart, until it is full; then on the next."""
    decide, hot = getattr(contender, task.run.method), task.hot

    def op() -> int:
        number = hot["cart"].value
        tries, full = decide(f"hot-{task.key}-{task.label}-{number}")
        with hot["tries"].get_lock():
            hot["tries"].value += abs(tries)
        if full:
            with hot["cart"].get_lock():
                if hot["cart"].value == number:
                    hot["cart"].value = number + 1
        if tries < 0:
            with hot["failed"].get_lock():
                hot["failed"].value += 1
        return 0 if full or tries < 0 else 1

    return op


def users(contender: Contender, task: Task) -> Op:
    """The snapshots of one user after the other."""
    rng = random.Random(task.number)
    ask, count = getattr(contender, task.run.method), task.run.database.size // 10

    def op() -> int:
        assert ask(f"u{rng.randrange(count)}") == 10
        return 1

    return op


def whole_log(contender: Contender, task: Task) -> Op:
    """All of it."""
    method: Op = getattr(contender, task.run.method)
    return method


def long_cart(contender: Contender, task: Task) -> Op:
    """Three reducers on every event of the one long cart."""
    calls = 3 * task.run.database.size
    fold = getattr(contender, task.run.method)
    if task.run.method == "fold_from_memory":
        fold = fold()

    def op() -> int:
        if task.run.method == "view":
            fold("c0")
        else:
            fold()
        return calls

    return op
