"""The transactions that hold locks others wait for, as errors and `pgevents doctor` name them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

__all__ = ["Blocker", "Waiting", "described", "table_blockers", "waiting_backends"]

# Transactions that write to the table or lock it against writers. Readers block only changes of its columns.
TABLE_SQL = """\
SELECT DISTINCT ON (l.virtualtransaction) l.pid, coalesce(a.application_name, ''), coalesce(a.state, ''),
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = to_regclass(%s) AND l.granted
    AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    AND (%s OR l.mode NOT IN ('AccessShareLock', 'RowShareLock')) AND l.pid IS DISTINCT FROM pg_backend_pid()
"""

WAITING_SQL = """\
SELECT w.pid, coalesce(w.application_name, ''), coalesce(w.state, ''),
    extract(epoch FROM clock_timestamp() - w.query_start)::float8,
    b.pid, coalesce(a.application_name, ''), coalesce(a.state, ''),
    extract(epoch FROM clock_timestamp() - a.xact_start)::float8
FROM pg_stat_activity AS w
CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS b(pid)
LEFT JOIN pg_stat_activity AS a ON a.pid = b.pid
WHERE w.datname = current_database() AND w.wait_event_type = 'Lock'
ORDER BY w.query_start, w.pid, a.xact_start
"""


@attrs.frozen
class Blocker:
    """A transaction that others wait for.

    Attributes:
        pid: The backend's process id; None for a prepared transaction.
        application: Its `application_name`.
        state: Its state in `pg_stat_activity`, such as "active" or "idle in transaction".
        seconds: How long its transaction has been open; None where the role may not see it.
    """

    pid: int | None
    application: str
    state: str
    seconds: float | None

    def __str__(self) -> str:
        if self.pid is None:
            return "a prepared transaction"
        age = [] if self.seconds is None else [f"open for {self.seconds:.0f} s"]
        details = ", ".join([*filter(None, [self.application, self.state]), *age])
        return f"backend {self.pid} ({details})" if details else f"backend {self.pid}"


@attrs.frozen
class Waiting:
    """A backend that waits for a lock.

    Attributes:
        pid: Its process id.
        application: Its `application_name`.
        seconds: How long its statement has run; None where the role may not see it.
        blockers: The transactions that it waits for.
    """

    pid: int
    application: str
    seconds: float | None
    blockers: tuple[Blocker, ...]


def waiting_backends(execute: Any) -> list[Waiting]:
    """The backends that wait for a lock in this database, with their blockers; the longest waiting first.

    Args:
        execute: `Session.execute`.
    """
    by_pid: dict[int, Waiting] = {}
    for pid, application, _, seconds, blocker, *of_blocker in execute(WAITING_SQL, None).fetchall():
        held_by = Blocker(blocker or None, *of_blocker)  # pid 0: a prepared transaction
        waiting = by_pid.get(pid, Waiting(pid, application, seconds, ()))
        by_pid[pid] = attrs.evolve(waiting, blockers=(*waiting.blockers, held_by))
    return list(by_pid.values())


def table_blockers(execute: Any, table: str, *, readers: bool = False) -> list[Blocker]:
    """The other transactions that write to a table or lock it, the longest open first.

    Args:
        execute: `Session.execute`.
        table: The table's quoted name.
        readers: Include transactions that have only read it.
    """
    blockers = [Blocker(*row) for row in execute(TABLE_SQL, [table, readers]).fetchall()]
    return sorted(blockers, key=lambda blocker: -(blocker.seconds or 0))


def described(blockers: Iterable[Blocker]) -> str:
    """Blockers in words, for an error."""
    return ", ".join(map(str, blockers)) or "a transaction that has ended since"
