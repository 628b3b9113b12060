"""How timers are doing: how many there are, how late, and what is wrong."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs

from pgevents.client import EventClient

__all__ = ["TimersReport", "timer_problems", "timers_report"]


@attrs.frozen
class TimersReport:
    """The timers that have not fired.

    Attributes:
        scheduled: How many there are, parked ones included.
        due: How many of them should have fired by now, without the parked ones.
        late_seconds: For how long the first of these has been due; 0 without any.
        retrying: How many could not be fired, and are tried again.
        parked: How many could not be fired, and wait for a person.
        next_at: When the next one is due.
    """

    scheduled: int
    due: int
    late_seconds: float
    retrying: int
    parked: int
    next_at: datetime | None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return attrs.asdict(self)


def timers_report(client: EventClient) -> TimersReport:
    """How the timers of a client's events table are doing.

    Example:
        ```python
        from pgevents.subscriptions import timers_report

        print(timers_report(client).late_seconds)
        ```
    """
    client.check_installed()
    row = client.timers.statements.rows("timers_sum", ahead=client.timers.ahead)[0]
    scheduled, parked, retrying, due, late, next_at = row
    return TimersReport(scheduled, due, float(late or 0.0), retrying, parked, next_at)


def timer_problems(client: EventClient, max_lag: float) -> list[str]:
    """What is wrong with timers, in words; empty if all is well."""
    report = timers_report(client)
    problems: list[str] = []
    if report.late_seconds > max_lag:
        count = "a timer is" if report.due == 1 else f"{report.due} timers are"
        tried = f", {report.retrying} could not be fired and are tried again" if report.retrying else ""
        problems.append(
            f"{count} due, the first for {report.late_seconds:.0f} s{tried}: does a runner run? "
            "pgevents timers list shows them"
        )
    if report.parked:
        count = "a timer is" if report.parked == 1 else f"{report.parked} timers are"
        problems.append(f"{count} parked: pgevents timers list --state parked shows why")
    return [f"timers: {problem}" for problem in problems]
