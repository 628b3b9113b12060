"""`drain`: all that is due for subscriptions, handled in the test's own thread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgevents.client import EventClient

__all__ = ["drain"]

MOST_ROUNDS = 10_000


def drain(client: EventClient, subscriptions: Iterable[Any] | None = None) -> int:
    """Give subscriptions all that is due, in this thread and in a fixed order, until nothing is left.

    What handlers save is handled, too, and so are the events of timers that are due. Timers and retries that
    are due later are left; `Clock` moves the clock of timers.

    A handler's error is not raised here: its event is retried or parked, or the subscription stops, as its
    `on_error` says. `overview(client)` has the errors, by lane.

    Args:
        client: The client.
        subscriptions: As for `Runner`; by default every function made by `@subscription`.

    Returns:
        How many events were handled or set aside.

    Raises:
        ConfigurationError: A handler saves without end, or a subscription that cannot work.

    Example:
        ```python
        from pgevents.testing import drain

        client.save_event(CartCheckedOut("c1", now()))
        drain(client, [write_invoice])
        ```
    """
    from pgevents.errors import ConfigurationError
    from pgevents.subscriptions import firing
    from pgevents.subscriptions.change import settle
    from pgevents.subscriptions.lanes import all_lanes
    from pgevents.subscriptions.pace import Pace
    from pgevents.subscriptions.runner import step_of
    from pgevents.subscriptions.subscription import declared, listed, work_of

    chosen = declared.values() if subscriptions is None else listed(subscriptions)
    works = [work_of(client, subscription) for subscription in chosen]
    client.check_installed()
    for work in works:
        settle(work)
        work.setup()
    paces = [Pace() for _ in works]
    total = 0
    for _ in range(MOST_ROUNDS):
        before = total
        is_more = firing.fire(client)
        for work, pace in zip(works, paces, strict=True):
            for lane in all_lanes(work):
                outcome = step_of(work, [lane], 1, pace)
                total += outcome.handled
                is_more = is_more or outcome.is_more
        if total == before and not is_more:
            return total
    raise ConfigurationError(
        f"after {total} events there are still more: do handlers save events that they handle themselves?"
    )
