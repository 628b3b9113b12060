"""Kept views equal their folds from the start, whatever happens; and the laboratory sees the faults."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from pgevents import EventClient
from pgevents.subscriptions import Work, keeping, view_folding, view_rows
from pgevents.testing import drain

from .views_lab import (
    AccountProjection,
    Moved,
    Race,
    SentProjection,
    client_of,
    judge,
    keep,
    keeps,
    run,
)

FEW = Race(accounts=4)


@pytest.mark.long
def test_views_are_exact_after_a_race(url: str) -> None:
    """Keepers are killed, rows deleted and saved by hand, events erased and removed, lanes resized."""
    assert run(url, Race()) == []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(max(1, int(os.environ.get("PGEVENTS_SOAK", "20000")) // 20_000)))
def test_views_are_exact_after_a_long_race(url: str, seed: int) -> None:
    """A minute for each seed."""
    assert run(url, attrs.evolve(Race(), seconds=60, disturbances=6, patience=240, seed=seed + 2)) == []


@pytest.fixture
def client(url: str) -> Any:
    made = client_of(url)
    made.create_tables()
    yield made
    made.db.close()


def moved(client: EventClient, count: int = 12) -> None:
    client.save_events([Moved(f"a{n % 4}", f"a{n * 3 % 4}", n + 1) for n in range(count)])


def with_a_deleted_row(client: EventClient) -> None:
    moved(client)
    drain(client, keeps())
    client.db.execute_sql("ALTER TABLE my_app.views DISABLE TRIGGER pgevents_refold")  # nobody notices
    client.db.execute_sql("DELETE FROM my_app.views WHERE id = 'a1'")
    moved(client)
    drain(client, keeps())


def with_transfers(client: EventClient) -> None:
    client.save_events([Moved("a1", "a2", 5), Moved("a2", "a3", 7), Moved("a0", "a2", 9)])
    kept = [keep(AccountProjection, lanes=16)]
    for _ in range(2):  # the lanes in this order and then in the other
        drain(client, kept)
        client.save_events([Moved("a3", "a2", 5), Moved("a2", "a1", 7), Moved("a2", "a0", 9)])
    drain(client, [*kept, *keeps()[:2]])


def with_a_crash(client: EventClient) -> None:
    moved(client)
    drain(client, keeps())
    moved(client)


def only_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_folding, "earlier_events", lambda rule, wanted: {})


def by_the_events_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event goes to one lane, that of the first id that it names."""
    plain = view_folding.read

    def broken(rule: Any, work: Any, claimed: Any, limit: int) -> Any:
        if rule.field is not None:
            return plain(rule, work, claimed, limit)
        every = [attrs.evolve(claimed[0], number=n) for n in range(claimed[0].lanes)]
        batch = plain(rule, work, every, limit)
        first: dict[int, int] = {}
        for item in batch.items:
            if item.key == item.event.data.cart_id:
                first[item.id] = item.lane
        mine = {lane.number for lane in claimed}
        items = [attrs.evolve(one, lane=first[one.id]) for one in batch.items if first[one.id] in mine]
        return attrs.evolve(batch, items=items)

    monkeypatch.setattr(view_folding, "read", broken)


def places_before_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places are committed, and then the keeper dies before it has written the rows."""
    monkeypatch.setattr(view_folding, "write", lambda *arguments: None)


SCENES: dict[str, tuple[Callable[[EventClient], None], Callable[[pytest.MonkeyPatch], None]]] = {
    "a keeper that folds only the batch": (with_a_deleted_row, only_the_batch),
    "lanes by the event's key": (with_transfers, by_the_events_key),
    "places before rows": (with_a_crash, places_before_rows),
}


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize(
    "is_broken", [pytest.param(False, id="as it is", marks=pytest.mark.long), pytest.param(True, id="broken")]
)
def test_the_oracle_sees_the_fault(
    client: EventClient, monkeypatch: pytest.MonkeyPatch, name: str, is_broken: bool
) -> None:
    """The same scene is right as it is, and wrong with the fault in it."""
    scene, fault = SCENES[name]
    if is_broken and fault is not places_before_rows:
        fault(monkeypatch)
    scene(client)
    if is_broken and fault is places_before_rows:
        fault(monkeypatch)
    drain(client, keeps())
    monkeypatch.undo()
    drain(client, keeps())
    assert bool(judge(client, FEW)) == is_broken


@pytest.mark.parametrize("is_broken", [False, True], ids=["as it is", "without the epoch"])
def test_what_is_erased_while_a_keeper_folds_does_not_come_back(
    client: EventClient, url: str, monkeypatch: pytest.MonkeyPatch, is_broken: bool
) -> None:
    """The keeper keeps maintenance out; without that, it writes what was erased after its row was deleted."""
    moved(client)
    drain(client, keeps())
    moved(client)
    other = client_of(url)
    write, erased = view_rows.write, []

    def erase() -> None:
        with other.maintenance("erasure"):
            other.db.execute_sql("SET LOCAL lock_timeout = '50ms'")
            other.session.execute("UPDATE my_app.events SET data = data || '{\"cents\": 0}'")
        erased.append(True)

    def interrupted(*arguments: Any) -> None:
        if not erased and any(held.is_dirty for held in arguments[1]):
            with pytest.MonkeyPatch.context() if is_broken else pytest.raises(Exception, match="lock"):
                erase()
        write(*arguments)

    monkeypatch.setattr(view_folding, "write", interrupted)
    if is_broken:
        plain = keeping.Keeper.step

        def unheld(self: Any, work: Any, *arguments: Any) -> Any:
            class Unheld:
                def __getattr__(self, name: str) -> Any:
                    return getattr(statements, name)

                def value(self, name: str, **params: Any) -> Any:
                    return "" if name == "hold_redactions" else statements.value(name, **params)

            statements = work.statements
            monkeypatch.setattr(type(work), "statements", property(lambda self: Unheld()))
            try:
                return plain(self, work, *arguments)
            finally:
                monkeypatch.setattr(type(work), "statements", OWN)

        monkeypatch.setattr(keeping.Keeper, "step", unheld)
    drain(client, [keep(SentProjection)])
    monkeypatch.undo()
    if not is_broken:
        erase()
    drain(client, keeps())
    assert bool(judge(client, FEW)) == is_broken
    other.db.close()


OWN = Work.statements
