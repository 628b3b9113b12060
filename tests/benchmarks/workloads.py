"""What the contenders are asked to do, and how well pgevents has to do it."""

from __future__ import annotations

from attrs import frozen

from .carts import big_carts, small_carts
from .contenders import CONTENDERS
from .drivers import (
    Database,
    Driver,
    Run,
    batches,
    carts,
    hot_cart,
    long_cart,
    single_events,
    some_carts,
    users,
    whole_log,
)

__all__ = ["PEERS", "QUICK", "Goal", "Scale", "Workload", "workloads"]


@frozen
class Scale:
    """How large everything is.

    Attributes:
        rounds: How many slices each contender gets.
        seconds: How long a slice is.
        fresh: Events in the table before the writing workloads begin (an empty one has no statistics to plan
            by).
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


def runs(database: Database, **methods: str) -> dict[str, Run]:
    """Runs by label; `_` in a label stands for a space, and the label begins with the contender's key."""
    made: dict[str, Run] = {}
    for name, method in methods.items():
        label = name.replace("_", " ")
        key = max((key for key in CONTENDERS if label.startswith(key)), key=len)
        made[label] = Run(key, method, database)
    return made


CHECKS = ("check", "check in function")
PEERS = ("dcb", "classic")


def goals(
    limit: float | None = None, check: float | None = None, peer: float | None = None
) -> tuple[Goal, ...]:
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
    everybody = (
        "limit",
        "check",
        "check_in_function",
        "functions",
        "bare_client",
        "pgevents",
        "dcb",
        "classic",
    )
    validated = dict.fromkeys(everybody, "save_validated")
    made = [
        Workload(
            "1",
            "plain saves, one connection",
            runs(
                fresh,
                limit="save",
                functions="save",
                bare_client="save",
                pgevents="save",
                dcb="save",
                classic="save",
            ),
            single_events,
            "events",
            goals(limit=0.85, peer=1.5),
        ),
        Workload(
            "2",
            "validated saves, one connection",
            runs(fresh, **validated),
            single_events,
            "events",
            goals(limit=0.8, check=0.9, peer=1.5),
        ),
    ]
    for key, processes in (("3", scale.few), ("4", scale.many)):
        made.append(
            Workload(
                key,
                f"validated saves, {processes} processes on carts of their own",
                runs(fresh, **validated),
                single_events,
                "events",
                goals(limit=0.6, check=0.85, peer=3),
                processes,
            )
        )
    made.append(
        Workload(
            "5",
            f"the same from {scale.many} processes with one tenant on every event",
            runs(tenant, **validated) | runs(fresh, pgevents_without_tenant="save_validated"),
            single_events,
            "events",
            (Goal("pgevents", 0.9, ("pgevents without tenant",), "workload 4"), *goals(peer=3)),
            scale.many,
        )
    )
    for processes in scale.deciders:
        made.append(
            Workload(
                f"6/{processes}",
                f"decide on one hot cart, {processes} processes",
                runs(
                    fresh,
                    limit="decide",
                    functions="decide",
                    pgevents="decide",
                    dcb="decide",
                    classic="decide",
                ),
                hot_cart,
                "decisions",
                (),
                processes,
                warm=2,
            )
        )
    for size in scale.batches:
        savers = ["limit", "copy", "functions", "bare_client", "pgevents", "dcb"]
        if (
            size <= 1_000
        ):  # above, its pipeline waits for ever: a statement of half a megabyte is too much for it
            savers.append("classic")
        made.append(
            Workload(
                f"7/{size}",
                f"batches of {size:,}",
                runs(fresh, **dict.fromkeys(savers, "save_batch")),
                batches(size),
                "events",
                (Goal("pgevents", 0.7, ("copy",), "COPY"), *goals(peer=1.7)) if size >= 1_000 else (),
                warm=20 if size < 1_000 else 2,
                limits=("limit", "copy"),
            )
        )
    made += [
        Workload(
            "8",
            f"read a cart of 20 events out of {scale.log:,}",
            runs(
                log,
                limit="read",
                functions="read",
                functions_final="read_final",
                bare_client="read",
                pgevents="read",
                pgevents_final="read_final",
                dcb="read",
                classic="read",
            ),
            carts,
            "reads",
            (
                Goal("pgevents", 0.7, ("limit",), "the limit"),
                Goal("pgevents final", 0.4, ("limit",), "the limit"),
                Goal("pgevents", 1, ("classic",), "the classic recorder"),
                Goal("pgevents", 3, ("dcb",), "the DCB recorder"),
            ),
        ),
        Workload(
            "9",
            f"decide on a cart of 20 events out of {scale.log:,}",
            runs(log, limit="decide", pgevents="decide", dcb="decide", classic="decide"),
            carts,
            "decisions",
        ),
    ]
    for variant, ids in (("20", small_carts), ("1000", big_carts)):
        made.append(
            Workload(
                f"10/{variant}",
                f"view of a cart of {variant} events",
                runs(
                    log,
                    limit="read",
                    limit_after_snapshot="read_after_snapshot",
                    pgevents="view",
                    pgevents_after_snapshot="view",
                    dcb="view",
                    classic="view",
                    classic_after_snapshot="view_after_snapshot",
                ),
                some_carts(ids),
                "views",
            )
        )
    made += [
        Workload(
            "11",
            f"iterate {scale.log:,} events",
            runs(
                log,
                limit="iterate",
                pgevents="iterate",
                pgevents_dicts="iterate_dicts",
                dcb="iterate",
                classic="iterate",
                dcb_decoded="iterate_decoded",
                classic_decoded="iterate_decoded",
            ),
            whole_log,
            "events",
            (
                *goals(limit=0.4),
                Goal("pgevents", 1.5, ("dcb decoded", "classic decoded"), "the better peer, decoded"),
                Goal("pgevents", 1.5, PEERS, "the better peer, its bytes left as they are"),
            ),
            warm=0,
        ),
        Workload(
            "12",
            f"fold {scale.log:,} events of one cart",
            runs(
                cart,
                limit="fold",
                pgevents="fold",
                pgevents_view="view",
                pgevents_from_memory="fold_from_memory",
                dcb="fold",
                classic="fold",
            ),
            long_cart,
            "reducer calls",
            (Goal("pgevents from memory", 1_000_000, (), "a second"), *goals(peer=3)),
            warm=0,
        ),
        Workload(
            "13",
            f"ten projections by an indexed field out of {scale.views:,}",
            runs(Database("views", scale.views), limit="query", pgevents="query"),
            users,
            "queries",
        ),
    ]
    return made + growth(scale)


def growth(scale: Scale) -> list[Workload]:
    """Workloads again, at each size of the table in the same rounds."""
    made: list[Workload] = []
    saves = {"limit": "save", "pgevents": "save", "dcb": "save", "classic": "save"}
    validated = dict.fromkeys((*saves, "check_in_function"), "save_validated")
    batch = dict.fromkeys(saves, "save_batch")
    reads = {**dict.fromkeys(saves, "read"), "pgevents_final": "read_final"}
    decide = dict.fromkeys(saves, "decide")
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
        made.append(
            Workload(
                f"14/{key}",
                f"growth: {title}",
                by_size,
                driver,
                unit,
                (Goal(f"pgevents at {last}", 1 / 1.2, (f"pgevents at {first}",), f"{first} events"),)
                if has_goal
                else (),
            )
        )
    return made
