"""Contenders in turn: each in processes of its own, for a slice of time, round after round."""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from attrs import asdict, frozen

from .contenders import CONTENDERS, PEER_MISSING, connect, on_database
from .drivers import Database, Run, Task
from .seeding import create_database, drop_database, replace_database
from .workloads import Scale, Workload, workloads

__all__ = ["run_all"]

PACKAGES = (
    "pgevents",
    "peewee",
    "psycopg2-binary",
    "cattrs",
    "orjson",
    "msgspec",
    "eventsourcing",
    "psycopg",
)
SETTINGS = (
    "server_version",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "shared_buffers",
    "max_wal_size",
)
PATIENCE = 900
"""Seconds after which a worker that says nothing is taken for stuck."""
processes: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")


@frozen
class Slice:
    """What the workers of one run did in one slice.

    Attributes:
        round: From 0.
        label: The run's.
        rate: Units a second, of all workers together.
        units: By worker.
        seconds: The longest time that a worker took.
        client_cpu: Seconds of all workers.
        server_cpu: Seconds of all processes of the server; None if it is out of sight.
        peak_mb: Memory of the largest worker at its peak, since it began.
        tries, failed: Of workload 6: calls of the decider, and decisions that were given up.
    """

    round: int
    label: str
    rate: float
    units: list[int]
    seconds: float
    client_cpu: float
    server_cpu: float | None
    peak_mb: float
    tries: int = 0
    failed: int = 0


def _work(pipe: Any, url: str, workload_key: str, scale: Scale, task: Task) -> None:
    """A worker: opens, runs and closes as it is told, until it is told nothing more."""
    workload = next(one for one in workloads(scale) if one.key == workload_key)
    contender = CONTENDERS[task.run.contender](url, task.run.database.shop)
    op: Callable[[], int] | None = None
    try:
        while (order := pipe.recv()) is not None:
            if order == "open":
                contender.open()
                op = op or workload.driver(contender, task)
                for _ in range(workload.warm):
                    op()
                pipe.send("ready")
            elif order == "close":
                contender.close()
            else:
                assert op is not None
                pipe.send(_measure(op, *order))
    except BaseException as error:
        pipe.send(f"{task.label}: {type(error).__name__}: {error}")
        raise


def _measure(op: Callable[[], int], start: float, seconds: float) -> tuple[int, float, float, float]:
    """Units, seconds, seconds of the processor, and megabytes."""
    time.sleep(max(0, start - time.monotonic()))
    cpu, begin = time.process_time(), time.perf_counter()
    units = 0
    while True:
        units += op()
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return units, elapsed, time.process_time() - cpu, peak


class _Team:
    """The workers of one run."""

    def __init__(self, url: str, prefix: str, workload: Workload, scale: Scale, label: str, run: Run) -> None:
        self.hot = {name: processes.Value("l", 0) for name in ("cart", "tries", "failed")}
        self.label = label
        self.pipes: list[Any] = []
        self.workers: list[Any] = []
        for number in range(workload.processes):
            task = Task(workload.key, label, run, number, self.hot)
            mine, its = processes.Pipe()
            arguments = (its, on_database(url, prefix + run.database.name), workload.key, scale, task)
            worker = processes.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            its.close()
            self.pipes.append(mine)
            self.workers.append(worker)

    def slice(self, number: int, seconds: float, server_cpu: Callable[[], float | None]) -> Slice:
        """Let them work at the same time."""
        self._tell("open")
        self._answers()
        for name in ("tries", "failed"):
            self.hot[name].value = 0
        before = server_cpu()
        self._tell((time.monotonic() + 0.002 * len(self.pipes), seconds))
        answers = self._answers()
        after = server_cpu()
        self._tell("close")
        return Slice(
            number,
            self.label,
            sum(units / elapsed for units, elapsed, _, _ in answers),
            [units for units, *_ in answers],
            max(elapsed for _, elapsed, _, _ in answers),
            sum(cpu for _, _, cpu, _ in answers),
            None if before is None or after is None else after - before,
            max(peak for *_, peak in answers),
            self.hot["tries"].value,
            self.hot["failed"].value,
        )

    def _tell(self, order: Any) -> None:
        for pipe in self.pipes:
            pipe.send(order)

    def _answers(self) -> list[Any]:
        answers: list[Any] = []
        for pipe in self.pipes:
            if not pipe.poll(PATIENCE):
                raise RuntimeError(f"{self.label}: no answer for {PATIENCE} seconds")
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, str) and answer != "ready":
                raise RuntimeError(answer)
        return answers

    def stop(self) -> None:
        """End the workers."""
        with suppress(OSError):
            self._tell(None)
        for worker in self.workers:
            worker.join(10)
            worker.kill()


def _cpu_of_server(url: str) -> Callable[[], float | None]:
    """How many seconds the server's processes have worked so far, if they run on this machine."""
    connection = connect(url)
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    (pid,) = cursor.fetchone()
    try:
        import psutil

        postmaster = psutil.Process(pid).parent()
        if postmaster is None or "postgres" not in postmaster.name():
            return lambda: None
    except Exception:  # not installed, another machine, another user
        return lambda: None
    finally:
        connection.close()

    def seconds() -> float:
        own = postmaster.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in postmaster.children():
            with suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
        return float(total)

    return seconds


def run_all(
    url: str,
    scale: Scale,
    only: Iterable[str] = (),
    contenders: Iterable[str] = (),
    *,
    prefix: str = "pgevents_bench_",
    say: Callable[[str], None] = print,
    done: Callable[[Mapping[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Run workloads, and give back all slices and what they were run on.

    Args:
        url: A server; the role has to be a superuser, as it makes databases and fills guarded tables.
        scale: How large.
        only: Numbers (`7`) or keys (`7/1000`) of workloads; none means all.
        contenders: Keys of contenders, or their beginnings; none means all that are installed.
        prefix: Of the names of the databases.
        say: Told what is going on.
        done: Called with all results so far whenever a workload is over.
    """
    wanted, allowed = set(only), tuple(contenders) or tuple(CONTENDERS)
    if PEER_MISSING:
        say(PEER_MISSING)
        allowed = tuple(key for key in allowed if key not in ("dcb", "classic"))
    chosen: list[tuple[Workload, dict[str, Run]]] = []
    for workload in workloads(scale):
        if not wanted or {workload.key, workload.key.partition("/")[0]} & wanted:
            runs = {label: run for label, run in workload.runs.items() if run.contender in allowed}
            chosen.append((workload, runs))
    needed: dict[Database, set[str]] = {}
    for _, runs in chosen:
        for run in runs.values():
            needed.setdefault(run.database, set()).add(run.contender)
    result: dict[str, Any] = {"about": _about(url, scale), "workloads": {}}
    processes.set_forkserver_preload([__name__])
    server_cpu = _cpu_of_server(url)
    with ExitStack() as stack:
        made: set[Database] = set()
        for workload, runs in chosen:
            for database in dict.fromkeys(run.database for run in runs.values()):
                if database not in made:
                    say(f"filling {database.name}")
                    name = prefix + database.name
                    stack.callback(drop_database, url, name)
                    replace_database(url, name)
                    create_database(on_database(url, name), database, needed[database])
                    made.add(database)
            say(f"{workload.key}: {workload.title}")
            slices = _rounds(url, prefix, workload, runs, scale, server_cpu)
            result["workloads"][workload.key] = {"slices": [asdict(one) for one in slices]}
            done(result)
    return result


def _rounds(
    url: str,
    prefix: str,
    workload: Workload,
    runs: dict[str, Run],
    scale: Scale,
    server_cpu: Callable[[], float | None],
) -> list[Slice]:
    teams: list[_Team] = []
    try:
        for label, run in runs.items():
            teams.append(_Team(url, prefix, workload, scale, label, run))
        slices: list[Slice] = []
        for number in range(scale.rounds):
            # Shuffled, so that nobody always comes after the same; and alike in each run.
            for team in random.Random(f"{workload.key} {number}").sample(teams, len(teams)):
                slices.append(team.slice(number, scale.seconds, server_cpu))
        return slices
    finally:
        for team in teams:
            team.stop()


def _commit() -> str:
    """The commit that is measured, with "+" behind it if files were changed; "" outside of a checkout."""
    git = ["git", "-C", os.path.dirname(__file__)]
    try:
        number = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True)
        changes = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return number.strip() + ("+" if changes.strip() else "")


def _about(url: str, scale: Scale) -> dict[str, Any]:
    connection = connect(url)
    cursor = connection.cursor()
    settings: dict[str, str] = {}
    for name in SETTINGS:
        cursor.execute(f"SHOW {name}")
        (settings[name],) = cursor.fetchone()
    connection.close()
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "date": date.today().isoformat(),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": os.cpu_count(),
        "server": settings,
        "packages": versions,
        "scale": asdict(scale),
        "peer_missing": PEER_MISSING,
    }
