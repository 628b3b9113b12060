"""Kept views: at its place each equals the fold from the start, whatever was deleted, late or changed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen
from peewee import PostgresqlDatabase

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    EventTypes,
    IncompleteViewsError,
    MultiStreamProjectionBase,
    PgEventsError,
    ProjectionBase,
    RetryableError,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    hookimpl,
    many,
    pipeline,
    stream,
)
from pgevents.diagnosis import diagnose
from pgevents.subscriptions import (
    RebuildProgress,
    Runner,
    discard,
    drop_old_versions,
    keep,
    kept_views,
    parked,
    rebuild,
    replay,
    reset,
    resize,
    retry,
    view_folding,
    view_rows,
)
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.pace import Pace
from pgevents.testing import drain

from .processing.lab import in_thread
from .shop import CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart

Make = Callable[..., EventClient]
NAME = "view SHOPPING_CART 1 in views"


class CartTwo(CartProjection):
    """The next version, which counts the total in another way."""

    version = 2
    reducers = pipeline(user_id=lambda user, event: f"{user}{event.id} ")


def added(cart: str, product: str = "p1") -> ItemAddedToCart:
    return ItemAddedToCart(cart, product, 1, 100)


def check(client: EventClient, cls: Any = CartProjection, ids: Any = ("c1", "c2")) -> None:
    """Each row equals the fold from the start."""
    for id in ids:
        whole = cls(id, client, load_existing_projection=False)
        saved = client.get_projection(cls, id)
        assert saved is not None
        assert (saved.data, saved.latest_event_id) == (whole.view, whole.position.last_id)


def start(client: EventClient, *classes: Any) -> None:
    """Some events, and views that are kept."""
    client.save_events([CartCreated("c1", "u1"), added("c1"), CartCreated("c2", "u2")])
    drain(client, [keep(cls) for cls in classes or (CartProjection,)])


# -- what folds ------------------------------------------------------------------------------


def test_views_are_kept_and_say_as_of_when(client: EventClient) -> None:
    """Views of all ids stand there, and grow; a query's result carries the place."""
    start(client)
    check(client)
    client.save_events([added("c2"), added("c1", "p2")])
    drain(client, [keep(CartProjection)])
    check(client)
    found = client.query_projections(CartProjection, total=100)
    assert ([one.id for one in found], found.position, found.is_whole, found.is_stale) == (
        ["c2"],
        5,
        True,
        False,
    )
    assert client.query_projections(CartProjection, user_id="nobody").position == 5
    assert client.count_projections(CartProjection) == 2
    assert client.wait(CartProjection, 5) == "handled"


def test_a_row_that_is_ahead_or_behind_is_folded_from_where_it_is(client: EventClient) -> None:
    """A view that somebody else saved, or that was set back, holds each event once."""
    start(client)
    client.save_events([added("c1", "p2"), added("c2", "p2")])
    CartProjection("c1", client).save_projection()
    client.db.execute_sql(
        "UPDATE my_app.views SET latest_event_id = 1, data = %s WHERE id = 'c2'",
        ['{"id": "c2", "user_id": "", "items": [], "is_checked_out": false, "total": 0}'],
    )
    client.save_events([added("c1", "p3"), added("c2", "p3")])
    drain(client, [keep(CartProjection)])
    check(client)


def test_a_deleted_row_is_folded_anew(client: EventClient) -> None:
    """From the start, also where no further event comes; meanwhile queries say that it is missing."""
    start(client)
    client.delete_projection(CartProjection, "c1")
    for ask in (
        lambda: client.query_projections(CartProjection),
        lambda: client.count_projections(CartProjection),
        lambda: client.get_projection(CartProjection, "c1"),
    ):
        with pytest.raises(IncompleteViewsError, match="wait to be folded anew") as caught:
            ask()
        assert caught.value.reason == "waiting"
    partial = client.query_projections(CartProjection, partial="allow")
    assert ([one.id for one in partial], partial.is_whole) == (["c2"], False)
    drain(client, [keep(CartProjection)])
    check(client)
    assert len(client.query_projections(CartProjection)) == 2
    client.db.execute_sql("DELETE FROM my_app.views WHERE id = 'c1'")
    client.save_event(added("c1", "p9"))
    drain(client, [keep(CartProjection)])
    check(client)
    client.db.execute_sql("TRUNCATE my_app.views")
    with pytest.raises(IncompleteViewsError) as built:
        client.query_projections(CartProjection)
    assert built.value.reason == "building"
    drain(client, [keep(CartProjection)])
    check(client)


def test_whatever_a_class_folds_by_can_be_kept(make_client: Make) -> None:
    """Views that are dicts, and those that are folded in as_json."""

    class Counts(ProjectionBase[dict[str, Any], CartEvent]):
        projection_type = "COUNTS"

        def as_json(self) -> dict[str, Any]:
            return {"n": self.reduce_events(lambda n, _: n + 1, self.from_projection_or_default("n", 0))}

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    class Names(ProjectionBase[dict[str, Any], CartEvent]):
        projection_type = "NAMES"
        reducers = pipeline(names=lambda names, event: [*names, event.type])

        def initial_view(self) -> dict[str, Any]:
            return {"names": []}

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    client = make_client()
    client.create_tables()
    start(client, Counts, Names)
    client.save_event(added("c2"))
    drain(client, [keep(Counts), keep(Names)])
    assert client.get_projection(Counts, "c2").data == {"n": 2}  # type: ignore[union-attr]
    assert client.get_projection(Names, "c1").data == {  # type: ignore[union-attr]
        "names": ["CART_CREATED", "ITEM_ADDED_TO_CART"]
    }


def test_plugins_see_each_view_before_it_is_written(make_client: Make) -> None:
    """As with a snapshot that is saved by hand."""
    seen: list[tuple[str, int]] = []

    class Watching:
        @hookimpl
        def pgevents_before_snapshot(self, client: Any, snapshot: Any) -> None:
            seen.append((snapshot.id, snapshot.latest_event_id))

    client = make_client(plugins=[Watching()])
    client.create_tables()
    start(client)
    client.save_event(added("c1"))
    drain(client, [keep(CartProjection)])
    assert sorted(seen) == [("c1", 2), ("c1", 4), ("c2", 3)]
    check(client)


# -- whose view ------------------------------------------------------------------------------


@frozen
class Balance:
    id: str
    cents: int = 0
    moves: tuple[int, ...] = ()


@pytest.fixture
def bank(make_client: Make, monkeypatch: pytest.MonkeyPatch) -> tuple[EventClient, Any, Any]:
    """Transfers between accounts: an event changes two views. The client, the event and the projection."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("TRANSFER")
    class Transfer:
        cart_id: str
        product_id: str
        cents: int

    class Account(MultiStreamProjectionBase[Balance, Transfer]):
        projection_type = "ACCOUNT"

        @staticmethod
        def to_balance(balance: Balance, event: Event[Any]) -> Balance:
            data, sign = event.data, 0
            sign += data.product_id == balance.id
            sign -= data.cart_id == balance.id
            return Balance(balance.id, balance.cents + sign * data.cents, (*balance.moves, event.id))

        reducers = pipeline(to_balance)

        def get_stream_options(self) -> Any:
            return [stream(Transfer, cart_id=self.id), stream(Transfer, product_id=self.id)]

    client = make_client(event_types=[Transfer])
    client.create_tables()
    return client, Transfer, Account


def transfers(transfer: Any, count: int) -> list[Any]:
    return [transfer(f"a{n * 7 % 5}", f"a{n * 3 % 5}", n + 1) for n in range(count)]


@pytest.mark.parametrize("is_said", [False, True], ids=["from streams", "by ids_of"])
def test_an_event_changes_the_views_of_several_ids(bank: tuple[EventClient, Any, Any], is_said: bool) -> None:
    """Under 16 lanes, each of which folds the ids that are its own."""
    client, transfer, account = bank
    if is_said:
        account.ids_of = staticmethod(lambda event: {event.data.cart_id, event.data.product_id})
    for part in range(3):
        client.save_events(transfers(transfer, 20 + part))
        drain(client, [keep(account, lanes=16)])
        check(client, account, [f"a{n}" for n in range(5)])
    resize(client, "view ACCOUNT 1 in views", 3)
    client.save_events(transfers(transfer, 9))
    client.db.execute_sql("DELETE FROM my_app.views WHERE id = 'a1'")
    drain(client, [keep(account)])
    check(client, account, [f"a{n}" for n in range(5)])
    last = client.save_event(transfer("a1", "a2", 1))
    drain(client, [keep(account)])
    assert client.wait(account, last) == "handled"


@pytest.mark.parametrize("is_said", [False, True], ids=["from streams", "by ids_of"])
def test_events_of_older_versions_are_folded_too(
    make_client: Make, monkeypatch: pytest.MonkeyPatch, is_said: bool
) -> None:
    """Also where an upcaster renames the field that carries the id."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("VISITED", version=2, upcasters={1: lambda data: {"product_id": data["cart_id"]}})
    class Visited:
        product_id: str

    class Visits(ProjectionBase[Balance, Visited]):
        projection_type = "VISITS"
        reducers = pipeline(moves=lambda moves, event: (*moves, event.id))

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"product_id": self.id}

    if is_said:
        Visits.ids_of = staticmethod(lambda event: {event.data.product_id})  # type: ignore[attr-defined]
    old, client = make_client(event_types=[]), make_client(event_types=[Visited])
    client.create_tables()
    old.save_events([{"type": "VISITED", "data": {"cart_id": name}} for name in ("p1", "p2")])
    client.save_event(Visited("p1"))
    drain(client, [keep(Visits)])
    client.save_events([Visited("p1"), Visited("p2")])
    client.delete_projection(Visits, "p2")
    drain(client, [keep(Visits)])
    check(client, Visits, ["p1", "p2"])
    assert [saved.data.moves for saved in client.query_projections(Visits)] == [(1, 3, 4), (2, 5)]


def test_views_by_the_values_of_a_list_are_kept_by_ids_of(
    db: PostgresqlDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it they are refused, before a runner begins."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("SOLD")
    class Sold:
        product_ids: list[str]

    class Sales(ProjectionBase[Balance, Sold]):
        projection_type = "SALES"
        reducers = pipeline(moves=lambda moves, event: (*moves, event.id))

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"product_ids": self.id}

    events = create_events_table(schema="my_app", data_indexes=[many("product_ids")])
    client = create_event_client(db, events, create_projections_table(schema="my_app"), [Sold])
    client.create_tables()
    client.save_events([Sold(["p1", "p2"]), Sold(["p1"])])
    with pytest.raises(ConfigurationError, match="many values in one event"):
        Runner(client, [keep(Sales)])
    Sales.ids_of = staticmethod(lambda event: set(event.data.product_ids))  # type: ignore[attr-defined]
    drain(client, [keep(Sales)])
    check(client, Sales, ["p1", "p2"])


def test_what_cannot_be_kept_is_refused(client: EventClient) -> None:
    """Before anything is written, with what to do."""

    class ByUser(CartProjection):
        def get_event_identifiers(self) -> dict[str, str]:
            return {"user_id": self.id}

    class ByPart(CartProjection):
        projection_type = "PARTS"

        def get_event_identifiers(self) -> dict[str, str]:
            return {"cart_id": self.id.split(":")[0]}

    class Folding(ProjectionBase[CartView, CartEvent]):
        projection_type = "NOTHING"

        def get_event_identifiers(self) -> dict[str, str]:
            return {"cart_id": self.id}

    for given, words in (
        (ByUser, "no data index"),
        (ByPart, "ids_of"),
        (Folding, "folds nothing"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            Runner(client, [keep(given)])
    with pytest.raises(ConfigurationError, match="projection's class"):
        keep("SHOPPING_CART")
    assert kept_views(client) == []


# -- errors ----------------------------------------------------------------------------------


def test_a_reducer_that_fails_stops_its_view_alone(client: EventClient) -> None:
    """The view stays exact up to the event before; when the reducer is mended, it goes on."""
    faults = {"p2"}

    class Fragile(CartProjection):
        def initial_view(self) -> CartView:
            return CartView(self.id)

        reducers = CartProjection.reducers | pipeline(
            lambda view, event: view if getattr(event.data, "product_id", "") not in faults else 1 / 0
        )
        projection_type = "FRAGILE"

    name = "view FRAGILE 1 in views"
    kept = keep(Fragile, on_error=retry(1))
    client.save_events([CartCreated("c1", "u1"), added("c1"), added("c1", "p2"), added("c1", "p3")])
    client.save_events([CartCreated("c2", "u2"), added("c2")])
    drain(client, [kept])
    check(client, Fragile, ["c2"])
    saved = client.query_projections(Fragile, partial="allow")
    assert [(one.id, one.latest_event_id) for one in saved] == [("c1", 2), ("c2", 6)]
    assert [(one.key, one.event_id, one.state) for one in parked(client, name)] == [
        ("c1", 3, "parked"),
        ("c1", 4, "queued"),
    ]
    client.save_event(added("c1", "p4"))
    drain(client, [kept])
    assert len(parked(client, name)) == 3
    faults.clear()
    replay(client, name)
    drain(client, [kept])
    assert parked(client, name) == []
    check(client, Fragile)


# -- redaction -------------------------------------------------------------------------------

ERASE = "UPDATE my_app.events SET data = data || '{\"user_id\": \"\"}' WHERE data->>'user_id' = 'u1'"


def test_what_a_redaction_touched_is_not_served(client: EventClient, make_client: Make) -> None:
    """The view is gone in the same commit, and comes back without what was erased."""
    start(client)
    other = make_client()
    with client.maintenance("erasure request 17"):
        client.db.execute_sql(ERASE)
    assert other.query_projections("SHOPPING_CART", user_id="u1", version=1, partial="allow") == []
    with pytest.raises(IncompleteViewsError):
        other.query_projections(CartProjection)
    drain(client, [keep(CartProjection)])
    check(client)
    assert client.get_projection(CartProjection, "c1").data.user_id == ""  # type: ignore[union-attr]


def test_an_event_that_moves_to_another_id_is_folded_there(client: EventClient) -> None:
    """Also where that id had no view before."""
    start(client)
    with client.maintenance("a wrong cart"):
        client.db.execute_sql('UPDATE my_app.events SET data = data || \'{"cart_id": "c3"}\' WHERE id = 2')
    drain(client, [keep(CartProjection)])
    check(client, ids=["c1", "c2", "c3"])
    with client.maintenance("never happened"):
        client.db.execute_sql("DELETE FROM my_app.events WHERE id = 2")
    drain(client, [keep(CartProjection)])
    assert [one.id for one in client.query_projections(CartProjection)] == ["c1", "c2"]


def test_nothing_is_erased_between_the_read_and_the_write_of_a_keeper(
    client: EventClient, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Maintenance waits for a keeper's transaction, so that it finds every row that holds what it erases."""
    start(client)
    client.save_event(added("c1", "p2"))
    other, tries = make_client(), []
    plain = view_rows.write

    def interrupted(*arguments: Any) -> None:
        with pytest.raises(RetryableError), other.maintenance("erasure"):
            other.db.execute_sql("SET LOCAL lock_timeout = '50ms'")
            other.session.execute(ERASE)
        tries.append(1)
        plain(*arguments)

    from pgevents.subscriptions import view_folding

    monkeypatch.setattr(view_folding, "write", interrupted)
    drain(client, [keep(CartProjection)])
    assert tries
    monkeypatch.undo()
    with other.maintenance("erasure"):
        other.db.execute_sql(ERASE)
        with pytest.raises(RetryableError, match="maintenance"):  # and a keeper for maintenance
            client.save_event(added("c2"))
            drain(client, [keep(CartProjection)])
    drain(client, [keep(CartProjection)])
    check(client)


def test_what_was_saved_before_keeping_began_is_not_trusted_after_a_redaction(client: EventClient) -> None:
    """A snapshot from before still holds what was erased; the views are folded from the start."""
    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u2")])
    CartProjection("c1", client).save_projection()
    with client.maintenance("erasure"):
        client.db.execute_sql(ERASE)
    drain(client, [keep(CartProjection)])
    check(client)


def test_with_ids_of_a_redaction_folds_the_whole_projection_anew(bank: tuple[EventClient, Any, Any]) -> None:
    """Whose views the changed event belongs to, only the program knows."""
    client, transfer, account = bank
    account.ids_of = staticmethod(lambda event: {event.data.cart_id, event.data.product_id})
    client.save_events(transfers(transfer, 12))
    drain(client, [keep(account)])
    with client.maintenance("a wrong amount"):
        client.db.execute_sql("UPDATE my_app.events SET data = data || '{\"cents\": 1000}' WHERE id = 3")
    with pytest.raises(IncompleteViewsError) as caught:
        client.query_projections(account)
    assert caught.value.reason == "building"
    drain(client, [keep(account)])
    check(client, account, [f"a{n}" for n in range(5)])


# -- versions --------------------------------------------------------------------------------


def test_two_versions_never_see_each_other(client: EventClient, make_client: Make) -> None:
    """Version 2 is built while version 1 is served; back at 1, its views go on where they were."""
    start(client)
    client.save_events([added("c1", "p2"), added("c2")])
    old, new = make_client(), make_client()
    with pytest.raises(IncompleteViewsError, match="nobody keeps"):
        new.query_projections(CartTwo)
    runner = Runner(new, [keep(CartTwo)])
    for work in runner.works:
        settle(work)
        work.setup()
    new.snapshots.kept.forget()
    with pytest.raises(IncompleteViewsError, match="event 0 of 5") as caught:
        new.query_projections(CartTwo)
    assert (caught.value.reason, caught.value.target) == ("building", 5)
    assert [one.version for one in old.query_projections(CartProjection)] == [1, 1]
    assert {one.version for one in old.query_projections("SHOPPING_CART")} == {1}
    rebuild(new, CartTwo)
    assert {one.version for one in make_client().query_projections("SHOPPING_CART")} == {2}
    check(new, CartTwo)
    new.save_event(added("c1", "p3"))
    drain(old, [keep(CartProjection)])
    check(old)
    drain(new, [keep(CartTwo)])
    check(new, CartTwo)


def test_a_rebuild_reports_and_drops_what_nobody_uses(client: EventClient, make_client: Make) -> None:
    """Progress as it goes; older versions only when no runner keeps them and nobody reads them."""
    start(client)
    client.query_projections(CartProjection)
    seen: list[RebuildProgress] = []
    report = rebuild(client, CartTwo, progress=seen.append, every=0.01)
    assert (report.version, report.position, report.waiting) == (2, 3, 0)
    assert seen[-1].position == seen[-1].target == 3
    with pytest.raises(ConfigurationError, match="was queried"):
        drop_old_versions(client, CartTwo)
    client.db.execute_sql("UPDATE my_app.events_kept SET read_at = read_at - interval '1 h'")
    with in_thread(Runner(make_client(), [keep(CartProjection)])):
        seen_sql = "SELECT count(*) FROM my_app.events_runners WHERE %s = ANY (names)"
        while client.db.execute_sql(seen_sql, [NAME]).fetchone() == (0,):
            time.sleep(0.01)
        with pytest.raises(ConfigurationError, match="still kept by a runner"):
            drop_old_versions(client, CartTwo)
    assert drop_old_versions(client, CartTwo) == 2
    assert [one.version for one in kept_views(client)] == [2]
    assert client.db.execute_sql("SELECT DISTINCT version FROM my_app.views").fetchall() == [(2,)]
    check(client, CartTwo)


def test_a_version_that_never_had_all_its_views_takes_no_query_of_the_type(
    client: EventClient, make_client: Make
) -> None:
    """Its reducer fails for some; the complete version before it is served, until the rest is folded."""
    faults = {"p2"}

    class Fragile(CartProjection):
        version = 2
        reducers = CartTwo.reducers | pipeline(
            items=lambda items, event: items if getattr(event.data, "product_id", "") not in faults else 1 / 0
        )

    start(client)
    client.save_event(added("c1", "p2"))
    drain(client, [keep(CartProjection)])
    for _ in range(2):
        with pytest.raises(PgEventsError, match="cannot be folded yet"):
            rebuild(client, Fragile, on_error=retry(1))
    assert [view.complete_at is not None for view in kept_views(client)] == [True, False]
    found = make_client().query_projections("SHOPPING_CART")
    assert ({one.version for one in found}, len(found)) == ({1}, 2)
    with pytest.raises(IncompleteViewsError) as caught:
        client.query_projections(Fragile)
    assert caught.value.reason == "waiting"
    faults.clear()
    rebuild(client, Fragile)
    assert {one.version for one in make_client().query_projections("SHOPPING_CART")} == {2}


def test_a_version_is_complete_once_what_fails_is_given_up(client: EventClient) -> None:
    """Nothing waits any more, so queries need not."""

    class Failing(CartProjection):
        reducers = pipeline(lambda view, event: view if event.id != 2 else 1 / 0)

    client.save_events([CartCreated("c1", "u1"), added("c1"), CartCreated("c2", "u2")])
    drain(client, [keep(Failing, on_error=retry(1))])
    (aside,) = parked(client, NAME)
    discard(client, NAME, aside.event_id, "a test")
    assert [view.complete_at is not None for view in kept_views(client)] == [True]
    assert client.query_projections(Failing).is_whole


def test_a_query_can_wait_for_a_rebuild(client: EventClient, make_client: Make) -> None:
    """With `partial="wait"`; a wrong word is refused."""
    start(client)
    client.db.execute_sql("TRUNCATE my_app.views")
    with in_thread(Runner(make_client(), [keep(CartProjection)])):
        assert len(client.query_projections(CartProjection, partial="wait")) == 2
    with pytest.raises(ConfigurationError, match='"refuse", "wait" or "allow"'):
        client.query_projections(CartProjection, partial="maybe")  # type: ignore[call-overload]


def test_a_version_that_nobody_keeps_yet_is_not_answered_as_if_it_were_empty(
    client: EventClient, make_client: Make
) -> None:
    """Its program may be deployed before its runner; then queries are refused, or wait, or say so."""
    start(client)
    new = make_client()
    for ask in (
        lambda: new.query_projections(CartTwo),
        lambda: new.count_projections(CartTwo),
        lambda: new.get_projection(CartTwo, "c1"),
        lambda: new.query_projections("SHOPPING_CART", version=2),
    ):
        with pytest.raises(
            IncompleteViewsError, match=f"SHOPPING_CART 2 in views yet, but {NAME} are"
        ) as caught:
            ask()
        assert caught.value.reason == "unkept"
    allowed = new.query_projections(CartTwo, partial="allow")
    assert (list(allowed), allowed.is_whole) == ([], False)
    CartTwo("c1", new).save_projection()
    assert [one.id for one in new.query_projections(CartTwo, partial="allow")] == ["c1"]
    waiting = threading.Timer(0.2, lambda: drain(make_client(), [keep(CartTwo)]))
    waiting.start()
    waited = new.query_projections(CartTwo, partial="wait")
    assert ([one.id for one in waited], waited.is_whole, waited.position) == (["c1", "c2"], True, 3)
    waiting.join()


def test_views_that_nobody_keeps_do_not_claim_to_be_whole(client: EventClient) -> None:
    """Nobody knows what is missing, and there is nothing to wait for; beside kept ones neither."""
    client.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u2")])
    CartProjection("c1", client).save_projection()
    assert client.query_projections(CartProjection).is_whole is None
    for named in (CartProjection, "SHOPPING_CART", "NOTHING"):
        with pytest.raises(ConfigurationError, match="nothing to wait for"):
            client.query_projections(named, partial="wait")  # type: ignore[arg-type]
    drain(client, [keep(CartProjection)])
    both = client.query_projections(["SHOPPING_CART", "NOTHING"])
    assert ([one.id for one in both], both.is_whole) == (["c1", "c2"], None)


def test_a_version_that_was_just_dropped_is_not_empty(client: EventClient, make_client: Make) -> None:
    """A program of the old version that comes back later is refused, not told that there is nothing."""
    start(client)
    old = make_client()
    assert len(old.query_projections(CartProjection)) == 2
    rebuild(client, CartTwo)
    client.db.execute_sql("UPDATE my_app.events_kept SET read_at = read_at - interval '1 h'")
    drop_old_versions(client, CartTwo)
    with pytest.raises(IncompleteViewsError, match="SHOPPING_CART 1 in views yet"):
        old.query_projections(CartProjection)


def test_views_of_other_fields_are_not_kept_on_as_if_they_were_complete(
    client: EventClient, make_client: Make
) -> None:
    """A field was added, and the version not raised: rebuilds and runners refuse, and nothing is folded."""

    @frozen
    class Sum:
        id: str
        total: int = 0

    @frozen
    class SumAndCount:
        id: str
        total: int = 0
        count: int = 0

    def sums(view: Any, **reducers: Any) -> Any:
        class Sums(ProjectionBase[view, ItemAddedToCart]):
            projection_type = "SUMS"

            def initial_view(self) -> Any:
                return view(self.id)

            def get_event_identifiers(self) -> dict[str, Any]:
                return {"cart_id": self.id}

        Sums.reducers = pipeline(total=lambda total, event: total + event.data.price_at_time, **reducers)
        return Sums

    client.save_events([added("c1"), added("c2")])
    rebuild(client, sums(Sum))
    client.save_event(added("c1"))
    later, changed = make_client(), sums(SumAndCount, count=lambda count, _: count + 1)
    for keeping in (
        lambda: rebuild(later, changed),
        lambda: Runner(later, [keep(changed)]).run(),
        lambda: drain(later, [keep(changed)]),
    ):
        with pytest.raises(ConfigurationError, match="raise the version"):
            keeping()
    assert client.get_projection(sums(Sum), "c1").latest_event_id == 1  # type: ignore[union-attr]
    later.refresh_projections(changed)
    rebuild(later, changed)
    found = later.query_projections(changed)
    assert [(one.id, one.data.count) for one in found] == [("c1", 2), ("c2", 1)]


# -- places ----------------------------------------------------------------------------------


def test_a_place_is_not_moved_forward_by_hand(client: EventClient) -> None:
    """It would leave out events; back to the start is fine, and changes no view."""
    start(client)
    client.save_event(added("c1", "p2"))
    with pytest.raises(ConfigurationError, match="not moved forward by hand"):
        reset(client, NAME, 4)
    reset(client, NAME, 0)
    drain(client, [keep(CartProjection)])
    check(client)


def test_keepers_that_are_late_and_many_share_the_lanes(client: EventClient, make_client: Make) -> None:
    """Two runners, one of which comes later, while events are saved by two more."""
    clients = [make_client() for _ in range(4)]

    def save(number: int) -> None:
        for n in range(60):
            clients[number].save_event(added(f"c{n % 7}", f"p{number}"))

    savers = [threading.Thread(target=save, args=(number,)) for number in (2, 3)]
    with in_thread(Runner(clients[0], [keep(CartProjection)]), 2):
        for saver in savers:
            saver.start()
        with in_thread(Runner(clients[1], [keep(CartProjection)]), 2):
            for saver in savers:
                saver.join()
            client.wait(CartProjection, 120, timeout=20)
    check(client, ids=[f"c{n}" for n in range(7)])
    assert client.query_projections(CartProjection).is_whole


# -- the command line ------------------------------------------------------------------------

PROGRAM = str(Path(sys.executable).with_name("pgevents"))
APP = """
import os
from peewee import PostgresqlDatabase
from psycopg2.extensions import parse_dsn
from tests.conftest import shop_client
from tests.shop import CartProjection as CartOne


class CartTwo(CartOne):
    version = 2


def make_client():
    params = parse_dsn(os.environ["KEPT_DSN"])
    return shop_client(PostgresqlDatabase(params.pop("dbname"), **params))
"""


def test_the_command_rebuild_and_what_stats_shows(
    client: EventClient, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress goes to standard error; old versions are dropped when that is asked for."""
    start(client)
    (tmp_path / "kept_app.py").write_text(APP)
    monkeypatch.setenv("KEPT_DSN", url)
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}

    def call(*arguments: str) -> tuple[str, str]:
        command = [PROGRAM, *arguments, "--app", "kept_app:make_client"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout, done.stderr

    out, progress = call("rebuild", "SHOPPING_CART", "--drop-old")
    assert out == "SHOPPING_CART version 2 is complete up to event 3.\n"
    assert "of 3 (" in progress
    assert [one.version for one in kept_views(client)] == [2]
    (kept,) = json.loads(call("stats", "--json")[0])["kept"]
    assert (kept["version"], kept["position"], kept["waiting"]) == (2, 3, 0)
    assert "SHOPPING_CART version 2 is kept: complete, at event 3" in call("stats")[0]


def test_the_doctor_names_views_that_are_not_whole(client: EventClient, make_client: Make) -> None:
    """Incomplete ones, those that wait to be folded anew, and old versions beside complete new ones."""

    def found() -> list[tuple[str, str]]:
        return [
            (one.level, one.what) for one in diagnose(client) if "views of" in one.what or "kept " in one.what
        ]

    assert found() == []
    start(client)
    assert found() == [("ok", "kept views are complete (1)")]
    new = make_client()
    for work in Runner(new, [keep(CartTwo)]).works:
        settle(work)
        work.setup()
    (note,) = found()
    assert note == ("note", "the views of SHOPPING_CART version 2 are not complete: at event 0 of 3")
    rebuild(new, CartTwo)
    assert found()[0] == ("note", "SHOPPING_CART version 1 is kept beside a newer version that is complete")
    client.delete_projection(CartTwo, "c1")
    waiting = [what for level, what in found() if level == "note" and "folded anew" in what]
    assert all(what.startswith("1 views of SHOPPING_CART version") for what in waiting)
    assert len(waiting) == 2


KILLED = """
import sys

from kept_app import make_client
from pgevents.subscriptions import far_folding, rebuild
from tests.test_kept_views import CartTwo

far_folding.FAR = 2_000  # both ways of reading are killed
rebuild(make_client(), CartTwo, workers=2)
"""


@pytest.mark.long
def test_a_rebuild_killed_ten_times_ends_with_exact_views(
    client: EventClient, url: str, tmp_path: Path
) -> None:
    """It goes on where it was, with old views served; events that come meanwhile are folded, too."""
    start(client)
    carts = [f"c{n}" for n in range(1, 301)]
    for _ in range(10):
        client.save_events([added(carts[n % 300], f"p{n}") for n in range(1_500)])
    (tmp_path / "kept_app.py").write_text(APP)
    (tmp_path / "killed.py").write_text(KILLED)
    environment = {
        **os.environ,
        "KEPT_DSN": url,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}",
    }
    killed = 0
    while killed < 10:
        program = subprocess.Popen([sys.executable, str(tmp_path / "killed.py")], env=environment)
        before = time.monotonic()
        while not client.db.execute_sql(BUSY).fetchone()[0] and program.poll() is None:
            assert time.monotonic() - before < 60
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.4))
        program.kill()
        program.wait()
        killed += 1
        client.save_events([added("c1", f"q{killed}"), added(f"new{killed}")])
    rebuild(client, CartTwo)
    drain(client, [keep(CartTwo)])
    check(client, CartTwo, [*carts, *(f"new{n}" for n in range(1, 11))])


BUSY = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction')
"""


def test_lanes_are_given_to_workers_that_come_later(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins a rebuild takes all lanes, and does not keep them for the whole of a long transaction."""
    monkeypatch.setattr(view_folding, "PAGE", 2)
    client.save_events([CartCreated(f"c{n}", "u1") for n in range(10)])
    work = Runner(client, [keep(CartProjection)]).works[0]
    settle(work)
    names = [work.name]
    identity = {"id": "other", "host": "h", "pid": 1, "workers": 2, "notes": "{}", "batch_seconds": "{}"}
    work.statements.run("here", names=names, **identity)
    pace, keeper = Pace(), work.keeper
    assert keeper is not None
    first = keeper.step(work, range(work.lanes), work.lanes, pace=pace)
    assert (first.claimed, first.handled, first.is_more) == (work.lanes, 2, True)
    assert pace.share_of(work.lanes) == work.lanes // 2
    drain(client, [keep(CartProjection)])
    check(client)
