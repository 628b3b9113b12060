"""Which server holds which tenant, and which moves have begun: two small tables on any PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import attrs

from pgevents.errors import ConfigurationError, RetryableError
from pgevents.store.session import Session

__all__ = ["Directory", "Move", "Tenant"]

TABLES_SQL = """\
CREATE TABLE IF NOT EXISTS pgevents_tenants (
    tenant text PRIMARY KEY,
    node text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS pgevents_moves (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text NOT NULL REFERENCES pgevents_tenants,
    source text NOT NULL,
    target text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    has_moved boolean,
    is_cleared boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX IF NOT EXISTS pgevents_moves_open_idx ON pgevents_moves (tenant) WHERE NOT is_cleared;
"""
TENANTS_SQL = """\
SELECT t.tenant, t.node, t.since, m.target
FROM pgevents_tenants AS t LEFT JOIN pgevents_moves AS m ON m.tenant = t.tenant AND m.ended_at IS NULL
"""
OPEN_SQL = """\
SELECT id, tenant, source, target, coalesce(has_moved, false) FROM pgevents_moves
WHERE tenant = %s AND NOT is_cleared
"""
BEGIN_SQL = """\
INSERT INTO pgevents_moves (tenant, source, target)
SELECT t.tenant, t.node, %(target)s FROM pgevents_tenants AS t
WHERE t.tenant = %(tenant)s AND t.node = %(source)s
ON CONFLICT DO NOTHING
RETURNING id
"""
# What took a tenant to its target is settled once: by the move itself, or by whoever recovers it.
ARRIVE_SQL = "UPDATE pgevents_tenants SET node = %s, since = clock_timestamp() WHERE tenant = %s"
END_SQL = """\
UPDATE pgevents_moves SET ended_at = clock_timestamp(), has_moved = %(moved)s, is_cleared = NOT %(moved)s
WHERE id = %(id)s
"""
CLEAR_SQL = "UPDATE pgevents_moves SET is_cleared = true WHERE id = %s"


@attrs.frozen
class Tenant:
    """A tenant and where it lives.

    Attributes:
        name: Its name, which is that of its schema, too.
        node: The name of its server.
        since: Since when it has lived there.
        moving_to: The name of the server to which it is being moved, if it is.
    """

    name: str
    node: str
    since: datetime
    moving_to: str | None = None


@attrs.frozen
class Move:
    """A move that has begun.

    Attributes:
        id: Its number, which no other move of this directory has.
        tenant: The tenant.
        source: The name of the server that it leaves.
        target: The name of the server where it goes.
        has_moved: Whether the directory says already that it lives there.
    """

    id: int
    tenant: str
    source: str
    target: str
    has_moved: bool = False

    @property
    def left_behind(self) -> str:
        """The name that the tenant's schema has on the source as soon as nobody may use it there."""
        return f"moved_{self.id}"

    @property
    def mark(self) -> str:
        """The comment of the tenant's schema on the target, which shows that the move took place."""
        return f"pgevents tenant {self.tenant}, move {self.id}"

    @property
    def turn(self) -> str:
        """What the move locks on both servers for as long as it is at work."""
        return f"pgevents move {self.id} of {self.tenant}"


@attrs.frozen
class Directory:
    """The two tables.

    Attributes:
        session: The database that holds them.
    """

    session: Session

    @contextmanager
    def _connected(self) -> Generator[Callable[..., Any]]:
        """`execute` in a transaction. The connection is given back afterwards, as it is seldom needed."""
        db: Any = self.session.db
        keeps = self.session.in_transaction() if not db.is_closed() else False
        try:
            with self.session.atomic():
                yield self.session.execute
        finally:
            if not keeps and not db.is_closed():
                db.close()

    def create_tables(self) -> None:
        """Make the tables, if they are missing."""
        with self._connected() as execute:
            execute("SELECT pg_advisory_xact_lock(hashtextextended('pgevents.tenants', 0))")
            execute(TABLES_SQL)

    def all(self) -> list[Tenant]:
        """All tenants, by name."""
        with self._connected() as execute:
            return [Tenant(*row) for row in execute(f"{TENANTS_SQL} ORDER BY t.tenant").fetchall()]

    def find(self, tenant: str) -> Tenant | None:
        """Where a tenant lives; None if there is no such tenant."""
        with self._connected() as execute:
            row = execute(f"{TENANTS_SQL} WHERE t.tenant = %s", [tenant]).fetchone()
        return None if row is None else Tenant(*row)

    def add(
        self, tenant: str, choose: Callable[[dict[str, int]], str], make: Callable[[str], None]
    ) -> Tenant:
        """Add a tenant, unless it is there.

        Args:
            tenant: Its name.
            choose: Gives the server, from the number of tenants by server.
            make: Makes the tenant's tables on it. Whoever adds the same tenant meanwhile waits.
        """
        with self._connected() as execute:
            execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"pgevents tenant {tenant}"])
            row = execute(f"{TENANTS_SQL} WHERE t.tenant = %s", [tenant]).fetchone()
            if row is None:
                counts = dict(execute("SELECT node, count(*) FROM pgevents_tenants GROUP BY node").fetchall())
                node = choose(counts)
                make(node)
                execute("INSERT INTO pgevents_tenants (tenant, node) VALUES (%s, %s)", [tenant, node])
                row = execute(f"{TENANTS_SQL} WHERE t.tenant = %s", [tenant]).fetchone()
        return Tenant(*row)

    def begin(self, tenant: str, source: str, target: str) -> Move:
        """Note that a move begins.

        Raises:
            ConfigurationError: An earlier move was interrupted.
            RetryableError: The tenant has moved meanwhile.
        """
        with self._connected() as execute:
            row = execute(BEGIN_SQL, {"tenant": tenant, "source": source, "target": target}).fetchone()
        if row is None:
            self.refuse_open(tenant)
            raise RetryableError(f"the tenant {tenant!r} has left {source!r} meanwhile; nothing was done")
        return Move(row[0], tenant, source, target)

    def refuse_open(self, tenant: str) -> None:
        """Refuse to begin a move before the last one has ended.

        Raises:
            ConfigurationError: It is at work, or was interrupted.
        """
        move = self.open_move(tenant)
        if move is not None:
            raise ConfigurationError(
                f"move {move.id} of the tenant {tenant!r} is running or was interrupted: when it no longer "
                f"runs, tenants.recover({tenant!r}) finishes it"
            )

    def open_move(self, tenant: str) -> Move | None:
        """The tenant's move that is at work, or that was interrupted before everything was done."""
        with self._connected() as execute:
            row = execute(OPEN_SQL, [tenant]).fetchone()
        return None if row is None else Move(*row)

    def arrived(self, move: Move) -> None:
        """From now on the tenant lives at the target; its former place is still to be cleared."""
        with self._connected() as execute:
            execute(ARRIVE_SQL, [move.target, move.tenant])
            execute(END_SQL, {"moved": True, "id": move.id})

    def stayed(self, move: Move) -> None:
        """The move came to nothing: the tenant lives where it lived."""
        with self._connected() as execute:
            execute(END_SQL, {"moved": False, "id": move.id})

    def cleared(self, move: Move) -> None:
        """Nothing is left of the tenant at its former place."""
        with self._connected() as execute:
            execute(CLEAR_SQL, [move.id])
