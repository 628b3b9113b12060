"""A log that is restored into a database of another encoding."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import ConfigurationError, Event
from pgevents.subscriptions import replay, retry, subscription
from pgevents.testing import drain

from ..conftest import database, shop_client
from ..consistency.servers import client_programs
from ..shop import CartCreated


@pytest.mark.parametrize("other", ["LATIN1", "UTF8"])
def test_after_a_restore_into_another_encoding_keys_have_other_lanes(url: str, other: str) -> None:
    """Which lane a key has goes by its bytes. Lanes at one place are dealt out anew, with what is parked;
    others are refused, and a reset names the place."""
    first = "UTF8" if other == "LATIN1" else "LATIN1"
    admin: Any = database(url)
    made = {name: make_dsn(**{**parse_dsn(url), "dbname": f"keys_{name.lower()}"}) for name in (first, other)}
    for name in made:
        admin.execute_sql(
            f"CREATE DATABASE keys_{name} ENCODING '{name}' TEMPLATE template0 "
            "LOCALE_PROVIDER libc LOCALE 'C'"
        )
    handled: list[int] = []
    broken = {"é1"}

    @subscription("writer", CartCreated, key="cart_id", lanes=8, on_error=retry(1))
    def write(event: Event[CartCreated]) -> None:
        if event.data.cart_id in broken:
            raise ValueError
        handled.append(event.id)

    keys = [f"é{n}" for n in range(6)]
    try:
        old = shop_client(database(made[first]))
        old.create_tables()
        old.save_events([CartCreated(key, "u1") for key in keys * 2])
        drain(old, [write])
        lanes = "SELECT mod(mod(hashtextextended(k, 0), 8) + 8, 8) FROM unnest(%s) AS k"
        before = old.db.execute_sql(lanes, [keys]).fetchall()
        old.db.close()
        assert set(handled) == set(range(1, 13)) - {2, 8}
        dump = [client_programs(url) / "pg_dump", "-E", "UTF8", "-d", made[first]]
        script = subprocess.run(dump, capture_output=True, check=True).stdout
        restore = [client_programs(url) / "psql", "-v", "ON_ERROR_STOP=1", "-q", "-d", made[other]]
        subprocess.run(restore, input=script, capture_output=True, check=True)
        new = shop_client(database(made[other]))
        assert new.db.execute_sql(lanes, [keys]).fetchall() != before
        new.save_events([CartCreated(key, "u1") for key in keys])
        place = "UPDATE my_app.events_checkpoints SET position = 12"
        new.db.execute_sql(f"{place} + lane")
        with pytest.raises(ConfigurationError, match="to other lanes than the server"):
            drain(new, [write])
        new.db.execute_sql(place)
        drain(new, [write])
        rows = "SELECT count(*) FROM my_app.events_parked WHERE hash = hashtextextended(key, 0)"
        assert new.db.execute_sql(rows).fetchone()[0] == 3
        broken.clear()
        replay(new, "writer")
        drain(new, [write])
        assert set(handled) == set(range(1, 19))
        assert [id for id in handled if id % 6 == 2] == [2, 8, 14]
        new.db.close()
    finally:
        for name in made:
            admin.execute_sql(f"DROP DATABASE IF EXISTS keys_{name} WITH (FORCE)")
        admin.close()
