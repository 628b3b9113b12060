"""Views that are folded by ranges of ids: exact at one bound, whatever happens before the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    MultiStreamProjectionBase,
    RetryableError,
    hookimpl,
    pipeline,
    stream,
)
from pgevents.clusters import Dask, sources
from pgevents.clusters.dealing import clear, to_deal
from pgevents.clusters.ranges import Plan, begin, finish
from pgevents.clusters.recipe import recipe_of
from pgevents.clusters.sources import Standby, wait_for_replay
from pgevents.clusters.worker import Outcome, RangeFold, Task, deal_file, fold_range
from pgevents.errors import PgEventsError
from pgevents.exchange import export_parquet
from pgevents.exchange.parquet import exported
from pgevents.hooks.details import Snapshot
from pgevents.subscriptions import Inline, Work, keep, kept_views, park, parked, pause, rebuild
from pgevents.subscriptions.engines import fold_by
from pgevents.testing import drain

from .conftest import shop_client
from .consistency.servers import server
from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart

URL = "SHOP_DATABASE_URL"
RANGES = 4
IDS = [f"c{n}" for n in range(12)]


class BoughtProjection(MultiStreamProjectionBase[dict[str, Any], CartEvent]):
    """By products: whose view an event changes is said by the class."""

    projection_type = "BOUGHT"
    reducers = pipeline(count=lambda count, event: (count or 0) + event.data.quantity)

    def initial_view(self) -> dict[str, Any]:
        return {"count": 0}

    def get_stream_options(self) -> Any:
        return [stream(ItemAddedToCart, product_id=self.id)]

    @staticmethod
    def ids_of(event: Event[Any]) -> set[str]:
        return {event.data.product_id}


class FailingProjection(CartProjection):
    """Cannot fold a user."""

    projection_type = "FAILING"

    @staticmethod
    def to_user(user_id: str, event: Event[CartEvent]) -> str:
        if isinstance(event.data, CartCreated) and event.data.user_id == "bad":
            raise ValueError("no such user")
        return user_id

    reducers = pipeline(user_id=to_user)


class FailingNextProjection(FailingProjection):
    version = 2


def shopping(*ids: str) -> list[Any]:
    return [one for id in ids for one in (CartCreated(id, "u"), ItemAddedToCart(id, f"p{id}", 1, 100))]


class Local:
    """An engine that folds in this process; what happens between the ranges is the test's own."""

    def __init__(self, between: Callable[[int], object] = lambda number: None) -> None:
        self.between = between
        self.outcomes: list[Outcome] = []

    def fold(self, client: EventClient, work: Work, progress: Callable[[int, int], object]) -> None:
        while True:
            plan = begin(work, RANGES)
            self.run(client, work, plan)
            if finish(work, plan):
                return

    def run(self, client: EventClient, work: Work, plan: Plan, ranges: Any = None) -> None:
        recipe = recipe_of(client, work.keeper.rule.projection, URL, None)
        for number in plan.todo if ranges is None else ranges:
            self.between(number)
            self.outcomes.append(fold_range(Task(recipe, plan, number)))
            assert self.outcomes[-1].kind in ("done", "changed"), self.outcomes[-1]


def work_of(client: EventClient, cls: Any = CartProjection) -> Work:
    """The kept view, registered."""
    made = keep(cls).work(client)

    class Nothing:
        def fold(self, *args: Any) -> None: ...

    fold_by(Nothing(), made, lambda at, target: None)
    return made


def differing(client: EventClient, cls: Any = CartProjection, ids: Any = IDS) -> list[str]:
    """The ids whose rows are not the fold from the start."""
    found: list[str] = []
    for id in ids:
        whole = cls(id, client, load_existing_projection=False)
        saved = client.get_projection(cls, id)
        if saved is None or (saved.data, saved.latest_event_id) != (whole.view, whole.position.last_id):
            found.append(id)
    return found


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, pgevents_url: str) -> None:
    monkeypatch.setenv(URL, pgevents_url)


@pytest.mark.parametrize("has_room", [True, False])
def test_ranges_give_the_same_views_as_one_fold(
    client: EventClient, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    """With all views of a range in memory, and with room for two, so that they are written and read again."""
    monkeypatch.setattr("pgevents.subscriptions.view_folding.PAGE", 5)
    monkeypatch.setattr("pgevents.clusters.sources.PAGE", 5)
    client.save_events(shopping(*IDS))
    client.save_events(shopping(*IDS))
    if not has_room:
        monkeypatch.setattr("pgevents.subscriptions.view_folding.MOST_VIEWS", (2, 2))
    for cls, ids in ((CartProjection, IDS), (BoughtProjection, [f"p{id}" for id in IDS])):
        local = Local()
        report = rebuild(client, cls, engine=local)
        assert (report.complete_at is not None, report.position) == (True, 4 * len(IDS))
        assert not differing(client, cls, ids)
        assert len(local.outcomes) == RANGES
    client.save_events(shopping("c1", "new"))
    drain(client, [keep(CartProjection), keep(BoughtProjection)])
    assert not differing(client, ids=[*IDS, "new"])


@pytest.mark.parametrize("has_plugin", [False, True])
def test_each_view_is_written_once(
    client: EventClient,
    make_client: Callable[..., EventClient],
    monkeypatch: pytest.MonkeyPatch,
    has_plugin: bool,
) -> None:
    """When its last event has come, though its events stand on several pages; plugins see all of them."""
    monkeypatch.setattr("pgevents.subscriptions.view_folding.PAGE", 3)
    for _ in range(4):
        client.save_events(shopping(*IDS))
    seen: dict[Any, int] = {}

    class Seeing:
        @hookimpl
        def pgevents_after_snapshot(self, snapshot: Snapshot) -> None:
            seen[snapshot.id] = seen.get(snapshot.id, 0) + len(snapshot.events)

    worker = make_client(plugins=[Seeing()]) if has_plugin else client
    plan = begin(work_of(client), RANGES)
    for number in plan.todo:
        RangeFold(work_of(worker), plan, number).read_views(work_of(make_client()))
    assert finish(work_of(client), plan)
    assert not differing(client)
    assert seen == (dict.fromkeys(IDS, 8) if has_plugin else {})
    changed = "SELECT count(*) FROM my_app.views WHERE updated_at - created_at > interval '50 us'"
    assert client.db.execute_sql(changed).fetchone() == (0,)


def between_pages(monkeypatch: pytest.MonkeyPatch, call: Callable[[RangeFold], object]) -> None:
    """Pages of four events; after each of them something happens."""
    monkeypatch.setattr("pgevents.subscriptions.view_folding.PAGE", 4)
    plain = RangeFold._take_runs

    def taking(self: RangeFold, *arguments: Any) -> None:
        plain(self, *arguments)
        call(self)

    monkeypatch.setattr(RangeFold, "_take_runs", taking)


def test_maintenance_waits_for_no_range(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the events of a range are read, one is erased; nothing of what was read before is written."""
    client.save_events(shopping(*IDS))
    work, local, erased = work_of(client), Local(), list[str]()

    def erase(fold: RangeFold) -> None:
        if not erased and fold.views:
            erased.extend(fold.views)
            with client.maintenance("asked for"):
                sql = "DELETE FROM my_app.events WHERE data->>'cart_id' = ANY (%s)"
                client.db.execute_sql(sql, [erased])

    between_pages(monkeypatch, erase)
    local.run(client, work, begin(work, RANGES))
    assert erased and {one.kind for one in local.outcomes} == {"changed"}
    written = client.db.execute_sql("SELECT count(*) FROM my_app.views WHERE id = ANY (%s)", [erased])
    assert written.fetchone() == (0,)
    plan = begin(work, RANGES)
    local.run(client, work, plan)
    assert finish(work, plan)
    assert not differing(client, ids=[id for id in IDS if id not in erased])


def test_what_was_rolled_back_is_written_again(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the last statement of a range's transaction fails."""
    client.save_events(shopping(*IDS))
    plain, failed = RangeFold._note_done, list[int]()

    def failing(self: RangeFold) -> None:
        if self.lane.number not in failed:
            failed.append(self.lane.number)
            raise RetryableError("not now")
        plain(self)

    monkeypatch.setattr(RangeFold, "_note_done", failing)
    monkeypatch.setattr("pgevents.clusters.worker.PAUSE", 0.01)
    rebuild(client, CartProjection, engine=Local())
    assert sorted(failed) == list(range(RANGES)) and not differing(client)


def test_a_long_page_does_not_end_the_reading(
    client: EventClient, monkeypatch: pytest.MonkeyPatch, pgevents_url: str
) -> None:
    """Though the server ends transactions that are idle."""
    mark = "&" if "?" in pgevents_url else "?"
    options = "options=-c%20idle_in_transaction_session_timeout%3D50ms"
    monkeypatch.setenv(URL, f"{pgevents_url}{mark}{options}")
    client.save_events(shopping(*IDS))
    between_pages(monkeypatch, lambda fold: time.sleep(0.1))
    work, local = work_of(client), Local()
    local.run(client, work, begin(work, RANGES), [0])
    assert local.outcomes[0].events > 4


def test_an_event_that_cannot_be_read_parks_its_view(client: EventClient) -> None:
    """The others are complete, that with an empty id too; mended, it is folded."""
    client.save_events([*shopping(*IDS), *shopping("", "odd"), *shopping("odd", "c1")])
    first = next(event.id for event in client.get_event_stream(ItemAddedToCart, cart_id="odd"))

    def set_quantity(value: str) -> None:
        with client.maintenance("an odd value"):
            sql = "UPDATE my_app.events SET data = jsonb_set(data, '{quantity}', %s) WHERE id = %s"
            client.db.execute_sql(sql, [value, first])

    set_quantity("[]")
    with pytest.raises(PgEventsError, match="parked list"):
        rebuild(client, CartProjection, engine=Local(), every=0.05, on_error=park())
    (event,) = parked(client, "view SHOPPING_CART 1 in views")
    assert (event.key, event.event_id) == ("odd", first)
    assert not differing(client, ids=[*IDS, ""])
    set_quantity("1")
    rebuild(client, CartProjection)
    assert not differing(client, ids=[*IDS, "", "odd"])


@pytest.mark.parametrize("is_kept", [True, False])
def test_who_goes_on_folds_up_to_the_same_bound(client: EventClient, is_kept: bool) -> None:
    """With the end of the log as a second bound, views of the ranges that were done before lack events."""
    client.save_events(shopping(*IDS))
    work, local = work_of(client), Local()
    first = begin(work, RANGES)
    local.run(client, work, first, [0, 1])
    client.save_events(shopping(*IDS))  # the fold is cut off, and somebody goes on later
    if not is_kept:
        client.db.execute_sql("UPDATE my_app.events_ranges SET bound = %s", [client.horizon().id])
    second = begin(work, 99)
    assert (second.todo, second.ranges, second.bound == first.bound) == ((2, 3), RANGES, is_kept)
    local.run(client, work, second)
    assert finish(work, second)
    drain(client, [keep(CartProjection)])
    assert bool(differing(client)) is not is_kept


@pytest.mark.parametrize("cls", [CartProjection, BoughtProjection])
def test_a_fold_begins_anew_after_maintenance(client: EventClient, cls: Any) -> None:
    """What was erased comes back in no view, whether its range was done before or was being folded."""
    client.save_events(shopping(*IDS))

    def erase(number: int) -> None:
        if number == 2 and len(local.outcomes) == 2:
            with client.maintenance("asked for"):
                client.db.execute_sql("DELETE FROM my_app.events WHERE data->>'cart_id' = 'c3'")
                client.db.execute_sql("DELETE FROM my_app.events WHERE id = 2")

    local = Local(erase)
    rebuild(client, cls, engine=local)
    assert [one.kind for one in local.outcomes] == ["done"] * 2 + ["changed"] * 2 + ["done"] * RANGES
    drain(client, [keep(cls)])
    ids = IDS if cls is CartProjection else [f"p{id}" for id in IDS]
    gone = {"c3", "pc3", "pc0"}
    assert not differing(client, cls, [id for id in ids if id not in gone])
    assert all(client.get_projection(cls, id) is None for id in gone if id != "c0")
    assert not any("c3" in str(saved.id) for saved in client.query_projections(cls))


@pytest.mark.parametrize("statement", ["DELETE FROM my_app.views", "TRUNCATE my_app.views"])
def test_rows_that_are_removed_meanwhile_are_folded_anew(client: EventClient, statement: str) -> None:
    """Though no lane has moved yet."""
    client.save_events(shopping(*IDS))

    def remove(number: int) -> None:
        if number == 3 and len(local.outcomes) == 3:
            client.db.execute_sql(statement)

    local = Local(remove)
    fold_by(local, keep(CartProjection).work(client), lambda at, target: None)
    drain(client, [keep(CartProjection)])
    assert not differing(client)


def test_keepers_and_a_second_fold_do_no_harm(
    make_client: Callable[..., EventClient], client: EventClient
) -> None:
    """A keeper of the same version at work between the ranges, and another fold that is finished first."""
    client.save_events(shopping(*IDS))
    other = make_client()

    def meanwhile(number: int) -> None:
        if number == 1:
            client.save_events(shopping("c1", "c2"))
            drain(other, [keep(CartProjection)])
        if number == 2:
            client.save_events(shopping(*IDS))
            plan = begin(other_work, RANGES)
            second.run(other, other_work, plan)
            assert finish(other_work, plan)

    work, second = work_of(client), Local()
    other_work = keep(CartProjection).work(other)
    local = Local(meanwhile)
    plan = begin(work, RANGES)
    local.run(client, work, plan)
    assert [one.kind for one in local.outcomes] == ["done", "done", "changed", "changed"]
    assert finish(work, plan)
    drain(client, [keep(CartProjection)])
    assert not differing(client)


def test_a_view_that_cannot_be_folded_is_parked(client: EventClient) -> None:
    """As in any rebuild; the others are complete, and after many of them nothing is."""
    client.save_events([*shopping(*IDS), CartCreated("odd", "bad"), *shopping("odd")])
    with pytest.raises(PgEventsError, match="parked list"):
        rebuild(client, FailingProjection, engine=Local(), every=0.05, on_error=park())
    (event,) = parked(client, "view FAILING 1 in views")
    assert (event.key, event.event_id) == ("odd", 2 * len(IDS) + 1)
    assert not differing(client, FailingProjection)
    client.save_events([CartCreated(f"bad{n}", "bad") for n in range(200)])
    with pytest.raises(AssertionError, match="more than 20 views.*no such user"):
        rebuild(client, FailingNextProjection, engine=Local())


def test_a_paused_view_stays_where_it_is(client: EventClient) -> None:
    """It is refused at the beginning, and at the end; resumed, the fold goes on."""
    client.save_events(shopping(*IDS))
    work = work_of(client)
    plan = begin(work, RANGES)
    Local().run(client, work, plan)
    pause(client, work.name)
    with pytest.raises(ConfigurationError, match="is paused"):
        finish(work, plan)
    with pytest.raises(ConfigurationError, match="is paused"):
        rebuild(client, CartProjection, engine=Local())
    assert kept_views(client)[0].position == 0


@pytest.mark.parametrize("cls", [CartProjection, BoughtProjection])
def test_views_are_folded_from_an_export(client: EventClient, tmp_path: Path, cls: Any) -> None:
    """Its files are dealt out to the ranges once; what came later is folded from the log."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    client.save_events(shopping(*IDS))
    export_parquet(client, tmp_path, rows=10)
    client.save_events(shopping(*IDS))
    export_parquet(client, tmp_path, rows=7)
    client.save_events(shopping(*IDS))
    work, recipe = work_of(client, cls), recipe_of(client, cls, URL, None)
    files, last, _ = exported(client, tmp_path)
    plan = begin(work, RANGES, last)
    assert (len(files), last, plan.bound) == (7, 4 * len(IDS), 4 * len(IDS))
    task = Task(recipe, plan, 0, parquet=str(tmp_path))
    for name in to_deal(str(tmp_path), plan, files):
        assert deal_file(task, name).kind == "done"
    assert to_deal(str(tmp_path), plan, files) == []
    done = [fold_range(attrs.evolve(task, number=number)) for number in plan.todo]
    assert {one.kind for one in done} == {"done"}
    assert sum(one.events for one in done) == (2 if cls is CartProjection else 1) * 2 * len(IDS)
    assert finish(work, plan)
    clear(str(tmp_path), plan)
    assert not list(tmp_path.glob("_dealt*"))
    drain(client, [keep(cls)])
    assert not differing(client, cls, IDS if cls is CartProjection else [f"p{id}" for id in IDS])


def test_an_export_that_is_not_the_log_is_refused(client: EventClient, tmp_path: Path) -> None:
    """None at all, one that lacks a file, or is older than a change of the log under maintenance."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    client.save_events(shopping(*IDS))
    with pytest.raises(ConfigurationError, match="holds no export"):
        exported(client, tmp_path)
    done = export_parquet(client, tmp_path, rows=10)
    moved = done.files[1].rename(tmp_path / "moved")
    with pytest.raises(ConfigurationError, match="lacks the file with event 11"):
        exported(client, tmp_path)
    moved.rename(done.files[1])
    client.db.execute_sql("ALTER TABLE my_app.events DISABLE TRIGGER USER")
    client.db.execute_sql("UPDATE my_app.events SET created_at = now() WHERE id = %s", [done.last_id])
    client.db.execute_sql("ALTER TABLE my_app.events ENABLE TRIGGER USER")
    with pytest.raises(ConfigurationError, match="was set back"):
        exported(client, tmp_path)
    with client.maintenance("asked for"):
        client.db.execute_sql("DELETE FROM my_app.events WHERE id = 1")
    with pytest.raises(ConfigurationError, match="changed under maintenance"):
        exported(client, tmp_path)


def test_a_worker_with_another_program_is_refused(
    client: EventClient, monkeypatch: pytest.MonkeyPatch, pgevents_url: str
) -> None:
    """Or with other credentials; and what cannot be told a worker is refused before anything is folded."""
    client.save_events(shopping(*IDS))
    work = work_of(client)
    task = Task(recipe_of(client, CartProjection, URL, None), begin(work, RANGES), 0)
    assert pgevents_url not in repr(task)

    def refusal(**changes: Any) -> str:
        outcome = fold_range(attrs.evolve(task, recipe=attrs.evolve(task.recipe, **changes)))
        assert outcome.kind == "refused"
        return outcome.error

    assert "version 1 of" in refusal(version=2)
    assert "has pgevents" in refusal(release="0.0.1")
    assert "cannot be imported" in refusal(projection="tests.shop:Nobody")
    assert "no environment variable NOBODYS_URL" in refusal(credentials="NOBODYS_URL")
    assert "another log" in refusal(log="1.2.3")
    kinds = [(name, version + 1, place) for name, version, place in task.recipe.event_types]
    assert "is version 1 of" in refusal(event_types=tuple(kinds))
    monkeypatch.setenv(URL, "postgresql://u:geheim@x:port/y")
    assert "geheim" not in refusal()

    class Inside(CartProjection):
        projection_type = "INSIDE"

    with pytest.raises(ConfigurationError, match="workers cannot import"):
        recipe_of(client, Inside, URL, None)
    client.plugins.register(Inline(CartProjection))
    with pytest.raises(ConfigurationError, match="the client has plugins"):
        recipe_of(client, CartProjection, URL, None)
    made = attrs.evolve(task, recipe=recipe_of(client, CartProjection, URL, "tests.conftest:shop_client"))
    monkeypatch.setenv(URL, pgevents_url)
    assert fold_range(made).kind == "done"
    for wrong in ("scheduler", "http://x:1", "dask://scheduler"):
        with pytest.raises(ConfigurationError, match="dask://host:port"):
            Dask(wrong)
    with pytest.raises(ConfigurationError, match="no URLs"):
        Dask("dask://x:1", credentials="postgresql://me:secret@x/y")
    with pytest.raises(ConfigurationError, match="an engine is an object"):
        rebuild(client, CartProjection, engine="dask://x:1")  # type: ignore[arg-type]
    with client.db.atomic(), pytest.raises(PgEventsError, match="outside of db.atomic"):
        rebuild(client, CartProjection, engine=Local())


@pytest.mark.long
def test_a_standby_is_read_when_it_has_replayed_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before, and not another server; it is read, though: without it nothing is folded."""
    settings = {"wal_level": "replica", "fsync": "off"}
    with server(**settings) as primary, server(copy_of=primary, **settings) as standby, server() as stranger:
        urls = [f"postgresql://postgres@/postgres?host={one.folder}" for one in (primary, standby, stranger)]
        monkeypatch.setenv(URL, urls[0])
        monkeypatch.setenv("STANDBY_URL", urls[1])
        client = shop_client(urls[0])
        client.create_tables()
        behind = shop_client(urls[1])
        client.save_events(shopping(*IDS))
        work = work_of(client)
        wait_for_replay(client, behind, client.bookmark())
        behind.db.execute_sql("SELECT pg_wal_replay_pause()")
        client.save_events(shopping(*IDS))
        plan = begin(work, RANGES)
        recipe = recipe_of(client, CartProjection, URL, None)
        task = Task(recipe, plan, 0, Standby("STANDBY_URL", client.bookmark()))
        monkeypatch.setattr(sources, "REPLAY_WAIT", 0.3)
        assert "has not replayed" in fold_range(task).error
        behind.db.execute_sql("SELECT pg_wal_replay_resume()")
        monkeypatch.setattr(sources, "REPLAY_WAIT", 60.0)
        for number in plan.todo:
            assert fold_range(attrs.evolve(task, number=number)).kind == "done"
        assert finish(work, plan) and not differing(client)
        monkeypatch.setenv("STANDBY_URL", urls[2])
        shop_client(urls[2]).create_tables()
        assert "not a physical copy" in fold_range(task).error
        for one in (client, behind):
            one.db.close()


def test_ranges_are_folded_side_by_side(client: EventClient) -> None:
    """Threads that write rows and note their ranges at once; each event is folded once."""
    client.save_events(shopping(*IDS))
    work = work_of(client)
    plan, local = begin(work, RANGES), Local()
    threads = [
        threading.Thread(target=local.run, args=(client, work, plan, [n])) for n in [*range(RANGES), 0, 1]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.kind for one in local.outcomes] == ["done"] * 6
    assert sum(one.events for one in local.outcomes) > 2 * len(IDS)
    assert finish(work, plan) and not differing(client)
