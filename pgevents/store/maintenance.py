"""Changes of saved events: the audited way round the guards of the log."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pgevents.errors import ConfigurationError, shown
from pgevents.store.layout import TableSpec
from pgevents.store.processing import Statements
from pgevents.store.session import Session
from pgevents.texts import is_text

__all__ = ["maintenance"]

SWITCH_SQL = "SELECT set_config('pgevents.maintenance', %s, true)"
FORGET = ("forget_parked_errors", "forget_lane_errors", "forget_timer_errors")
"""Statements that remove the texts of errors, which may quote what was erased."""


def maintenance(session: Session, spec: TableSpec, reason: Any) -> AbstractContextManager[None]:
    """A transaction with the guard's switch on; see `EventClient.maintenance`."""
    is_reason = isinstance(reason, str) and reason.strip() and "\0" not in reason and is_text(reason)
    if not is_reason:
        raise ConfigurationError(
            f"maintenance needs a reason in words, which stays in the audit trail, not {shown(reason)}"
        )
    return _maintenance(session, spec, reason)


@contextmanager
def _maintenance(session: Session, spec: TableSpec, reason: str) -> Generator[None, None, None]:
    with session.atomic():
        (outer,) = session.execute("SELECT current_setting('pgevents.maintenance', true)").fetchone()
        session.execute(SWITCH_SQL, [reason])
        yield
        for statement in FORGET:
            Statements(session, spec).run(statement)
        session.execute(SWITCH_SQL, [outer or ""])  # a block around this one goes on
