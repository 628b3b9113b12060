"""What PostgreSQL's refusal of a statement means: the error of pgevents for a code and a message."""

from __future__ import annotations

from pgevents.errors import (
    AppendOnlyError,
    ConfigurationError,
    DatabaseError,
    EventEncodeError,
    IdempotencyError,
    PgEventsError,
    RetryableError,
    UnsupportedTransactionError,
)

__all__ = ["RETRYABLE", "SWALLOWED", "error_of"]

RETRYABLE = {
    "40001": "a serialization failure",
    "40P01": "a deadlock",
    "55P03": "a lock timeout",
    "57014": "a statement timeout or a cancel request",
}
SWALLOWED = (
    "an SQL error was swallowed in this transaction, which PostgreSQL can now only roll back; "
    "let the error through, or guard the statement by a savepoint (db.atomic())"
)
REFUSED: dict[str, type[PgEventsError]] = {
    "PGE01": UnsupportedTransactionError,
    "PGE02": ConfigurationError,
    "PGE03": AppendOnlyError,
    "PGE05": EventEncodeError,
    "PGE06": UnsupportedTransactionError,
    "PGE20": EventEncodeError,  # of the encryption plugin's trigger
}
TOO_LARGE = {"54000", "54001"}
NOT_TEXT_HERE = {"22P05", "22021"}


def error_of(code: str, message: str, detail: str, *, is_inside: bool) -> PgEventsError:
    """The error to raise for a statement that PostgreSQL has refused.

    Args:
        code: The SQLSTATE.
        message: PostgreSQL's message.
        detail: Its detail; empty if there is none.
        is_inside: Whether a transaction is open; asked of those alone that may be tried again.
    """
    suffix = f" ({detail})" if detail else ""
    if code in RETRYABLE:
        whole = "; run the whole db.atomic() block again" if is_inside else ""
        return RetryableError(f"{RETRYABLE[code]}: {message}{suffix}; nothing was written{whole}")
    if code == "23505" and "idempotency_key" in message + detail:
        return IdempotencyError(
            f"another transaction saved an event with this key meanwhile ({detail}); nothing was written"
        )
    if code in REFUSED:
        return REFUSED[code](message)
    if code == "25006":
        return UnsupportedTransactionError(
            f"{message}: this server is a standby, or the transaction is READ ONLY; write on the primary, "
            "without READ ONLY"
        )
    if code == "25P02":
        return UnsupportedTransactionError(SWALLOWED)
    if code == "23514":
        return EventEncodeError(f"{message}; nothing was written")
    if code in TOO_LARGE:
        return _too_large(f"{message} {detail}".strip())
    if code in NOT_TEXT_HERE:
        return EventEncodeError(
            f"{message}: the database's encoding cannot hold this text; nothing was written. Use a UTF8 "
            "database"
        )
    return DatabaseError(f"PostgreSQL refused: {message}{suffix}", sqlstate=code)


def _too_large(message: str) -> PgEventsError:
    """A limit of PostgreSQL's."""
    if "string buffer" in message:
        return ConfigurationError(
            "this is more than a gigabyte of text, which PostgreSQL neither takes nor gives in one piece: "
            "save fewer events at once, or read fewer, with after= or a snapshot, or one after the other "
            "with iter_event_stream()"
        )
    if "index row" in message:
        return EventEncodeError(
            f"{message}: the value of a data index may have some 2,700 bytes; nothing was written"
        )
    return EventEncodeError(
        f"{message}: a value in an event's data may have at most 256 MB, and some thousand levels; nothing "
        "was written. Keep large values elsewhere and save a reference to them"
    )
