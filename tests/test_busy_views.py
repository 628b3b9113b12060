"""Views that a client keeps between its decisions on a busy stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define

from pgevents import EventClient, EventTypes, ProjectionBase, event, pipeline
from pgevents.busy_views import MOST_EVENTS, NAME
from pgevents.caches import CACHES
from pgevents.deciding import kind_of

Make = Callable[..., EventClient]


@define
class Tray:
    """A view that deciders can change."""

    id: str
    names: list[str]
    notes: list[dict[str, Any]]
    count: int = 0


@pytest.fixture
def busy(
    pgevents_tables: None, make_client: Make, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[EventClient, type[ProjectionBase[Tray, Any, str]]]]:
    """A client that takes trays for busy, and their projection."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())

    @event("PUT")
    class Put:
        cart_id: str
        name: str
        note: dict[str, Any]

    class Trays(ProjectionBase[Tray, Put, str]):
        projection_type = "TRAY"
        reducers = pipeline(
            names=lambda names, put: [*names, put.data.name],
            notes=lambda notes, put: [*notes, put.data.note],
            count=lambda count, _: count + 1,
        )

        def initial_view(self) -> Tray:
            return Tray(self.id, [], [])

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"cart_id": self.id}

    client = make_client(event_types=[Put])
    client.decider.busy[kind_of(Trays("c1", client).get_streams())] = time.monotonic() + 600, 600.0
    yield client, Trays


def put(name: str) -> dict[str, Any]:
    return {"type": "PUT", "data": {"cart_id": "c1", "name": name, "note": {"of": name}}}


def decided_on(busy: Any, name: str = "mine", change: Callable[[Tray], Any] = lambda view: None) -> list[str]:
    """Decide to put something on the tray; the names that the decider saw."""
    client, trays = busy
    seen: list[list[str]] = []

    def decider(view: Tray) -> Any:
        assert view.count == len(view.names) == len(view.notes)
        assert [note["of"] for note in view.notes] == view.names
        seen.append(list(view.names))
        change(view)
        return put(name)

    client.decide(trays("c1", client), decider)
    assert len(seen) == 1
    return seen[0]


def texts_read(client: EventClient, action: Callable[[], object]) -> int:
    """How many events' texts an action fetched by one value."""
    events = client.reader.decoder.events
    found: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        decoded = events(*given, **options)
        found.append(len(decoded))
        return decoded

    object.__setattr__(client.reader, "decoder", _Spy(client.reader.decoder, counted))
    action()
    return sum(found)


class _Spy:
    def __init__(self, decoder: Any, events: Any) -> None:
        self._decoder, self.events = decoder, events

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def test_a_decision_reads_only_what_came_since(busy: Any, make_client: Make) -> None:
    """Its own event of the last time, and those of others; the view is that of all events."""
    client, _ = busy
    client.save_events([put(f"n{n}") for n in range(20)])
    assert texts_read(client, lambda: decided_on(busy, "first")) == 20
    other = make_client(event_types=[])
    other.save_event(put("of another"))
    assert texts_read(client, lambda: decided_on(busy, "second")) == 2
    expected = [*[f"n{n}" for n in range(20)], "first", "of another", "second"]
    assert decided_on(busy, "third") == expected
    assert decided_on(busy) == [*expected, "third"]


def test_a_view_of_a_number_is_not_that_of_its_text(busy: Any) -> None:
    """The streams are the same, but a view may hold its id."""
    client, trays = busy
    keys = {trays(id, client).keeping_key() for id in (1, "1", True, "true")}
    assert len(keys) == 4 and None not in keys


def test_what_a_decider_changes_is_changed_for_it_alone(busy: Any) -> None:
    """The view, and what stands in it."""

    def spoil(view: Tray) -> None:
        view.names.append("never put")
        view.notes[:] = []
        view.count = 77

    decided_on(busy, "a")
    assert decided_on(busy, "b", spoil) == ["a"]
    assert decided_on(busy, "c", lambda view: view.notes[0].clear()) == ["a", "b"]
    assert decided_on(busy, "d", spoil) == ["a", "b", "c"]
    assert decided_on(busy) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE my_app.events SET data = data || \'{"name": "x", "note": {"of": "x"}}\' WHERE id = 1',
        "DELETE FROM my_app.events WHERE id = 1",
        "TRUNCATE my_app.events",
    ],
)
def test_a_redaction_is_seen(busy: Any, statement: str) -> None:
    """A change of the log under maintenance, even one that leaves all ids: everything is read again."""
    client, trays = busy
    for name in "abc":
        decided_on(busy, name)
    with client.maintenance("a test"):
        client.session.execute(statement)
    assert decided_on(busy) == trays("c1", client, load_existing_projection=False).view.names[:-1]


def test_an_event_that_is_gone_unnoticed_is_a_conflict_once(busy: Any) -> None:
    """Removed past the guards: the check of all ids finds it, and the second try reads everything."""
    client, _ = busy
    for name in "abc":
        decided_on(busy, name)
    guards = ("pgevents_change", "pgevents_deleted")
    for guard in guards:
        client.db.execute_sql(f"ALTER TABLE my_app.events DISABLE TRIGGER {guard}")
    client.db.execute_sql("DELETE FROM my_app.events WHERE id = 2")
    for guard in guards:
        client.db.execute_sql(f"ALTER TABLE my_app.events ENABLE ALWAYS TRIGGER {guard}")
    seen: list[list[str]] = []

    def decider(view: Tray) -> Any:
        seen.append(list(view.names))
        return put("d")

    client.decide(busy[1]("c1", client), decider)
    assert seen == [["a", "b", "c"], ["a", "c"]]


def test_a_decision_that_fails_leaves_the_view_right(busy: Any) -> None:
    """Whether the decider refuses, or its transaction is rolled back."""
    client, trays = busy
    decided_on(busy, "a")

    def refuse(view: Tray) -> Any:
        view.names.clear()
        raise KeyError("no")

    with pytest.raises(KeyError):
        client.decide(trays("c1", client), refuse)
    with pytest.raises(ZeroDivisionError), client.db.atomic():
        client.save_event(put("rolled back"))
        client.decide(trays("c1", client), lambda view: put("rolled back, too"))
        raise ZeroDivisionError
    assert decided_on(busy, "b") == ["a"]
    assert decided_on(busy) == ["a", "b"]


def test_another_connection_begins_anew(busy: Any) -> None:
    """It may lead to another database."""
    client, _ = busy
    client.save_events([put(f"n{n}") for n in range(5)])
    decided_on(busy)
    client.db.close()
    assert texts_read(client, lambda: decided_on(busy)) == 6


def test_views_are_bounded_in_number_size_and_age(busy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of what cannot be copied is kept."""
    client, trays = busy
    most = CACHES[NAME].most
    for number in range(most + 3):
        client.decide(trays(f"t{number}", client), lambda view: put("x"))
    assert len(client.decider.views._views) <= most  # noqa: SLF001
    now = time.monotonic()
    decided_on(busy)
    monkeypatch.setattr(time, "monotonic", lambda: now + 300)
    assert texts_read(client, lambda: decided_on(busy)) > 1
    client.save_events([put("many")] * (MOST_EVENTS + 5))
    decided_on(busy)
    before = len(client.get_event_stream(cart_id="c1"))
    assert texts_read(client, lambda: decided_on(busy)) == before


def test_a_projection_with_a_state_of_its_own_is_not_kept(busy: Any) -> None:
    """What it folds may depend on that."""
    client, trays = busy

    class Priced(trays):  # type: ignore[misc]
        projection_type = "PRICED"

        def __init__(self, id: str, client: EventClient, start: int) -> None:
            super().__init__(id, client)
            self.start = start

        def initial_view(self) -> Tray:
            return Tray(self.id, ["start"] * self.start, [])

    seen: list[int] = []
    for start in (0, 3, 1):
        client.decide(Priced("c1", client, start), lambda view: seen.append(view.names.count("start")))
    assert seen == [0, 3, 1]
