"""Which log a position was read from, so that a save into another log does not rest on it."""

from __future__ import annotations

from typing import Any

from pgevents.store.identity import IDENTITY_SQL
from pgevents.store.session import Session

__all__ = ["Log"]

Identity = tuple[Any, ...]


class Log:
    """The events table of a client. Positions refer to it, which costs a read nothing.

    Only two logs that are not obviously the same or apart are asked who they are, once each.
    """

    __slots__ = ("_identity", "_session", "name", "schema")

    def __init__(
        self, schema: str | None, name: str, session: Session | None, identity: Identity | None = None
    ) -> None:
        self.schema, self.name = schema, name
        self._session, self._identity = session, identity

    def is_same(self, other: Log) -> bool:
        """Whether both are one log, as on a primary and its standby, or through two addresses of a server."""
        if self is other:
            return True
        if self.name != other.name and self.schema is not None and other.schema is not None:
            return False
        here, there = self._session, other._session
        if here is not None and there is not None and self.name == other.name:
            if _address(here) == _address(there):
                return True
        return self.identity() == other.identity()

    def identity(self) -> Identity:
        """The identifiers of cluster, database and table."""
        if self._identity is None:
            if self._session is None:
                return (self.name,)
            db = self._session.db
            was_closed = db.is_closed()
            try:
                self._identity = tuple(self._session.execute(IDENTITY_SQL, [self.name]).fetchone()[:3])
            finally:
                if was_closed:
                    db.close()
        return self._identity

    def __copy__(self) -> Log:
        return self

    def __deepcopy__(self, memo: object) -> Log:
        return self

    def __reduce__(self) -> Any:
        return Log, (self.schema, self.name, None, self.identity())  # another process has no such session


def _address(session: Session) -> Any:
    db: Any = session.db
    return db.database, dict(db.connect_params)
