"""Whether all that a handler writes is written in the transaction that it is called in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgevents.client import EventClient
    from pgevents.subscriptions import Work

__all__ = ["check_effects"]

TABLES_SQL = """
SELECT c.oid::regclass::text FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't'
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
ORDER BY 1
"""


def check_effects(
    client: EventClient, subscriptions: Iterable[Any] | None = None, *, events: int = 100
) -> int:
    """Give handlers their next events, roll back, and see what stayed.

    What stayed was written over another connection: by a client or a model of another database object, or a
    driver's connection. It would happen again when an event comes again. Only rows of this database are seen.

    Args:
        client: The client.
        subscriptions: As for `Runner`; by default every function made by `@subscription`. Those with effects
            outside are left out.
        events: At most this many events for each subscription.

    Returns:
        How many events were given to handlers. They are all due still.

    Raises:
        AssertionError: Something stayed; the message names the subscription and the tables.
        ConfigurationError: There were no events, so that nothing could be checked.

    Example:
        ```python
        from pgevents.testing import check_effects

        def test_handlers_write_in_their_transaction(client):
            client.save_event(CartCheckedOut("c1", now()))
            check_effects(client, [write_invoice])
        ```
    """
    from pgevents.errors import ConfigurationError
    from pgevents.subscriptions.change import settle
    from pgevents.subscriptions.subscription import declared, listed, work_of

    chosen = declared.values() if subscriptions is None else listed(subscriptions)
    works = [work_of(client, subscription) for subscription in chosen]
    client.check_installed()
    count = 0
    for work in works:
        if work.effects == "outside":
            continue
        settle(work)
        work.setup()
        before = _contents(client)
        count += _give_and_roll_back(work, events)
        after = _contents(client)
        changed = sorted(name for name in before | after if before.get(name) != after.get(name))
        if changed:
            raise AssertionError(
                f"subscription {work.name!r}: what its handler wrote to {', '.join(changed)} stayed when its "
                "transaction was rolled back, so it was written over another connection. Write with "
                "client.db, or with models that are bound to it"
            )
    if not count:
        raise ConfigurationError("no event was due, so nothing was checked: save some before")
    return count


def _give_and_roll_back(work: Work, limit: int) -> int:
    from pgevents.deliveries import delivering
    from pgevents.subscriptions.lanes import all_lanes, claim, read

    client = work.client
    db: Any = client.db
    with db.atomic() as transaction:
        lanes = claim(work, all_lanes(work), 10_000)
        items = read(work, lanes, limit).items if lanes else ()
        for item in items:
            if item.error is not None:
                raise item.error
            with delivering(work.name, item.event):
                work.handle([item.event] if item.event is not None else [])
        transaction.rollback()
    return len(items)


def _contents(client: EventClient) -> dict[str, tuple[int, int]]:
    """How many rows each table has, and a digest of them."""
    execute = client.session.execute
    found: dict[str, tuple[int, int]] = {}
    for (table,) in execute(TABLES_SQL).fetchall():
        sql = f"SELECT count(*), sum(hashtextextended(row::text, 0)) FROM ONLY {table} AS row"
        found[table] = tuple(execute(sql).fetchone())
    return found
