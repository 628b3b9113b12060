"""Statements that the server runs while the program computes."""

from __future__ import annotations

import threading
from typing import Any

from pgevents.store.session import Session

__all__ = ["Background"]


class Background:
    """Statements on this thread's connection, in its transaction, run by a thread that waits for the server.

    Between `start` and `wait` nobody else uses the connection.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread: threading.Thread | None = None
        self._rows: list[Any] = []
        self._error: Exception | None = None
        self._is_left = False

    def start(self, *statements: tuple[str, Any]) -> None:
        """Begin to run statements, one after the other.

        Args:
            *statements: Each with its parameters.
        """
        self.wait()
        connection = self._session.connection()
        self._thread = threading.Thread(target=self._run, args=(connection, statements), daemon=True)
        self._thread.start()

    def wait(self) -> list[Any]:
        """Wait until they have ended; the rows of the last one.

        Raises:
            PgEventsError: As `Session.execute`.
        """
        if self._thread is not None:
            self.join()
            self._thread = None
            error, self._error = self._error, None
            if error is not None:
                self._session.raise_for(error)
        rows, self._rows = self._rows, []
        return rows

    def join(self) -> None:
        """Wait until they have ended, with or without an error: from then on the connection is free."""
        if self._thread is not None:
            try:
                self._thread.join()
            except BaseException:  # an interrupt: the thread must not go on when the transaction has ended
                self._is_left = True
                self._thread.join()
                raise

    def _run(self, connection: Any, statements: tuple[tuple[str, Any], ...]) -> None:
        try:
            with connection.cursor() as cursor:
                for sql, params in statements:
                    if self._is_left:
                        return
                    cursor.execute(sql, params)
                self._rows = cursor.fetchall() if cursor.description else []
        except Exception as error:  # not of psycopg2 alone: a text that the connection's encoding cannot hold
            self._error = error
