"""What the contenders are asked to do, and how well pgevents has to do it."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

from attrs import frozen

from .carts import PLAIN, TENANT, Sample, Shop, big_carts, samples, small_carts
from .contenders import Contender

__all__ = ["Database", "Goal", "Run", "Scale", "Task", "Workload", "workloads"]

Op = Callable[[], int]
Driver = Callable[["Contender", "Task"], Op]


@frozen
class Scale:
    """How large everything is.

    Attributes:
        rounds: How many slices each contender gets.
        seconds: How long a slice is.
        fresh: Events in the table before the writing workloads begin (an empty one has no statistics to plan by).
        log: Events in the table of the reading workloads, and of the one long cart.
        views: Snapshots in the projections table.
        few, many: Processes of workloads 3 to 5.
        deciders: Processes of workload 6.
        batches: Events of a batch in workload 7.
        growth: Events in the tables of workload 14.
    """

    rounds: int = 5
    seconds: float = 2.0
    fresh: int = 20_000
    log: int = 1_000_000
    views: int = 100_000
    few: int = 8
    many: int = 32
    deciders: tuple[int, ...] = (2, 8, 32)
    batches: tuple[int, ...] = (1, 10, 100, 1_000, 10_000)
    growth: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)


QUICK = Scale(1, 0.05, 400, 2_500, 200, 2, 3, (2,), (1, 100), (400, 2_500))


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
class Goal:
    """A ratio to reach.

    Attributes:
        label: Whose rate.
        floor: The least ratio, or the least rate if nothing is given to compare with.
        of: Labels to compare with; the fastest of them counts.
        what: What they are, for the report.
    """

    label: str
    floor: float
    of: tuple[str, ...]
    what: str


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


@frozen
class Workload:
    """One thing to measure.

    Attributes:
        key: Number and variant, such as `7/1000`.
        title: For people.
        runs: What is compared, by label.
        driver: Makes the operation that is repeated; it returns how many units it did.
        unit: What is counted.
        goals: What is to be reached.
        processes: How many do it at once.
        warm: Operations before the clock runs.
        limits: Labels of the limit; the fastest of them counts.
    """

    key: str
    title: str
    runs: dict[str, Run]
    driver: Driver
    unit: str
    goals: tuple[Goal, ...] = ()
    processes: int = 1
    warm: int = 20
    limits: tuple[str, ...] = ("limit",)


# -- drivers: they feed a method of a contender, operation by operation ------------------------------------------------


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


# -- the workloads -----------------------------------------------------------------------------------------------------


def runs(database: Database, **methods: str) -> dict[str, Run]:
    """Runs by label; `_` in a label stands for a space, and the label begins with the contender's key."""
    made: dict[str, Run] = {}
    for name, method in methods.items():
        label = name.replace("_", " ")
        key = max((key for key in KEYS if label.startswith(key)), key=len)
        made[label] = Run(key, method, database)
    return made


KEYS = ("limit", "check", "check in function", "copy", "pgevents", "dcb", "classic")
CHECKS = ("check", "check in function")
PEERS = ("dcb", "classic")


def goals(limit: float | None = None, check: float | None = None, peer: float | None = None) -> tuple[Goal, ...]:
    """The three usual goals of pgevents."""
    wanted = (
        (limit, ("limit",), "the limit"),
        (check, CHECKS, "the unlocked check"),
        (peer, PEERS, "the better peer"),
    )
    return tuple(Goal("pgevents", floor, of, what) for floor, of, what in wanted if floor is not None)


def workloads(scale: Scale) -> list[Workload]:
    """All of them, in order."""
    fresh, log = Database("carts", scale.fresh), Database("carts", scale.log)
    tenant, cart = Database("carts", scale.fresh, tenant=True), Database("cart", scale.log)
    validated = {
        "limit": "save_validated",
        "check": "save_validated",
        "check_in_function": "save_validated",
        "pgevents": "save_validated",
        "dcb": "save_validated",
        "classic": "save_validated",
    }
    made = [
        Workload(
            "1", "plain saves, one connection",
            runs(fresh, limit="save", pgevents="save", dcb="save", classic="save"),
            single_events, "events", goals(limit=0.85, peer=1.5),
        ),
        Workload(
            "2", "validated saves, one connection", runs(fresh, **validated), single_events, "events",
            goals(limit=0.8, check=0.9, peer=1.5),
        ),
    ]
    for key, processes in (("3", scale.few), ("4", scale.many)):
        made.append(Workload(
            key, f"validated saves, {processes} processes on carts of their own", runs(fresh, **validated),
            single_events, "events", goals(limit=0.6, check=0.85, peer=3), processes,
        ))
    made.append(Workload(
        "5", f"the same from {scale.many} processes with one tenant on every event",
        runs(tenant, **validated) | runs(fresh, pgevents_without_tenant="save_validated"), single_events, "events",
        (Goal("pgevents", 0.9, ("pgevents without tenant",), "workload 4"), *goals(peer=3)), scale.many,
    ))
    for processes in scale.deciders:
        made.append(Workload(
            f"6/{processes}", f"decide on one hot cart, {processes} processes",
            runs(fresh, limit="decide", pgevents="decide", dcb="decide", classic="decide"),
            hot_cart, "decisions", (), processes, warm=2,
        ))
    for size in scale.batches:
        made.append(Workload(
            f"7/{size}", f"batches of {size:,}",
            runs(fresh, limit="save_batch", copy="save_batch", pgevents="save_batch", dcb="save_batch", classic="save_batch"),
            batches(size), "events",
            (Goal("pgevents", 0.7, ("copy",), "COPY"), *goals(peer=1.7)) if size >= 1_000 else (),
            warm=20 if size < 1_000 else 2, limits=("limit", "copy"),
        ))
    made += [
        Workload(
            "8", f"read a cart of 20 events out of {scale.log:,}",
            runs(log, limit="read", pgevents="read", pgevents_final="read_final", dcb="read", classic="read"),
            carts, "reads",
            (
                Goal("pgevents", 0.7, ("limit",), "the limit"),
                Goal("pgevents final", 0.4, ("limit",), "the limit"),
                Goal("pgevents", 1, ("classic",), "the classic recorder"),
                Goal("pgevents", 3, ("dcb",), "the DCB recorder"),
            ),
        ),
        Workload(
            "9", f"decide on a cart of 20 events out of {scale.log:,}",
            runs(log, limit="decide", pgevents="decide", dcb="decide", classic="decide"), carts, "decisions",
        ),
    ]
    for variant, ids in (("20", small_carts), ("1000", big_carts)):
        made.append(Workload(
            f"10/{variant}", f"view of a cart of {variant} events",
            runs(
                log, limit="read", limit_after_snapshot="read_after_snapshot", pgevents="view",
                pgevents_after_snapshot="view", dcb="view", classic="view", classic_after_snapshot="view_after_snapshot",
            ),
            some_carts(ids), "views", limits=("limit",),
        ))
    made += [
        Workload(
            "11", f"iterate {scale.log:,} events",
            runs(
                log, limit="iterate", pgevents="iterate", pgevents_dicts="iterate_dicts", dcb="iterate",
                classic="iterate", dcb_decoded="iterate_decoded", classic_decoded="iterate_decoded",
            ),
            whole_log, "events", goals(limit=0.4, peer=1.5), warm=0,
        ),
        Workload(
            "12", f"fold {scale.log:,} events of one cart",
            runs(
                cart, limit="fold", pgevents="fold", pgevents_view="view", pgevents_from_memory="fold_from_memory",
                dcb="fold", classic="fold",
            ),
            long_cart, "reducer calls",
            (Goal("pgevents from memory", 1_000_000, (), "a second"), *goals(peer=3)), warm=0,
        ),
        Workload(
            "13", f"ten projections by an indexed field out of {scale.views:,}",
            runs(Database("views", scale.views), limit="query", pgevents="query"), users, "queries",
        ),
    ]
    return made + growth(scale)


def growth(scale: Scale) -> list[Workload]:
    """Workloads again, at each size of the table in the same rounds."""
    made: list[Workload] = []
    saves = {"limit": "save", "pgevents": "save", "dcb": "save", "classic": "save"}
    validated = {name: "save_validated" for name in (*saves, "check_in_function")}
    batch = {name: "save_batch" for name in saves}
    reads = {**{name: "read" for name in saves}, "pgevents_final": "read_final"}
    decide = {name: "decide" for name in saves}
    parts: tuple[tuple[str, str, dict[str, str], Driver, str, bool], ...] = (
        ("save", "plain saves", saves, single_events, "events", False),
        ("validated", "validated saves", validated, single_events, "events", True),
        ("batch", "batches of 100", batch, batches(100), "events", False),
        ("read", "read of a cart of 20 events", reads, carts, "reads", True),
        ("decide", "decide on a cart of 20 events", decide, carts, "decisions", False),
    )
    first, last = f"{scale.growth[0]:,}", f"{scale.growth[-1]:,}"
    for key, title, methods, driver, unit, has_goal in parts:
        by_size: dict[str, Run] = {}
        for size in scale.growth:
            for label, run in runs(Database("carts", size), **methods).items():
                by_size[f"{label} at {size:,}"] = run
        made.append(Workload(
            f"14/{key}", f"growth: {title}", by_size, driver, unit,
            (Goal(f"pgevents at {last}", 1 / 1.2, (f"pgevents at {first}",), f"{first} events"),) if has_goal else (),
        ))
    return made
