"""The identity of a log, which checkpoints outside the database name: its table and its server's timeline."""

from __future__ import annotations

from typing import Any

import attrs

from pgevents.errors import NotInstalledError, UnsupportedTransactionError
from pgevents.store.layout import TableSpec

__all__ = ["LogIdentity", "former_identities", "log_identity", "note_move", "same_log"]

# The timeline is read from the current WAL file: the control file has the old timeline until the first
# checkpoint after a promotion.
IDENTITY_SQL = """\
SELECT (SELECT system_identifier::text FROM pg_control_system()),
    (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
    to_regclass(%s)::oid::bigint,
    CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END
"""


@attrs.frozen
class LogIdentity:
    """An events table of a database of a server, on one of the server's timelines.

    Its text has the form `system.database.table/timeline`.

    Attributes:
        system: The cluster's identifier: the same in a physical copy, another after a dump and restore into
            another cluster.
        database: The database's oid; a copy within the cluster has another.
        table: The events table's oid; a table that was dropped and made again has another.
        timeline: The server's timeline; a promotion or a point-in-time recovery starts a new one.
    """

    system: str
    database: int
    table: int
    timeline: int

    def __str__(self) -> str:
        return f"{self.system}.{self.database}.{self.table}/{self.timeline}"


def log_identity(execute: Any, spec: TableSpec) -> LogIdentity:
    """The identity of an existing events table.

    Args:
        execute: `Session.execute`.
        spec: The events table.

    Raises:
        UnsupportedTransactionError: The server is a standby, which follows the timeline of its primary.
    """
    system, database, table, timeline = execute(IDENTITY_SQL, [spec.qualified()]).fetchone()
    if timeline is None:
        raise UnsupportedTransactionError(
            "this server is a standby, whose timeline is not its own: take checkpoints on the primary"
        )
    return LogIdentity(system, database, table, int(timeline, 16))


def same_log(execute: Any, other: Any, spec: TableSpec) -> bool:
    """Whether two servers hold the same log, as a primary and its standby do, whatever their timelines.

    Args:
        execute: `Session.execute` of one.
        other: That of the other.
        spec: The events table.

    Raises:
        NotInstalledError: The other has no such table yet.
    """
    name = spec.qualified()
    here, there = (call(IDENTITY_SQL, [name]).fetchone()[:3] for call in (execute, other))
    if here[:2] == there[:2] and there[2] is None:
        raise NotInstalledError(f"{name} is not on the standby yet")
    return bool(here == there)


MOVED = "pgevents moved "
NOTE_SQL = "SELECT obj_description(to_regclass(%s), 'pg_class')"


def former_identities(execute: Any, spec: TableSpec) -> list[str]:
    """The identities that the same log had on other servers, before it was moved here.

    They stand in the comment of the log's sequence beside the identity that it has here: a dump of it
    restored elsewhere has another one, and its comment counts for nothing.
    """
    note = str(execute(NOTE_SQL, [spec.qualified("_id_seq")]).fetchone()[0] or "")
    here, *former = note.removeprefix(MOVED).split(" ")
    return former if note.startswith(MOVED) and here == str(log_identity(execute, spec)) else []


def note_move(execute: Any, spec: TableSpec, former: list[str]) -> None:
    """Note which identities the log had on other servers, whose checkpoints count here, too.

    Args:
        execute: `Session.execute`, at the log's new place.
        spec: The events table.
        former: The identities.
    """
    words = " ".join([str(log_identity(execute, spec)), *former])
    execute(f"COMMENT ON SEQUENCE {spec.qualified('_id_seq')} IS '{MOVED}{words}'", None)
