"""Kept views that are far behind: their events are read view by view, and each view is written once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pgevents import Event, EventClient, hookimpl, pipeline
from pgevents.errors import EventEncodeError, RetryableError
from pgevents.subscriptions import (
    Runner,
    far_folding,
    keep,
    parked,
    rebuild,
    replay,
    retry,
    view_folding,
    view_reading,
)
from pgevents.subscriptions.change import settle
from pgevents.subscriptions.pace import Pace
from pgevents.testing import drain

from .conftest import database, shop_client
from .shop import CartCreated, CartProjection, ItemAddedToCart

CARTS = [f"c{n}" for n in range(7)]


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few events are far, and a page ends in the middle of a view's events."""
    monkeypatch.setattr(view_folding, "PAGE", 4)
    monkeypatch.setattr(far_folding, "FAR", 4)


def save(client: EventClient, rounds: int = 5) -> None:
    """Events of each cart, as far apart as they can be."""
    for n in range(rounds):
        client.save_events([ItemAddedToCart(cart, f"p{n}", 1, 100) for cart in CARTS])


def check(client: EventClient, cls: Any = CartProjection, but: str = "") -> None:
    """Each row equals the fold from the start."""
    for cart in CARTS:
        if cart != but:
            whole = cls(cart, client, load_existing_projection=False)
            saved = client.get_projection(cls, cart)
            assert saved is not None
            assert (saved.data, saved.latest_event_id) == (whole.view, whole.position.last_id)


def states(client: EventClient) -> dict[str, tuple[int, bool]]:
    """Of each row the last event, and whether it was written once."""
    rows = client.db.execute_sql(
        "SELECT id, latest_event_id, updated_at - created_at < interval '50 us' FROM my_app.views"
    )
    return {id: (latest, is_first) for id, latest, is_first in rows.fetchall()}


def keeper_of(client: EventClient, cls: Any = CartProjection) -> Any:
    work = Runner(client, [keep(cls)]).works[0]
    settle(work)
    work.setup()
    return work


class Halting(CartProjection):
    """Whose first fold takes as long as the test wants."""

    projection_type = "HALTING"
    has_begun, goes_on = threading.Event(), threading.Event()
    reducers = pipeline(total=lambda total, event: Halting.halt(total + 1))

    @staticmethod
    def halt(total: int) -> int:
        if not Halting.has_begun.is_set():
            Halting.has_begun.set()
            assert Halting.goes_on.wait(30)
        return total


def test_who_comes_later_gets_lanes_at_once(client: EventClient, make_client: Any) -> None:
    """Though the first one is in the middle of a long stretch: it begins with a quarter of the lanes, and
    nobody waits for its batch."""
    save(client)
    Halting.has_begun.clear()
    Halting.goes_on.clear()
    runners = [Runner(make_client(), [keep(Halting)]) for _ in range(2)]
    threads = [threading.Thread(target=runner.run, daemon=True) for runner in runners]
    threads[0].start()
    try:
        assert Halting.has_begun.wait(10)
        threads[1].start()
        end = time.monotonic() + 5
        while not states(client) and time.monotonic() < end:
            time.sleep(0.02)
        assert states(client)
        Halting.goes_on.set()
        client.wait(Halting, 35, timeout=20)
    finally:
        Halting.goes_on.set()
        for runner in runners:
            runner.stop()
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join()
    check(client, Halting)


def test_nothing_is_sorted_for_lanes_that_others_are_to_have(client: EventClient) -> None:
    """Other workers have come since the lanes were taken: the next stretch is for fewer, and as long."""
    save(client)
    work, pace = keeper_of(client), Pace()
    work.statements.run(
        "here", id="others", host="", pid=0, workers=4, names=[work.name], notes="{}", batch_seconds="{}"
    )
    outcome = work.keeper.step(work, range(work.lanes), work.lanes, pace=pace)
    assert (outcome.is_more, outcome.handled, states(client)) == (True, 0, {})
    assert (pace.share_of(work.lanes), pace.stretch) == (2, Pace().stretch)
    outcome = work.keeper.step(work, range(work.lanes), pace.share_of(work.lanes), pace=pace)
    assert outcome.claimed == 2 and outcome.reached


def test_each_view_is_written_once(client: EventClient) -> None:
    """Also one whose events do not fit into a page; later ones are folded on top."""
    save(client)
    work = keeper_of(client)
    outcome = work.keeper.step(work, range(work.lanes), work.lanes)
    assert (outcome.handled, outcome.is_more) == (35, False)
    check(client)
    assert all(is_first for _, is_first in states(client).values())
    save(client)
    client.delete_projection(CartProjection, "c3")
    drain(client, [keep(CartProjection)])
    check(client)


def test_who_has_to_end_early_leaves_the_places(client: EventClient) -> None:
    """The views that are done are written, and passed over the next time; none is missing in the end."""
    save(client)
    work, stop = keeper_of(client), threading.Event()
    stop.set()
    outcome = work.keeper.step(work, range(work.lanes), work.lanes, stop)
    assert (outcome.is_more, outcome.reached) == (True, {})
    before = states(client)
    assert 0 < len(before) < len(CARTS)
    assert client.db.execute_sql("SELECT max(position) FROM my_app.events_checkpoints").fetchone() == (0,)
    drain(client, [keep(CartProjection)])
    check(client)
    after = states(client)
    assert all(after[id] == before[id] for id, (latest, _) in before.items() if latest >= 29)


def test_who_always_has_to_end_early_gets_on_all_the_same(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when others wait again and again: in between, a page in the order of the log moves the places."""
    monkeypatch.setattr(far_folding, "FAR", 8)  # two pages
    save(client)
    work, stop = keeper_of(client), threading.Event()
    stop.set()
    pace = Pace()
    for _ in range(60):
        outcome = work.keeper.step(work, range(work.lanes), work.lanes, stop, pace=pace)
        if outcome.reached and not outcome.is_more:
            break
    assert not outcome.is_more
    check(client)


class Breakable(CartProjection):
    """Refuses one event, as long as it is broken."""

    projection_type = "BREAKABLE"
    is_broken = True
    reducers = pipeline(
        user_id=lambda ids, event: Breakable.to_ids(ids, event), total=lambda total, event: total + 1
    )

    @staticmethod
    def to_ids(ids: str, event: Event[Any]) -> str:
        if Breakable.is_broken and (event.data.cart_id, event.data.product_id) == ("c3", "p2"):
            raise ValueError("not this one")
        return f"{ids}{event.id} "


def test_a_view_that_cannot_be_folded_holds_up_no_other(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands before the event that fails; this one and those after it wait, in order."""
    save(client)
    kept = keep(Breakable, on_error=retry(1).then_park())
    drain(client, [kept])
    monkeypatch.setattr(Breakable, "is_broken", False)
    save(client)
    drain(client, [kept])
    check(client, Breakable, but="c3")
    saved = client.get_projection(Breakable, "c3")
    assert saved is not None and saved.data.total == 2
    ids = [one.event_id for one in parked(client, kept.work(client).name)]
    mine = [event.id for event in client.get_event_stream(cart_id="c3")]
    assert ids and set(ids) <= set(mine[2:])
    replay(client, kept.work(client).name)
    drain(client, [kept])
    check(client, Breakable)


def test_an_event_that_cannot_be_read_is_set_aside(client: EventClient) -> None:
    """Others of its page are folded. An empty id is an id."""
    save(client)
    with client.maintenance("an odd value"):
        client.db.execute_sql("UPDATE my_app.events SET data = data || '{\"quantity\": []}' WHERE id = 11")
    client.save_event(CartCreated("", "u1"))
    drain(client, [keep(CartProjection, on_error=retry(1).then_park())])
    check(client, but="c3")
    assert [one.event_id for one in parked(client, "view SHOPPING_CART 1 in views")][:1] == [11]
    assert client.get_projection(CartProjection, "") is not None


def test_events_are_decoded_a_page_at_a_time(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins get many at once; the rebuild reports its places in order."""
    save(client)
    sizes: list[int] = []
    plain = view_reading.decode

    def counted(work: Any, found: Any) -> None:
        sizes.append(sum(len(run.texts) for run in found))
        plain(work, found)

    monkeypatch.setattr(far_folding, "decode", counted)
    places: list[int] = []
    report = rebuild(client, CartProjection, progress=lambda now: places.append(now.position), every=0.01)
    assert report.position == sum(sizes) == 35
    assert max(sizes) == 4 and sizes.count(4) >= 7  # the first step has fewer lanes
    assert places == sorted(places)
    check(client)


class Foreign(CartProjection):
    """Makes of one event what Latin-1 does not have."""

    projection_type = "FOREIGN"
    reducers = pipeline(
        user_id=lambda ids, event: "€" if event.data.cart_id == "c3" else ids,
        total=lambda total, event: total + 1,
    )


def test_what_the_driver_refuses_leaves_the_places(client: EventClient, url: str) -> None:
    """A view that could not even be sent is not lost: nothing is passed, and the error says why."""
    save(client)
    narrow = shop_client(database(url, client_encoding="LATIN1"))
    work = keeper_of(narrow, Foreign)
    with pytest.raises(EventEncodeError, match="LATIN1"):
        work.keeper.step(work, range(work.lanes), work.lanes)
    narrow.db.close()
    assert client.db.execute_sql("SELECT max(position) FROM my_app.events_checkpoints").fetchone() == (0,)
    drain(client, [keep(Foreign)])
    check(client, Foreign)


def test_an_error_of_the_database_makes_the_next_stretch_shorter(client: EventClient, url: str) -> None:
    """A stretch that takes longer than the server allows is not begun again and again."""
    save(client)
    work, pace = keeper_of(client), Pace()
    CartProjection("c2", client).save_projection()
    save(client)
    other = shop_client(database(url))
    with other.db.atomic():
        other.db.execute_sql("SELECT FROM my_app.views FOR UPDATE")
        with pytest.raises(RetryableError):
            work.keeper.step(work, range(work.lanes), work.lanes, pace=pace)
    other.db.close()
    assert pace.stretch == 35  # half of the 70 events
    assert client.db.execute_sql("SELECT max(careful) FROM my_app.events_checkpoints").fetchone() == (0,)
    outcome = work.keeper.step(work, range(work.lanes), work.lanes, pace=pace)
    assert (outcome.handled, pace.interruptions) == (35, 0)  # not suspected of having died
    drain(client, [keep(CartProjection)])
    check(client)


def test_views_that_are_up_to_date_do_not_stay_in_memory(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that an interrupted stretch wrote are passed over without being kept."""
    save(client)
    for cart in CARTS:
        CartProjection(cart, client).save_projection()
    work, sizes = keeper_of(client), list[int]()
    plain = view_folding.Fold._has_too_many

    def measured(fold: Any, pace: Pace) -> bool:
        sizes.append(len(fold.views))
        return plain(fold, pace)

    monkeypatch.setattr(view_folding.Fold, "_has_too_many", measured)
    work.keeper.step(work, range(work.lanes), work.lanes)
    check(client)
    assert max(sizes) <= 1


def test_plugins_that_decode_have_the_connection_for_themselves(
    client: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """One may roll back to a savepoint, and with it what another thread writes meanwhile."""
    save(client)
    threads: set[int] = set()

    class Looks:
        @hookimpl
        def pgevents_before_decode(self, client: EventClient, events: Any) -> None:
            threads.add(threading.active_count())

    looking, before = make_client(plugins=[Looks()]), threading.active_count()
    work = keeper_of(looking)
    work.keeper.step(work, range(work.lanes), work.lanes)
    assert threads == {before}
    check(client)
