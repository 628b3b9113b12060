"""Streams of events that have all of several values, and the course subscriptions that are built on them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from peewee import PostgresqlDatabase

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    EventClient,
    InvalidValueError,
    ProjectionBase,
    all_of,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    many,
    one_of,
    pipeline,
    stream,
)
from pgevents.subscriptions import keep
from pgevents.subscriptions.definition import Question
from pgevents.testing import drain, given
from pgevents.type_registry import EventTypes

from .conftest import database


@pytest.fixture(autouse=True)
def own_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventTypes, "everything", EventTypes())


def client_of(db: PostgresqlDatabase, types: Any = ()) -> EventClient:
    events = create_events_table(schema="school", data_indexes=["at", many("tags"), many("metadata.labels")])
    client = create_event_client(db, events, create_projections_table(schema="school"), types)
    client.create_tables()
    return client


def tagged(*tags: Any, kind: str = "SUBSCRIBED", **data: Any) -> dict[str, Any]:
    return {"type": kind, "data": {"tags": list(tags), **data}, "metadata": {"labels": list(tags)[:1]}}


LOG = [
    tagged("c1", "s1"),
    tagged("c1", "s2", "x"),
    tagged("c2", "s1", at="noon"),
    tagged("s1", "c1", "x", kind="LEFT"),
    tagged("c1"),
    tagged(1, 2, True),
]
FINDS: list[tuple[Any, dict[str, Any], list[int]]] = [
    (None, {"tags": all_of("c1", "s1")}, [1, 4]),
    (None, {"tags": all_of("s1", "c1", "x", "c1")}, [4]),
    ("SUBSCRIBED", {"tags": all_of(["c1", "s1"])}, [1]),
    (None, {"tags": all_of("c1", "s9")}, []),
    (None, {"tags": all_of(1, 2)}, [6]),
    (None, {"tags": all_of("c1")}, [1, 2, 4, 5]),
    (None, {"tags": all_of("c2", "s1"), "at": "noon"}, [3]),
    (None, {"tags": all_of("c1", "s1"), "at": "noon"}, []),
    (None, {"tags": all_of("c1", "s1"), "metadata.labels": one_of("s1", "s2")}, [4]),
    (None, {"tags": "s1", "metadata.labels": all_of("c1", "s1")}, []),
]


@pytest.fixture
def school(db: PostgresqlDatabase) -> EventClient:
    client = client_of(db)
    client.save_event(LOG[0])
    client.save_events(LOG[1:])
    return client


@pytest.mark.parametrize(("types", "data", "ids"), FINDS)
def test_every_read_finds_the_events_with_all_of_them(
    school: EventClient, types: Any, data: dict[str, Any], ids: list[int]
) -> None:
    """Once, in the order of the log, whatever else is asked; and the test kit finds the same."""
    wanted = stream(types, data=data)
    assert [one.id for one in school.get_event_stream(types, data=data)] == ids
    assert [one.id for one in school.get_event_stream(types, data=data, final=True)] == ids
    assert [one.id for one in school.get_event_stream(types, data=data, as_of=6)] == ids
    assert [one.id for one in school.get_event_stream(types, data=data, reverse=True)] == ids[::-1]
    later = school.iter_event_stream(types, data=data, after=1)
    assert [one.id for one in later] == [n for n in ids if n > 1]
    assert [one.id for one in school.get_event_streams([wanted, stream(tags="c2")])] == sorted({*ids, 3})
    latest = school.get_latest_event(types, data=data)
    assert (latest and latest.id) == (ids[-1] if ids else None)
    assert type(wanted).from_json(json.loads(json.dumps(wanted.as_json()))) == wanted
    question = Question.of([wanted])
    assert Question.from_json(json.loads(json.dumps(question.as_json()))) == question


@pytest.mark.parametrize(("types", "data", "ids"), FINDS)
def test_a_condition_on_all_of_them_is_exact(
    school: EventClient, types: Any, data: dict[str, Any], ids: list[int]
) -> None:
    """An event with all of the values is a conflict, one without the last of them is none."""
    seen = school.get_event_stream(types, data=data)
    if data != {"tags": all_of("c1")}:
        school.save_events([tagged("c1"), tagged("s1"), tagged(1), tagged("s9")])
        school.save_event_with_stream_validation(tagged("none"), seen)
    new = tagged("s1", "c1", "x", "c2", "s9", 1, 2, at="noon")
    new["metadata"]["labels"] = ["c1", "s1"]
    new_id = school.save_event(new).id
    for events in ([tagged()], [tagged(), tagged()]):
        with pytest.raises(ConcurrencyError) as conflict:
            school.save_events_with_stream_validation(events, seen)
        assert new_id in conflict.value.conflicting_ids
    school.save_events_with_stream_validation([new], school.get_event_stream(types, data=data))


def test_a_decision_locks_one_value_that_all_its_events_have(school: EventClient, url: str) -> None:
    """An event with both values waits, one with the other value alone goes on."""
    other = client_of(database(url))
    other.db.execute_sql("SET lock_timeout = '150ms'")
    with school.db.atomic():
        school.db.execute_sql(
            "SELECT school.events_lock(%s)", [json.dumps([stream(tags=all_of("s1", "c1")).as_json()])]
        )
        other.save_event(tagged("s1"))
        for events in ([tagged("s1", "c1")], [tagged("s1", "c1"), tagged("s3")]):
            with pytest.raises(Exception, match="locked"):
                other.save_events(events)
    other.save_event(tagged("s1", "c1"))
    other.db.close()


def test_what_cannot_have_several_values_is_refused(school: EventClient) -> None:
    """A field of one value, no value, and documents of other programs that name none."""
    for call in (school.get_event_stream, school.get_latest_event):
        with pytest.raises(ConfigurationError, match=r"all_of .* one value of 'at'"):
            call(at=all_of("noon", "night"))
    with pytest.raises(InvalidValueError, match="at least one"):
        all_of()
    with pytest.raises(InvalidValueError, match="at least one"):
        all_of([])
    for match in ({"tags": {"all": []}}, {"tags": {"any": ["a"]}}, {"tags": {"all": [1]}}):
        conditions = [{"base": 0, "seen": 0, "streams": [{"types": None, "match": match}]}]
        with pytest.raises(Exception, match="are texts"):
            school.db.execute_sql(
                "SELECT school.events_append(%s, %s)", ['[{"type": "A", "data": {}}]', json.dumps(conditions)]
            )


# -- the example of dynamic consistency boundaries: courses, students, and who takes which -----------------


def course_client(db: PostgresqlDatabase) -> tuple[EventClient, Any, Any]:
    """Courses have a capacity, and a student takes at most two, each once."""

    @event("COURSE_DEFINED")
    class CourseDefined:
        tags: list[str]
        capacity: int

    @event("STUDENT_SUBSCRIBED")
    class StudentSubscribed:
        tags: list[str]

    client = client_of(db, [CourseDefined, StudentSubscribed])

    def count(name: str, types: Any, **identifiers: Any) -> Any:
        return client.project(name, identifiers, lambda n, event: {"n": n["n"] + 1}, {"n": 0}, types=types)

    def subscribe(course: str, student: str) -> list[Any]:
        capacity = client.project(
            "CAPACITY",
            {"tags": course},
            lambda n, one: {"n": one.data.capacity},
            {"n": 0},
            types=CourseDefined,
        )
        places = count("PLACES", StudentSubscribed, tags=course)
        courses = count("COURSES", StudentSubscribed, tags=student)
        already = count("ALREADY", StudentSubscribed, tags=all_of(course, student))

        def decider(capacity: Any, places: Any, courses: Any, already: Any) -> Any:
            if already["n"] or places["n"] >= capacity["n"] or courses["n"] >= 2:
                raise ValueError("no")
            return StudentSubscribed([course, student])

        return client.decide([capacity, places, courses, already], decider)

    return client, CourseDefined, subscribe


def test_course_subscriptions(db: PostgresqlDatabase) -> None:
    """The capacity, the limit of courses, and no student twice: one decision over three tags' streams."""
    client, defined, subscribe = course_client(db)
    client.save_events([defined([f"course:{n}"], 2) for n in (1, 2, 3)])
    subscribe("course:1", "student:1")
    with pytest.raises(ValueError, match="no"):  # already subscribed
        subscribe("course:1", "student:1")
    subscribe("course:1", "student:2")
    with pytest.raises(ValueError, match="no"):  # full
        subscribe("course:1", "student:3")
    subscribe("course:2", "student:1")
    with pytest.raises(ValueError, match="no"):  # has two
        subscribe("course:3", "student:1")
    subscribe("course:3", "student:2")
    assert len(client.get_event_stream(tags=all_of("course:3", "student:2"))) == 1


def test_a_kept_view_of_streams_with_many_values(db: PostgresqlDatabase) -> None:
    """The runner finds the events of a view among those that have all of the tags."""

    @event("NOTED")
    class Noted:
        at: str
        tags: list[str]

    class Counted(ProjectionBase[dict[str, int], Noted]):
        projection_type = "COUNTED"
        reducers = pipeline(n=lambda n, event: n + 1)

        def initial_view(self) -> dict[str, int]:
            return {"n": 0}

        def get_event_identifiers(self) -> dict[str, Any]:
            return {"at": self.id, "tags": all_of("a", "b")}

    client = client_of(db, [Noted])
    client.save_events([Noted("noon", ["a", "b"]), Noted("noon", ["a"]), Noted("night", ["b", "a", "c"])])
    drain(client, [keep(Counted)])
    client.delete_projection(Counted, "noon")  # so that its events are looked up
    client.save_event(Noted("noon", ["c", "b", "a"]))
    drain(client, [keep(Counted)])
    assert {one.id: one.data["n"] for one in client.query_projections(Counted)} == {"noon": 2, "night": 1}
    history = [one.data for one in client.get_event_stream(Noted)]
    (noon,) = given(Counted("noon"), *history).folded()
    assert noon.view == {"n": 2}
