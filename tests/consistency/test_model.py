"""The client against a model in memory: whatever is done in whatever order, both say the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgevents import ConcurrencyError, ConfigurationError, EventClient, IdempotencyError, stream
from pgevents.store.results import EventStream

from .lab import Tally, TallyProjection, lab_client, streams_of, streams_text, tally

KEYS = st.sampled_from(["k1", "k2", "k3"])
TYPES = st.sampled_from(["A", "B"])
EVENT = st.builds(
    lambda kind, key, unit: {"type": kind, "data": {"k": key, "u": unit}},
    TYPES,
    KEYS,
    st.sampled_from(["x", "y"]),
)
STREAMS = st.sampled_from(
    [
        [stream(k="k1")],
        [stream("A", k="k2"), stream("B", k="k3")],
        [stream(k=["k1", "k3"], u="x")],
        [stream(["A", "B"])],
        [stream("A", u="y")],
        [stream()],
        [stream(k=[])],
    ]
)


NOTHING = STREAMS.filter(lambda streams: all(one.is_empty for one in streams))
SOMETHING = STREAMS.filter(lambda streams: not all(one.is_empty for one in streams))


@attrs.define
class Model:
    """The log as it should be."""

    rows: list[tuple[int, str, dict[str, str]]] = attrs.field(factory=list)
    keys: dict[str, list[tuple[int, str, dict[str, str]]]] = attrs.field(factory=dict)
    snapshots: dict[str, Tally] = attrs.field(factory=dict)

    def copy(self) -> Model:
        return Model(list(self.rows), dict(self.keys), dict(self.snapshots))

    def ids(self, streams: Any, after: int = 0) -> list[int]:
        return [
            event_id
            for event_id, kind, data in self.rows
            if event_id > after
            and any(
                (one.types is None or kind in one.types)
                and all(data.get(name) in values for name, values in one.match)
                for one in streams
            )
        ]


class Machine(RuleBasedStateMachine):
    """Rules are what a program may do; transactions and savepoints are open from one rule to another."""

    client: EventClient
    reads = Bundle("reads")

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.saved: list[tuple[Any, Model]] = []  # open transactions, each with the model to go back to

    @initialize()
    def empty_tables(self) -> None:
        with self.client.maintenance("the next example"):
            self.client.db.execute_sql("TRUNCATE lab.events")
            self.client.db.execute_sql("DELETE FROM lab.views")

    def note(self, events: Any, given: list[dict[str, Any]], key: str | None = None) -> None:
        """What was saved has new ids in ascending order, and goes into the model."""
        ids = [event.id for event in events]
        top = self.model.rows[-1][0] if self.model.rows else 0
        assert ids == sorted(set(ids)) and ids[0] > top
        rows = [(event_id, one["type"], one["data"]) for event_id, one in zip(ids, given, strict=True)]
        self.model.rows.extend(rows)
        if key is not None:
            self.model.keys[key] = rows

    @rule(event=EVENT)
    def save(self, event: dict[str, Any]) -> None:
        self.note([self.client.save_event(event)], [event])

    @rule(events=st.lists(EVENT, max_size=5))
    def save_batch(self, events: list[dict[str, Any]]) -> None:
        saved = self.client.save_events(events)
        assert len(saved) == len(events)
        if events:
            self.note(saved, events)

    @rule(start=st.integers(0, 10**6))
    def save_large_batch(self, start: int) -> None:
        """Over the key limit."""
        events = [{"type": "A", "data": {"k": f"n{start + number}"}} for number in range(210)]
        self.note(self.client.save_events(events), events)

    @rule(target=reads, streams=STREAMS, final=st.booleans())
    def read(self, streams: Any, final: bool) -> tuple[Any, Any, list[int]]:
        read = self.client.get_event_streams(streams, final=final and not self.saved)
        ids = [event.id for event in read]
        assert ids == self.model.ids(streams)
        return read, streams, ids

    @rule(event=EVENT, known=reads)
    def save_validated(self, event: dict[str, Any], known: tuple[EventStream[Any], Any, list[int]]) -> None:
        """It succeeds if and only if the stream is what was read, however long ago, in whatever was rolled
        back."""
        read, streams, ids = known
        if all(one.is_empty for one in streams):
            self.refuse_to_validate(event, read, None)
            return
        is_current = self.model.ids(streams) == ids
        try:
            saved = self.client.save_event_with_stream_validation(event, read)
        except ConcurrencyError:
            assert not is_current
        else:
            assert is_current
            self.note([saved], [event])

    def refuse_to_validate(self, event: dict[str, Any], latest: Any, streams: Any) -> None:
        with pytest.raises(ConfigurationError, match="would validate nothing"):
            self.client.save_event_with_stream_validation(event, latest, streams)

    @rule(event=EVENT, streams=NOTHING)
    def validate_nothing(self, event: dict[str, Any], streams: Any) -> None:
        """Streams that no event can match are no condition, and no premise of a decision."""
        self.refuse_to_validate(event, 0, streams)
        with pytest.raises(ConfigurationError, match="would validate nothing"):
            self.client.decide(TallyProjection(streams_text(streams), self.client), lambda view: event)

    @rule(event=EVENT, streams=SOMETHING, back=st.integers(0, 2))
    def save_validated_by_id(self, event: dict[str, Any], streams: Any, back: int) -> None:
        """Given a bare id: if and only if nothing stands above it."""
        ids = self.model.ids(streams)
        latest = ([0, *ids])[-1 - min(back, len(ids))]
        try:
            saved = self.client.save_event_with_stream_validation(event, latest, streams)
        except ConcurrencyError:
            assert self.model.ids(streams, after=latest)
        else:
            assert not self.model.ids(streams, after=latest)
            self.note([saved], [event])

    @rule(
        key=st.sampled_from(["i1", "i2", "i3"]),
        events=st.lists(EVENT, min_size=1, max_size=2),
        again=st.booleans(),
    )
    def save_with_key(self, key: str, events: list[dict[str, Any]], again: bool) -> None:
        known = self.model.keys.get(key)
        if known is not None and again:
            events = [{"type": kind, "data": data} for _, kind, data in known]
        try:
            saved = self.client.save_events(events, idempotency_key=key)
        except IdempotencyError as error:
            assert known is not None and [(one["type"], one["data"]) for one in events] != [
                row[1:] for row in known
            ]
            assert list(error.saved_ids) == [row[0] for row in known]
        else:
            if known is None:
                self.note(saved, events, key)
            else:
                assert [(event.id, event.type, event.data) for event in saved] == known

    @rule(streams=SOMETHING, event=EVENT)
    def decide(self, streams: Any, event: dict[str, Any]) -> None:
        before = self.model.ids(streams)
        views: list[Tally] = []
        projection = TallyProjection(streams_text(streams), self.client)
        self.note(self.client.decide(projection, lambda view: views.append(view) or event), [event])
        assert [view.count for view in views] == [len(before)]

    @rule(streams=STREAMS)
    def snapshot(self, streams: Any) -> None:
        """A snapshot holds what a fold from the start gives; saving it again changes nothing."""
        name = streams_text(streams)
        expected = Tally()
        for event_id in self.model.ids(streams):
            expected = expected.add(event_id)
        known = self.model.snapshots.get(name)
        result = TallyProjection(name, self.client).save_projection()
        assert result.projection.data == expected
        assert result.status == (
            "created" if known is None else "skipped" if known == expected else "updated"
        )
        self.model.snapshots[name] = expected

    @rule(count=st.integers(0, 3))
    def query(self, count: int) -> None:
        found = self.client.query_projections(TallyProjection, count=count)
        assert {row.id: row.data for row in found} == {
            name: view for name, view in self.model.snapshots.items() if view.count == count
        }

    @precondition(lambda self: len(self.saved) < 3)
    @rule()
    def begin(self) -> None:
        """A transaction, or a savepoint in one."""
        block = self.client.db.atomic()
        block.__enter__()
        self.saved.append((block, self.model.copy()))

    @precondition(lambda self: self.saved)
    @rule(keep=st.booleans())
    def end(self, keep: bool) -> None:
        """Commit, or roll back to where it began."""
        block, before = self.saved.pop()
        if keep:
            block.__exit__(None, None, None)
        else:
            block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
            self.model = before

    @invariant()
    def views_are_the_fold_of_the_log(self) -> None:
        name = streams_text([stream(k="k1")])
        view = TallyProjection(name, self.client).view
        assert view == tally(self.client.get_event_streams(streams_of(name)))
        assert view.count == len(self.model.ids([stream(k="k1")]))

    def teardown(self) -> None:
        while self.saved:
            self.end(keep=False)
        assert [event.id for event in self.client.get_event_stream()] == [row[0] for row in self.model.rows]
        assert self.client.horizon().holders == ()


@pytest.fixture
def lab(url: str) -> Iterator[EventClient]:
    """The laboratory's tables, empty."""
    client = lab_client(url)
    client.create_tables()
    yield client
    client.db.close()


@pytest.mark.parametrize("programs", [15, pytest.param(60, marks=pytest.mark.long)])
def test_the_client_does_what_the_model_says(lab: EventClient, programs: int) -> None:
    """Random programs of saves, reads, decisions, snapshots, repeats, transactions and rollbacks."""
    Machine.client = lab
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=programs,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
