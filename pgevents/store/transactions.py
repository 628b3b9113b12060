"""A transaction in few messages: its first statement goes with BEGIN, its last one with COMMIT."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from pgevents.store.envelopes import Envelope
from pgevents.store.session import Session

__all__ = ["ShortTransaction"]


class ShortTransaction:
    """A block in one transaction, which begins with the first statement.

    In a transaction that is open already, it is a savepoint, and each statement is a message of its own.

    Example:
        ```python
        with ShortTransaction(session) as transaction:
            (seen,) = transaction.execute("SELECT seen FROM carts WHERE id = 'c1' FOR UPDATE").fetchone()
            transaction.finish("UPDATE carts SET seen = %s WHERE id = 'c1'", [seen + 1])
        ```
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._envelope: Envelope | None = None
        self._block = ExitStack()

    def __enter__(self) -> ShortTransaction:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._block.__exit__(kind, error, trace)

    def execute(self, sql: str, params: Any = None) -> Any:
        """Run a statement; its cursor. Raises as `Session.execute` and `Session.atomic` do."""
        if self._envelope is not None:
            return self._session.execute(sql, params)
        envelope = Envelope(self._session.db, (sql, params), self._session.raise_for)
        self._block.enter_context(self._session.atomic(envelope))
        self._envelope = envelope
        return self._session.execute(sql, params) if envelope.answer is None else envelope.answer

    def finish(self, sql: str, params: Any = None) -> None:
        """Run a statement that nobody waits for: before the next one of this kind, or with the COMMIT."""
        envelope = self._envelope
        if envelope is None or envelope.answer is None:
            self.execute(sql, params)
            return
        if envelope.last is not None:
            self._session.execute(*envelope.last)
        envelope.last = (sql, params)
