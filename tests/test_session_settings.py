"""Settings of a role or a session: what is saved, read and refused does not depend on them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from pgevents import ConcurrencyError, EventClient, UnsupportedTransactionError

from .conftest import database, shop_client
from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart

SETTINGS = {
    "DateStyle": ["German, DMY", "SQL, MDY"],
    "TimeZone": ["Asia/Kathmandu", "Africa/Monrovia"],
    "IntervalStyle": ["iso_8601", "sql_standard"],
    "standard_conforming_strings": ["off"],
    "backslash_quote": ["off"],
    "search_path": ["", "pg_temp, pg_catalog"],
    "plan_cache_mode": ["force_custom_plan"],
    "statement_timeout": ["60s"],
    "lock_timeout": ["50", "1"],
    "synchronous_commit": ["off"],
    "client_encoding": ["LATIN1"],
    "bytea_output": ["escape"],
    "extra_float_digits": ["-15"],
    "jit_above_cost": ["0"],
    "enable_indexscan": ["off"],
    "array_nulls": ["off"],
    "quote_all_identifiers": ["on"],
    "transform_null_equals": ["on"],
    "xmloption": ["document"],
    "row_security": ["off"],
}
LONG_AGO = datetime(1850, 1, 1, 0, 0, 1, 5, tzinfo=timezone.utc)


def client_with(url: str, setting: str, value: str) -> EventClient:
    """A client whose sessions begin with a setting, as those of a role with it do."""
    escaped = value.replace(" ", "\\ ")
    return shop_client(database(url, options=f"-c {setting}={escaped}"))


@pytest.mark.parametrize(
    ("setting", "value"), [(name, value) for name, values in SETTINGS.items() for value in values]
)
def test_a_setting_changes_nothing(client: EventClient, url: str, setting: str, value: str) -> None:
    """Saves, batches, final reads, decisions and conflicts, beside a client without the setting."""
    own = client_with(url, setting, value)
    history = own.get_event_stream(CartEvent, cart_id="c1")
    saved = [own.save_event_with_stream_validation(CartCreated("c1", "it's \\ ünï"), history)]
    saved.append(own.save_event(ItemAddedToCart("c1", "p1", 1, 5), created_at=LONG_AGO))
    saved += own.save_events([ItemAddedToCart("c1", f"p{n}", 1, 5) for n in range(90)], idempotency_key="k")
    final = own.get_event_stream(CartEvent, cart_id="c1", final=True)
    assert list(final) == saved == list(client.get_event_stream(CartEvent, cart_id="c1"))
    assert final[1].created_at == LONG_AGO and own.horizon().id == saved[-1].id
    for other in (client, own):
        with pytest.raises(ConcurrencyError):
            other.save_event_with_stream_validation(CartCreated("c1", "u2"), history)
    with own.db.atomic():
        own.save_event(CartCreated("c2", "u1"))
        own.decide(CartProjection("c2", own), lambda cart: ItemAddedToCart(cart.id, "p1", 2, 5))
    assert CartProjection("c2", own).save_projection().projection.data == CartProjection("c2", client).view
    own.db.close()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("default_transaction_isolation", "repeatable read"),
    ],
)
def test_a_setting_that_breaks_a_promise_is_refused(
    client: EventClient, url: str, setting: str, value: str
) -> None:
    """READ ONLY and frozen snapshots: saves say so, ordinary reads go on."""
    client.save_event(CartCreated("c1", "u1"))
    own = client_with(url, setting, value)
    given: list[Any] = [CartCreated("c1", "u2")]
    with pytest.raises(UnsupportedTransactionError):
        own.save_events(given)
    assert len(own.get_event_stream(cart_id="c1")) == 1
    own.db.close()
