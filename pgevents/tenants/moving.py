"""A move of a tenant to another server, and how an interrupted one is finished.

What is final never changes, so it is copied while writers go on; the rest behind locks. Then the schema of
the source is renamed: from that commit on nobody reads or writes there, whether or not they ask the
directory. Only then is the copy committed at the target, and only then does the directory say so. Whoever
finds an interrupted move looks at the target first: what was committed there is the tenant.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

import attrs

from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, PgEventsError, RetryableError
from pgevents.store.blockers import described, table_blockers
from pgevents.store.identity import former_identities, log_identity, note_move
from pgevents.store.session import Session
from pgevents.tenants.copying import (
    Contents,
    contents_of,
    copy_table,
    fill_sequences,
    quoted,
    triggers_off,
    unlike,
)
from pgevents.tenants.directory import Directory, Move

__all__ = ["Moved", "Mover", "Recovery"]

FEW = 200
"""Events that are left for the copy behind locks."""
MOST_ROUNDS = 50
LOCK_TURN = "100ms"
"""How long at a time: behind a lock that is waited for, all who save queue up."""
TURN_SQL = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
TURN_OF_TRANSACTION_SQL = "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))"
SCHEMA_SQL = "SELECT to_regnamespace(%s) IS NOT NULL"
MARK_SQL = "SELECT obj_description(to_regnamespace(%s)::oid, 'pg_namespace')"


@attrs.frozen
class Moved:
    """A move that took place.

    Attributes:
        tenant: The tenant.
        source: The name of the server that it left.
        target: The name of the server where it lives.
        rows: How many rows were copied, by table.
        rounds: How many events each round copied while writers went on.
        stood: Seconds in which the tenant took no save.
        seconds: Seconds that all of it took.
    """

    tenant: str
    source: str
    target: str
    rows: dict[str, int]
    rounds: tuple[int, ...]
    stood: float
    seconds: float


@attrs.define
class Mover:
    """One move at work.

    Attributes:
        move: What was noted of it in the directory.
        directory: The directory.
        source: A client of the tenant's place, with a connection of its own.
        target: The same at the place where it goes; nothing is there yet.
        prepare: Makes the tenant's tables at the target, given its client.
        lock_wait: Seconds to wait for transactions that use the tenant's tables.
    """

    move: Move
    directory: Directory
    source: EventClient
    target: EventClient
    prepare: Callable[[EventClient], object]
    lock_wait: float
    _done: int = 0
    _rows: dict[str, int] = attrs.field(factory=dict[str, int])
    _rounds: list[int] = attrs.field(factory=list[int])
    _began: float = attrs.field(factory=time.monotonic)
    _stood_since: float = 0.0
    _stood_until: float = 0.0

    def run(self) -> Moved:
        """All of it."""
        for _ in self.steps():
            pass
        return Moved(
            self.move.tenant,
            self.move.source,
            self.move.target,
            self._rows,
            tuple(self._rounds),
            self._stood_until - self._stood_since,
            time.monotonic() - self._began,
        )

    def steps(self) -> Iterator[str]:
        """All of it; yields after each step what was done, so that it can be interrupted there."""
        source, target, schema = self.source.session, self.target.session, self.move.tenant
        take_turn(source, self.move, TURN_SQL)
        (backend,) = source.execute("SELECT pg_backend_pid()").fetchone()
        self._hold_maintenance_off()
        yield "began"
        with target.atomic():  # nobody sees any of it before all of it is there
            take_turn(target, self.move, TURN_OF_TRANSACTION_SQL)
            self.prepare(self.target)
            target.execute(f"COMMENT ON SCHEMA {quoted(schema)} IS %s", [self.move.mark])
            contents, target_contents = contents_of(source, schema), contents_of(target, schema)
            missing = unlike(contents, target_contents)
            if missing is not None:
                raise ConfigurationError(
                    f"the schema of the tenant {schema!r} holds {missing}, which is not made at "
                    f"{self.move.target!r}: give Tenants(prepare=...), which makes what your program has "
                    "beside the log"
                )
            yield "made"
            with triggers_off(target, schema, list(target_contents.tables)):
                for _ in self._copy_final(contents):
                    yield "copied"
                with source.atomic():
                    self._fence(contents, backend)
                    yield "locked"
                    self._copy_rest(contents)
                    former = [*former_identities(source.execute, self.source.events.pgevents_spec)]
                    former.insert(0, str(log_identity(source.execute, self.source.events.pgevents_spec)))
                    note_move(target.execute, self.target.events.pgevents_spec, former)
                    source.execute(f"ALTER SCHEMA {quoted(schema)} RENAME TO {quoted(self.move.left_behind)}")
                    yield "renamed"
            yield "fenced"  # the source is committed, the target is not
        yield "committed"
        self.directory.arrived(self.move)
        self._stood_until = time.monotonic()
        yield "arrived"
        clear(source, self.move, self.directory)
        yield "cleared"

    def _hold_maintenance_off(self) -> None:
        """Nobody changes what is final while it is copied; until this connection ends."""
        key = f"{self.source.events.pgevents_spec.qualified('_key')}('redaction', '')"
        for _ in _attempts(self.lock_wait):
            if self.source.session.execute(f"SELECT pg_try_advisory_lock_shared({key})").fetchone()[0]:
                return
        raise RetryableError(
            f"the log of the tenant {self.move.tenant!r} is being changed under maintenance: move it later"
        )

    def _copy_final(self, contents: Contents) -> Iterator[int]:
        """Copy events that can no longer change, until few are left."""
        for _ in range(MOST_ROUNDS):
            spec = self.source.events.pgevents_spec
            (bound,) = self.source.session.execute(f"SELECT {spec.qualified('_final_bound')}()").fetchone()
            copied = self._copy_events(contents, f"id > {self._done} AND id <= {int(bound)}")
            self._done = max(self._done, int(bound))
            self._rounds.append(copied)
            yield copied
            if copied < FEW:
                return

    def _by_id(self, contents: Contents) -> list[str]:
        """The tables to which only new events add rows."""
        name = self.source.events.pgevents_spec.name
        return [table for table in (name, f"{name}_lists") if table in contents.tables]

    def _copy_events(self, contents: Contents, where: str) -> int:
        counts = [self._copy(contents, table, where) for table in self._by_id(contents)]
        return counts[0]

    def _copy(self, contents: Contents, table: str, where: str = "") -> int:
        columns = contents.tables[table]
        count = copy_table(self.source.session, self.target.session, self.move.tenant, table, columns, where)
        self._rows[table] = self._rows.get(table, 0) + count
        return count

    def _fence(self, contents: Contents, backend: int) -> None:
        """Lock all tables against writers; in short turns, for all who save queue behind one who waits.

        Raises:
            RetryableError: A transaction uses one of them for too long; the message names it.
            ConfigurationError: The connection was lost meanwhile, and maintenance may have changed events.
        """
        session, schema = self.source.session, self.move.tenant
        tables = [f"{quoted(schema)}.{quoted(table)}" for table in contents.tables]
        if session.execute("SELECT pg_backend_pid()").fetchone() != (backend,):
            raise RetryableError("the connection to the source broke during the move; nothing was done")
        session.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_TURN])
        for _ in _attempts(self.lock_wait):
            self._stood_since = time.monotonic()
            try:
                with session.atomic():
                    session.execute(f"LOCK TABLE {', '.join(tables)} IN EXCLUSIVE MODE")
                break
            except RetryableError:
                continue
        else:
            holders = [holder for table in tables for holder in table_blockers(session.execute, table)]
            raise RetryableError(
                f"the tables of the tenant {schema!r} were in use for {self.lock_wait:g} s: "
                f"{described(dict.fromkeys(holders))}; nothing was done, and trying again is safe"
            )
        if contents_of(session, schema) != contents:
            raise RetryableError(
                f"the tables of the tenant {schema!r} were changed meanwhile; nothing was done"
            )

    def _copy_rest(self, contents: Contents) -> None:
        by_id = self._by_id(contents)
        self._copy_events(contents, f"id > {self._done}")
        for table in contents.tables:
            if table not in by_id:
                self.target.session.execute(f"DELETE FROM {quoted(self.move.tenant)}.{quoted(table)}")
                self._copy(contents, table)
        fill_sequences(self.source.session, self.target.session, self.move.tenant, contents.sequences)
        name = f"{quoted(self.move.tenant)}.{quoted(by_id[0])}"
        (count,) = self.source.session.execute(f"SELECT count(*) FROM {name}").fetchone()
        if count != self._rows[by_id[0]]:
            raise RetryableError(
                f"the copy of the tenant {self.move.tenant!r} has {self._rows[by_id[0]]} events and the log "
                f"{count}; nothing was done"
            )


@attrs.frozen
class Recovery:
    """Finishes an interrupted move: forward if it was committed at the target, else back.

    Attributes:
        move: What the directory says of it.
        directory: The directory.
        source: The database of the server that the tenant leaves.
        target: The database of the server where it goes.
    """

    move: Move
    directory: Directory
    source: Session
    target: Session

    def run(self) -> bool:
        """Finish it.

        Returns:
            Whether the tenant lives at the target.

        Raises:
            RetryableError: The move is still running.
            DatabaseUnavailableError: A server cannot be asked; nothing is guessed.
        """
        move = self.move
        with self.target.atomic():  # holds the turn, so that nothing of the move can be committed there
            take_turn(self.target, move, TURN_OF_TRANSACTION_SQL)
            has_moved = move.has_moved or self._mark() == move.mark
            with self.source.atomic():
                take_turn(self.source, move, TURN_OF_TRANSACTION_SQL)
                if not has_moved:
                    self._take_back()
        if not has_moved:
            self.directory.stayed(move)
            return False
        if not move.has_moved:
            self.directory.arrived(move)
        clear(self.source, move, self.directory)
        return True

    def _mark(self) -> str | None:
        (mark,) = self.target.execute(MARK_SQL, [quoted(self.move.tenant)]).fetchone()
        return None if mark is None else str(mark)

    def _take_back(self) -> None:
        """The tenant goes on where it lived."""
        left = self.move.left_behind
        if self.source.execute(SCHEMA_SQL, [quoted(left)]).fetchone()[0]:
            self.source.execute(f"ALTER SCHEMA {quoted(left)} RENAME TO {quoted(self.move.tenant)}")


def take_turn(session: Session, move: Move, sql: str) -> None:
    """Lock the move on a server, so that it is seen whether somebody is at it.

    Raises:
        RetryableError: Somebody is.
    """
    if not session.execute(sql, [move.turn]).fetchone()[0]:
        raise RetryableError(
            f"move {move.id} of the tenant {move.tenant!r} is still running; wait until it ends"
        )


def clear(source: Session, move: Move, directory: Directory) -> None:
    """Drop what is left of the tenant at its former place."""
    source.execute(f"DROP SCHEMA IF EXISTS {quoted(move.left_behind)} CASCADE")
    directory.cleared(move)


def _attempts(seconds: float) -> Generator[int]:
    """Attempts in short turns, until the time is over; at least one."""
    deadline = time.monotonic() + seconds
    attempt = 0
    while attempt == 0 or time.monotonic() < deadline:
        if attempt:
            time.sleep(random.uniform(0.1, 0.3))
        yield attempt
        attempt += 1


@contextmanager
def closing(*parts: EventClient | Session) -> Generator[None]:
    """Closes connections at the end, and so gives up what they have locked."""
    try:
        yield
    finally:
        for part in parts:
            if not part.db.is_closed():
                part.db.close()


def explain(error: Exception) -> str:
    """An error in words."""
    return str(error) if isinstance(error, PgEventsError) else f"{type(error).__name__}: {error}"
