"""Firing: the events of timers that are due are saved, in order, each once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from pgevents.client import EventClient
from pgevents.errors import (
    ConnectionLostError,
    DatabaseUnavailableError,
    IdempotencyError,
    NotInstalledError,
    RetryableError,
    UnsupportedTransactionError,
)
from pgevents.store.append import EventColumns, Row
from pgevents.timers import KEY_PREFIX

__all__ = ["fire", "until_next"]

log = logging.getLogger("pgevents")

MOST = 500
"""At most this many timers in one transaction; fewer if their events have more keys than may be locked."""
LOCK_TIMEOUT = "50ms"
"""For how long a save of timers' events waits for locks, which it may hold itself meanwhile."""
BLOCKED_ATTEMPTS, REFUSED_ATTEMPTS = 20, 5
"""How often a timer is tried before it is parked: while others lock its keys, or if its event is refused."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 60.0
NOT_THE_TIMERS = (
    ConnectionLostError,
    DatabaseUnavailableError,
    NotInstalledError,
    UnsupportedTransactionError,
)
"""Errors that say nothing about a timer."""


@attrs.frozen
class _Due:
    """A timer that is due, locked by this transaction."""

    number: int
    key: str
    attempts: int
    row: Row

    @property
    def stored_key(self) -> str:
        return KEY_PREFIX + self.key


def until_next(client: EventClient) -> float | None:
    """Seconds until the next timer is due, below 0 if it is late; None without any."""
    found = client.timers.statements.value("until_next_timer", ahead=client.timers.ahead)
    return None if found is None else float(found)


def fire(client: EventClient) -> bool:
    """Save the events of the timers that are due longest, in one transaction; whether there may be more.

    Nothing is done while another runner fires.

    Raises:
        PgEventsError: The database cannot be reached, or cannot do it. Nothing was done.
    """
    timers = client.timers
    with client.session.atomic():
        found = timers.statements.rows(
            "due_timers", limit=MOST, lock_timeout=LOCK_TIMEOUT, ahead=timers.ahead
        )
        due = [_Due(number, key, attempts, tuple(row)) for number, key, attempts, *row in found]
        if due:
            fired = due if _fire_together(client, due) else _fire_singly(client, due)
            timers.statements.run("fired", numbers=[timer.number for timer in fired])
    return bool(due)


def _fire_together(client: EventClient, due: Sequence[_Due]) -> bool:
    """Save all events; whether that could be done."""
    try:
        with client.session.atomic():
            columns = EventColumns.of_rows([timer.row for timer in due])
            client.saver.append_encoded(columns, [timer.stored_key for timer in due])
    except NOT_THE_TIMERS:
        raise
    except Exception as error:  # which of them it is shows when they come one by one
        log.debug("timers cannot be fired together: %s", error)
        return False
    return True


def _fire_singly(client: EventClient, due: Sequence[_Due]) -> list[_Due]:
    """Save the events one by one, up to one that fails; those that are in the log.

    It ends there, because the next one might have to wait while this transaction holds what others need.
    """
    fired: list[_Due] = []
    for timer in due:
        try:
            with client.session.atomic():
                client.saver.append_encoded(EventColumns.of_rows([timer.row]), [timer.stored_key])
        except NOT_THE_TIMERS:
            raise
        except IdempotencyError:  # somebody has saved an event with this key
            log.warning("timer %r was not fired: its event is in the log already", timer.key)
        except Exception as error:  # also a plugin's
            _note_failure(client, timer, error)
            break
        fired.append(timer)
    return fired


def _note_failure(client: EventClient, timer: _Due, error: Exception) -> None:
    most = BLOCKED_ATTEMPTS if isinstance(error, RetryableError) else REFUSED_ATTEMPTS
    is_parked = timer.attempts + 1 >= most
    client.timers.statements.run(
        "not_fired",
        number=timer.number,
        state="parked" if is_parked else "retrying",
        error=f"{type(error).__name__}: {error}"[:2000].replace("\0", ""),
        delay=min(FIRST_DELAY * 2**timer.attempts, LONGEST_DELAY),
        ahead=client.timers.ahead,
    )
    level = logging.ERROR if is_parked else logging.WARNING
    log.log(level, "timer %r could not be fired%s: %s", timer.key, ", and is parked" * is_parked, error)
