"""BEGIN and COMMIT that take a statement along, so that a transaction costs two messages less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import attrs
import peewee
from psycopg2.extensions import (
    TRANSACTION_STATUS_ACTIVE,
    TRANSACTION_STATUS_INERROR,
    TRANSACTION_STATUS_INTRANS,
)

__all__ = ["Envelope", "Statement"]

Statement = tuple[str, Any]
"""SQL and its parameters."""


@attrs.define(eq=False)
class Envelope:
    """Stands for the database in one transaction of Peewee's, and sends its BEGIN and its COMMIT.

    PostgreSQL runs the statements of a message one after the other and leaves out the rest after an error:
    a COMMIT behind a statement that fails is not reached.

    Attributes:
        db: The Peewee database.
        first: The transaction's first statement.
        raise_for: Raises what an error of the driver means, which Peewee leaves as it is.
        answer: Its cursor, once it was sent.
        last: A statement to send with COMMIT.
    """

    db: Any
    first: Statement
    raise_for: Callable[[Exception], NoReturn]
    answer: Any = None
    last: Statement | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def transaction(self) -> Any:
        """A transaction, to be entered."""
        database: Any = peewee.Database
        return database.transaction(self)

    def begin(self, *arguments: Any) -> None:
        """Send BEGIN and the first statement. A transaction that goes on after a COMMIT begins as usual."""
        if self.answer is not None:
            self.db.begin(*arguments)
            return
        sql, params = self.first
        try:
            self.answer = self._send(f"BEGIN;\n{sql}", params)
        except BaseException:  # an interrupt, too: nobody else knows of the transaction yet
            self._roll_back()
            raise

    def commit(self) -> None:
        """Send the last statement, if there is one, and COMMIT."""
        if self.last is None:
            self.db.commit()
            return
        (sql, params), self.last = self.last, None
        self._send(f"{sql};\nCOMMIT", params)

    def _roll_back(self) -> None:
        if self.db.is_closed() or self.db.connection().closed:
            return
        connection = self.db.connection()
        status = connection.get_transaction_status()
        if status in (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR):
            self.db.rollback()
        elif status == TRANSACTION_STATUS_ACTIVE:  # it does not listen
            connection.close()

    def _send(self, sql: str, params: Any) -> Any:
        try:
            return self.db.execute_sql(sql, params)
        except ValueError as error:  # before anything was sent
            self.raise_for(error)
