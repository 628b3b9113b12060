"""What can go wrong, each with the fields that a caller needs to act on it."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "AppendOnlyError",
    "ConcurrencyError",
    "ConfigurationError",
    "ConnectionLostError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "EventDecodeError",
    "EventEncodeError",
    "IdempotencyError",
    "IncompleteViewsError",
    "InvalidValueError",
    "MovedError",
    "NotInstalledError",
    "PgEventsError",
    "PluginError",
    "RetryableError",
    "StagedEventsError",
    "TenantsError",
    "UnknownEventTypeError",
    "UnsupportedTransactionError",
    "WaitError",
]


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 100


def shown(value: Any) -> str:
    """A value as an error shows it: short, however large or deep, and also if its repr() fails."""
    try:
        return _Shown().repr(value)
    except Exception:  # of a __repr__ that is not ours, or an int of too many digits
        return f"<{type(value).__qualname__}>"


class PgEventsError(Exception):
    """The base of every error that pgevents itself raises."""


class ConfigurationError(PgEventsError, ValueError):
    """A name, an argument or a server setting that pgevents cannot work with."""


class InvalidValueError(ConfigurationError):
    """A value that as a rule comes from outside (an identifier, a key, a time, an id) is not valid."""


class NotInstalledError(PgEventsError, LookupError):
    """The tables or functions are missing, or older than this client: run `client.create_tables()`."""


class UnknownEventTypeError(PgEventsError, LookupError):
    """An event class or type name that is not registered with this client.

    Attributes:
        event_type: The class or name that was given.
    """

    def __init__(self, message: str, event_type: object = None) -> None:
        super().__init__(message)
        self.event_type = event_type


class EventEncodeError(PgEventsError, ValueError):
    """An event, its metadata or a view cannot be stored as JSON in PostgreSQL."""


class EventDecodeError(PgEventsError, ValueError):
    """A stored event or snapshot does not fit its class.

    Attributes:
        event_id: The id of the stored event, or None if it was never stored.
        event_type: Its type (of a snapshot: the projection's type).
        field: The field at fault; None if the error does not come from a field.
    """

    def __init__(
        self, message: str, *, event_id: int | None = None, event_type: str = "", field: str | None = None
    ) -> None:
        super().__init__(message)
        self.event_id = event_id
        self.event_type = event_type
        self.field = field


class RetryableError(PgEventsError):
    """Nothing was written, and the same call may succeed when it is repeated.

    Deadlocks, lock and statement timeouts and serialization failures arrive as this class, with the
    driver's error as the cause. Inside `db.atomic()` PostgreSQL has aborted the whole transaction:
    leave the block and run all of it again.
    """


class MovedError(RetryableError):
    """The tenant lives on another server now, or is on its way there.

    The client at hand works with the tenant's former place. `tenants.run(...)` repeats its block at the new
    one; otherwise take a new client, `tenants.client(tenant)`, and repeat.

    Attributes:
        tenant: The tenant.
        node: The name of the server where it lives now; None while it is being moved.
    """

    def __init__(self, message: str, *, tenant: str = "", node: str | None = None) -> None:
        super().__init__(message)
        self.tenant = tenant
        self.node = node


class ConcurrencyError(RetryableError):
    """A validated save was refused: the streams hold events that the caller had not read.

    Attributes:
        conflicting_ids: Ids of the events that the caller had not read (at most 100).
        expected: The position or id that the caller gave.
        attempts: How many times it was tried.
        retry_after: Seconds after which a plugin wants another try, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        conflicting_ids: Sequence[int] = (),
        expected: Any = None,
        attempts: int = 1,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.conflicting_ids = tuple(conflicting_ids)
        self.expected = expected
        self.attempts = attempts
        self.retry_after = retry_after


class ConnectionLostError(PgEventsError, ConnectionError):
    """The connection broke during the call; the next call connects again.

    Whether a save was committed is not known: read the log, or repeat the save with its `idempotency_key`,
    which is always safe.
    """


class DatabaseUnavailableError(PgEventsError, ConnectionError):
    """No connection is available: the server is down or refuses, or all connections of a pool are in use.

    Nothing was written.
    """


class DatabaseError(PgEventsError):
    """PostgreSQL refused a statement for a reason without an error class, such as a missing privilege.

    Attributes:
        sqlstate: PostgreSQL's five-character code; empty if the driver refused.
    """

    def __init__(self, message: str, *, sqlstate: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


class IdempotencyError(PgEventsError, ValueError):
    """An idempotency key was used before, for other events.

    Attributes:
        key: The key.
        saved_ids: Ids of the events that were saved with it.
    """

    def __init__(self, message: str, *, key: str = "", saved_ids: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.key = key
        self.saved_ids = tuple(saved_ids)


class WaitError(PgEventsError, TimeoutError):
    """A subscription has not handled an event in time, or cannot before somebody acts.

    Attributes:
        reason: "timeout", "parked", "paused", "stopped" or "missing".
    """

    def __init__(self, message: str, *, reason: str = "timeout") -> None:
        super().__init__(message)
        self.reason = reason


class IncompleteViewsError(PgEventsError):
    """A query of kept views cannot give all of them yet.

    Attributes:
        reason: "building" if the views have not reached the end that the log had when keeping began;
            "waiting" if some views wait to be folded again, after an error, a redaction or a deletion;
            "unkept" if no runner keeps this version yet, though one keeps another version.
        position: The id up to which they are folded; 0 if they are unkept.
        target: The id that they have to reach; 0 if they are unkept.
    """

    def __init__(self, message: str, *, reason: str, position: int, target: int) -> None:
        super().__init__(message)
        self.reason = reason
        self.position = position
        self.target = target


class UnsupportedTransactionError(PgEventsError, RuntimeError):
    """The connection's transaction cannot keep the promises (its isolation level, a standby, autocommit
    off)."""


class AppendOnlyError(PgEventsError, TypeError):
    """Events are appended through the client; nothing else writes or changes the log."""


class StagedEventsError(PgEventsError, RuntimeError):
    """The projection holds staged (unsaved) or hand-fed events, and the call accepts saved events only."""


class TenantsError(PgEventsError):
    """What was to be done for each tenant failed for some of them; it is done for the others.

    Attributes:
        results: What the call gave, by tenant.
        errors: What went wrong, by tenant.
    """

    def __init__(
        self,
        message: str,
        *,
        results: Mapping[str, Any] | None = None,
        errors: Mapping[str, Exception] | None = None,
    ) -> None:
        super().__init__(message)
        self.results = dict(results or {})
        self.errors = dict(errors or {})


class PluginError(PgEventsError, ValueError):
    """A plugin cannot be registered or called; the message says what to correct."""
