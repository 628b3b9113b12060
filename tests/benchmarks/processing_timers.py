"""How fast timers fire that are due at once, as after a downtime."""

from __future__ import annotations

import threading
import time
from typing import Any

from pgevents import Event
from pgevents.subscriptions import Runner, firing, subscription

from .processing_store import Added, fresh

FILL_SQL = """\
INSERT INTO bench.events_timers (key, due_at, try_at, type, data, locks)
SELECT 'k' || n, at, at, 'BENCH_ADDED',
    jsonb_build_object('cart_id', 'c' || mod(n, 5000), 'n', n, 'at', 0.0), 3
FROM generate_series(1, %s) AS n,
    LATERAL (SELECT now() - interval '1 hour' + n * interval '1 ms' AS at) AS due
"""
IN_ORDER_SQL = """\
SELECT count(*) = %s AND bool_and((data->>'n')::bigint = place)
FROM (SELECT data, row_number() OVER (ORDER BY id) AS place FROM bench.events) AS fired
"""


def timers(url: str, count: int = 100_000) -> dict[str, Any]:
    """One runner fires them, alone and while a subscription handles their events."""
    found: dict[str, Any] = {"timers": count}
    for name in ("alone", "handled"):
        client = fresh(url)
        client.db.execute_sql(FILL_SQL, [count])
        client.db.execute_sql("ANALYZE bench.events_timers")

        @subscription("timed", Added, effects="inside")
        def nothing(one: Event[Added]) -> None:
            return None

        start = time.perf_counter()
        if name == "alone":
            while firing.fire(client):
                pass
        else:
            runner = Runner(client, [nothing])
            thread = threading.Thread(target=runner.run)
            thread.start()
            while firing.until_next(client) is not None:
                time.sleep(0.05)
            found["fired_while_handled_per_s"] = round(count / (time.perf_counter() - start))
            client.wait("timed", count, timeout=600)
            runner.stop()
            thread.join()
        found[f"{name}_per_s"] = round(count / (time.perf_counter() - start))
        (is_in_order,) = client.db.execute_sql(IN_ORDER_SQL, [count]).fetchone()
        assert is_in_order, "timers fired out of order, not all, or twice"
        client.db.close()
    return found
