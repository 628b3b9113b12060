"""Encryption per subject: the log stays, the data can be forgotten."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg2
import pytest
from attrs import frozen
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    EventDecodeError,
    EventEncodeError,
    NotInstalledError,
    PgEventsError,
    ProjectionBase,
    RetryableError,
    UnsupportedTransactionError,
    create_event_client,
    create_events_table,
    create_projections_table,
    event,
    pipeline,
    stream,
)
from pgevents.plugins._keys import KeyTable
from pgevents.plugins.encryption import Encryption, Forgotten, Personal, SubjectForgottenError
from pgevents.snapshots import Snapshots

from .conftest import database, shop_client


@event("USER_REGISTERED")
class UserRegistered:
    user_id: str
    email: str
    born: date | None = None


@event("USER_MOVED", formerly=["ADDRESS_CHANGED"])
class UserMoved:
    user_id: str
    address: dict[str, str]


UserEvent = UserRegistered | UserMoved


@frozen
class User:
    id: str
    email: str = ""
    city: str = ""


def to_email(email: str, event: Event[UserEvent]) -> str:
    return event.data.email if isinstance(event.data, UserRegistered) else email


def to_city(city: str, event: Event[UserEvent]) -> str:
    return event.data.address["city"] if isinstance(event.data, UserMoved) else city


class UserProjection(ProjectionBase[User, UserEvent]):
    projection_type = "USER"
    reducers = pipeline(email=to_email, city=to_city)

    def initial_view(self) -> User:
        return User(id=self.id)

    def get_event_identifiers(self) -> dict[str, str]:
        return {"user_id": self.id}


ANN = UserRegistered("u1", "ann@example.org", date(1990, 5, 17))
MOVED = UserMoved("u1", {"city": "Bath"})
RULES: dict[Any, Personal] = {
    UserRegistered: Personal("user_id", {"email": "[redacted]", "born": None}),
    UserMoved: Personal("user_id", {"address": {"city": "[redacted]"}}),
    "NOTE_WRITTEN": Personal("about", {"text": "[redacted]"}),
}


@pytest.fixture
def encryption() -> Encryption:
    return Encryption(RULES)


@pytest.fixture
def open_client(make_client: Callable[..., EventClient]) -> Callable[..., EventClient]:
    """Clients with encryption, on tables that are made."""

    def make(*plugins: Any) -> EventClient:
        client = make_client(event_types=UserEvent, plugins=plugins)
        client.create_tables()
        return client

    return make


@pytest.fixture
def client(open_client: Callable[..., EventClient], encryption: Encryption) -> EventClient:
    return open_client(encryption)


def stored(client: EventClient) -> str:
    """Everything that the tables hold of events and views, as text."""
    rows = client.db.execute_sql(
        "SELECT data::text FROM my_app.events UNION ALL SELECT data::text FROM my_app.views"
    )
    return "\n".join(row[0] for row in rows.fetchall())


def test_personal_fields_are_stored_encrypted_and_read_in_the_clear(client: EventClient) -> None:
    """Texts, dates and objects, of instances and of dicts; the caller, every kind of read and the view see
    them."""
    note = {"type": "NOTE_WRITTEN", "data": {"about": 7, "text": "likes tea", "colour": "red"}}
    saved = client.save_events([ANN, MOVED, note])
    assert [one.data for one in saved] == [ANN, MOVED, note["data"]]
    text = stored(client)
    assert (
        not any(secret in text for secret in ("ann@", "1990", "Bath", "tea"))
        and "red" in text
        and "u1" in text
    )
    assert list(client.get_event_stream()) == saved == list(client.iter_event_stream())
    assert client.get_latest_event(UserMoved, final=True) == saved[1]
    assert UserProjection("u1", client).view == User("u1", "ann@example.org", "Bath")
    assert saved[2].metadata == {"encrypted_for": "7", "encrypted_with": saved[2].metadata["encrypted_with"]}


def test_who_is_forgotten_is_redacted_everywhere(client: EventClient, encryption: Encryption) -> None:
    """The events stay, with the redacted values; other subjects are as they were; snapshots are folded
    anew."""
    client.save_events([ANN, MOVED, UserRegistered("u2", "bob@example.org")])
    for user in ("u1", "u2"):
        UserProjection(user, client).save_projection()
    assert "ann@" in stored(client)  # a snapshot holds the view
    report = encryption.forget(client, "u1")
    assert (report.had_key, report.deleted_snapshots, report.is_complete, bool(report)) == (
        True,
        1,
        True,
        True,
    )
    assert "ann@" not in stored(client)
    registered, moved, other = client.get_event_stream()
    assert (
        registered.data == UserRegistered("u1", "[redacted]", None)
        and registered.metadata["redacted"] is True
    )
    assert moved.data == UserMoved("u1", {"city": "[redacted]"})
    assert other.data.email == "bob@example.org" and "redacted" not in other.metadata
    assert UserProjection("u1", client).view == User("u1", "[redacted]", "[redacted]")
    assert client.get_projection(UserProjection, "u2") is not None
    assert UserProjection("u1", client).save_projection().status == "created"
    assert encryption.forget(client, "u1") == Forgotten("u1", had_key=False, deleted_snapshots=1)


def test_forgetting_counts_at_once_in_every_process(
    open_client: Callable[..., EventClient], client: EventClient, encryption: Encryption
) -> None:
    """Keys are not kept: a client that has read before reads redacted values."""
    other = open_client(Encryption(RULES))
    client.save_event(ANN)
    assert other.get_latest_event(UserRegistered).data == ANN  # type: ignore[union-attr]
    encryption.forget(client, "u1")
    assert other.get_latest_event(UserRegistered).data.email == "[redacted]"  # type: ignore[union-attr]


def test_what_is_forgotten_in_a_transaction_that_rolls_back_is_not(
    client: EventClient, encryption: Encryption
) -> None:
    """Forgetting is part of the caller's transaction, and so is a key that is made in one."""
    client.save_event(ANN)
    with client.db.atomic() as transaction:
        encryption.forget(client, "u1")
        client.save_event(UserRegistered("u2", "bob@example.org"))
        transaction.rollback()
    assert client.get_latest_event(UserRegistered).data == ANN  # type: ignore[union-attr]
    subjects = client.db.execute_sql("SELECT subject FROM my_app.events_keys ORDER BY 1").fetchall()
    assert subjects == [("",), ("u1",)]  # the check key, and Ann's


def test_nothing_more_is_kept_of_the_forgotten(client: EventClient, encryption: Encryption) -> None:
    """A later event with their data is refused, and the error says who it is; also if they were never
    known."""
    encryption.forget(client, 7)
    with pytest.raises(SubjectForgottenError, match="'7' was forgotten; nothing was written") as caught:
        client.save_events([ANN, {"type": "NOTE_WRITTEN", "data": {"about": 7, "text": "hm"}}])
    assert caught.value.subject == "7" and len(client.get_event_stream()) == 0


def test_a_repeat_is_recognised(client: EventClient) -> None:
    """The same data make the same ciphertext, so the idempotency key finds the first save."""
    first = client.save_event(ANN, idempotency_key="k")
    assert client.save_event(ANN, idempotency_key="k") == first
    assert len(client.get_event_stream()) == 1


def test_decisions_are_made_on_clear_data(client: EventClient) -> None:
    """Validated saves and decide work as without."""
    client.save_event(ANN)
    client.decide(
        UserProjection("u1", client), lambda user: UserMoved(user.id, {"city": user.email.partition("@")[2]})
    )
    assert UserProjection("u1", client).view.city == "example.org"


def test_identifiers_cannot_be_encrypted(make_client: Callable[..., EventClient]) -> None:
    """Streams and locks go by data indexes: refused when the client is made."""
    with pytest.raises(
        ConfigurationError, match="'cart_id' is a data index; identifiers cannot be encrypted"
    ):
        make_client(plugins=[Encryption({"NOTE_WRITTEN": Personal("about", {"cart_id": ""})})])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            Personal("user_id", {"emial": ""}),
            "UserRegistered has no field 'emial'; it has user_id, email, born",
        ),
        (Personal("user", {"email": ""}), "UserRegistered has no field 'user'"),
        (Personal("user_id", {"email": None}), "None does not fit 'email'"),
        (Personal("user_id", {"born": "long ago"}), "'long ago' does not fit 'born'"),
        (Personal("user_id", {"user_id": ""}), "the subject 'user_id' is not"),
    ],
)
def test_a_rule_that_cannot_work_is_refused(
    make_client: Callable[..., EventClient], rule: Personal, message: str
) -> None:
    """A misspelt field would stay in the clear, a redacted value that does not fit would break reads: both
    said early."""
    with pytest.raises(ConfigurationError, match=message):
        make_client(event_types=UserEvent, plugins=[Encryption({UserRegistered: rule})])


def test_events_say_whose_they_are(client: EventClient) -> None:
    """Nobody's data cannot be encrypted, and nothing but encryption writes its mark."""
    with pytest.raises(
        EventEncodeError, match="NOTE_WRITTEN: 'about' says whose personal data these are: .* not None"
    ):
        client.save_event({"type": "NOTE_WRITTEN", "data": {"text": "hm"}})
    with pytest.raises(EventEncodeError, match="'x' holds"):
        client.save_event({"type": "OTHER", "data": {"x": {"$encrypted": "AAAA"}}})


def test_a_value_moved_to_another_event_does_not_decrypt(client: EventClient) -> None:
    """Ciphertext is bound to subject, type and field; the error names the event."""
    client.save_events([ANN, {"type": "NOTE_WRITTEN", "data": {"about": "u1", "text": "hm"}}])
    with client.maintenance("test"):
        client.db.execute_sql(
            "UPDATE my_app.events SET data = jsonb_set(data, '{text}', "
            "(SELECT data->'email' FROM my_app.events WHERE id = 1))"
            " WHERE id = 2"
        )
    with pytest.raises(
        EventDecodeError,
        match="event 2 of type 'NOTE_WRITTEN', field 'text': it was encrypted with another key",
    ):
        client.get_event_stream("NOTE_WRITTEN")


BOTH = "data = data || jsonb_build_object('email', o.data->'email', 'born', o.data->'born')"
SWAPS = {
    "one field": "data = data || jsonb_build_object('email', o.data->'email')",
    "all encrypted fields": BOTH,
    "with the seal": f"{BOTH}, metadata = metadata "
    "|| jsonb_build_object('encrypted_with', o.metadata->'encrypted_with')",
    "the seal alone": "metadata = o.metadata",
    "no seal": "metadata = e.metadata - 'encrypted_with'",
    "a seal that is no text": """metadata = e.metadata || '{"encrypted_with": [1]}'""",
    "a clear field": 'data = data || \'{"plan": "paid"}\'',
    "a field less": "data = data - 'born'",
}


@pytest.mark.parametrize("swap", SWAPS)
def test_a_value_of_another_event_of_the_subject_does_not_decrypt(
    open_client: Callable[..., EventClient], swap: str
) -> None:
    """Of the same type, with all that belongs to it; the event that it comes from is read as before."""
    client = open_client(Encryption({"PLAN_CHOSEN": Personal("user_id", {"email": "", "born": None})}))
    data = [
        {"user_id": "u1", "plan": plan, "email": f"{plan}@example.org", "born": born}
        for plan, born in (("free", "1990-01-01"), ("paid", "1991-01-01"))
    ]
    client.save_events([{"type": "PLAN_CHOSEN", "data": one} for one in data])
    with client.maintenance("test"):
        what = re.sub(r"= (data|metadata) (-|\|\|)", r"= e.\1 \2", SWAPS[swap])
        client.db.execute_sql(
            f"UPDATE my_app.events AS e SET {what} FROM my_app.events AS o WHERE e.id = 1 AND o.id = 2"
        )
    with pytest.raises(EventDecodeError, match="event 1 .*(for another event|from another event)") as caught:
        client.get_event_stream("PLAN_CHOSEN")
    assert caught.value.event_id == 1 and caught.value.field in ("email", "born")
    assert [event.data for event in client.get_event_stream("PLAN_CHOSEN", after=1)] == data[1:]


def test_a_repeat_is_recognised_and_equal_values_of_other_events_are_not_seen(client: EventClient) -> None:
    """The same data give the same ciphertexts; the same address beside other data another one."""
    first = client.save_event(ANN, idempotency_key="k")
    assert client.save_event(ANN, idempotency_key="k").id == first.id
    client.save_event(UserRegistered("u1", ANN.email, date(2000, 1, 1)))
    rows = client.db.execute_sql("SELECT data->'email' FROM my_app.events").fetchall()
    assert len(rows) == 2 and rows[0] != rows[1]


def test_a_change_under_maintenance_is_bound_anew(client: EventClient, encryption: Encryption) -> None:
    """Not without saying so; forgotten subjects and events without encrypted fields are left out."""
    note = {"about": 7, "text": "likes tea", "colour": "red", "size": 1.5}
    client.save_events([{"type": "NOTE_WRITTEN", "data": note}, {"type": "OTHER", "data": {"x": 1}}, ANN])
    encryption.forget(client, "u1")
    with client.maintenance("a wish of the customer"):
        client.db.execute_sql("""UPDATE my_app.events SET data = data || '{"colour": null}' WHERE id = 1""")
        with pytest.raises(EventDecodeError, match="event 1 .* use Encryption.rebind"):
            client.get_event_stream("NOTE_WRITTEN")
        assert encryption.rebind(client, [1, 2, 3], maintenance="a wish of the customer") == 1
    assert client.get_latest_event("NOTE_WRITTEN").data == {**note, "colour": None}  # type: ignore[union-attr]
    with client.maintenance("test"):
        client.db.execute_sql(
            "UPDATE my_app.events SET data = jsonb_set(data, '{text}', '{\"$encrypted\": \"AAAA\"}') "
            "WHERE id = 1"
        )
    with pytest.raises(EventDecodeError, match="event 1"):
        encryption.rebind(client, [1], maintenance="test")
    with pytest.raises(ConfigurationError, match="the ids of events"):
        encryption.rebind(client, ["1"], maintenance="test")  # type: ignore[list-item]


@pytest.mark.parametrize(
    "value",
    [0, 1.0, -0.0, 1e16, 1e23, 5e-324, 1.7e308, 0.1, 10**40, -(2**63), "\u00e9\U0001f600\\u0000", [1, [2.50]],
     {"b": {"z": 1e2, "a": None}, "a": [True, "1"]}],
)  # fmt: skip
def test_values_in_the_clear_are_sealed_as_they_are_stored(client: EventClient, value: Any) -> None:
    """Whatever form PostgreSQL gives a number, and the keys of an object."""
    event = {"type": "NOTE_WRITTEN", "data": {"about": "u1", "text": value, "beside": value}}
    try:
        client.save_event(event)
    except EventEncodeError:  # what cannot be stored exactly in any event
        with pytest.raises(EventEncodeError):
            client.save_event({"type": "OTHER", "data": {"x": value}})
        return
    assert client.get_latest_event("NOTE_WRITTEN").data == event["data"]  # type: ignore[union-attr]


def test_a_master_key_guards_the_key_table(
    open_client: Callable[..., EventClient], make_client: Callable[..., EventClient]
) -> None:
    """With it the data are read, with another or none they are not."""
    client = open_client(Encryption(RULES, master_key=b"m" * 32))
    client.save_event(ANN)
    assert client.get_latest_event(UserRegistered).data == ANN  # type: ignore[union-attr]
    for other, message in ((b"n" * 32, "not the master key"), (None, "give the plugin their master key")):
        reader = make_client(event_types=UserEvent, plugins=[Encryption(RULES, master_key=other)])
        with pytest.raises(ConfigurationError, match=message):
            reader.get_latest_event(UserRegistered)
        with pytest.raises(ConfigurationError, match=message):
            reader.create_tables()


def test_a_snapshot_folded_before_the_forgetting_is_not_saved_after_it(
    client: EventClient, open_client: Callable[..., EventClient], encryption: Encryption
) -> None:
    """Neither its events nor the snapshot that it started from bring forgotten data back."""
    other = open_client(Encryption(RULES))
    client.save_event(ANN)

    def forget_in_between(projection: UserProjection) -> None:
        """Saves with a view that was folded before the subject was forgotten."""
        original = client.serializer.encode

        def encode(data: object, what: str) -> dict[str, Any]:
            encryption.forget(other, "u1")
            return original(data, what)

        client.serializer.encode = encode  # type: ignore[method-assign]
        try:
            with pytest.raises(
                RetryableError, match="was forgotten while USER u1 was folded; nothing was written: try again"
            ):
                projection.save_projection()
        finally:
            client.serializer.encode = original  # type: ignore[method-assign]

    forget_in_between(UserProjection("u1", client))
    assert client.get_projection(UserProjection, "u1") is None and "ann@" not in stored(client)
    assert UserProjection("u1", client).save_projection().projection.data.email == "[redacted]"


def test_a_snapshot_that_starts_from_a_forgotten_one_is_not_saved(
    client: EventClient,
    open_client: Callable[..., EventClient],
    encryption: Encryption,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The snapshot before held the data; it was deleted after this one had started from it."""
    other = open_client(Encryption(RULES))
    client.save_event(ANN)
    UserProjection("u1", client).save_projection()
    client.save_event({"type": "USER_MOVED", "data": {"user_id": "u1", "address": {"city": "Bath"}}})
    projection = UserProjection("u1", client)
    note = Snapshots.note

    def note_then_forget(self: Snapshots, key: Any) -> Any:
        found = note(self, key)
        encryption.forget(other, "u1")
        return found

    monkeypatch.setattr(Snapshots, "note", note_then_forget)
    with pytest.raises(RetryableError, match="was forgotten while"):
        projection.save_projection()
    assert "ann@" not in stored(client)
    assert copy.copy(UserProjection("u1", client)).view == User("u1", "[redacted]", "[redacted]")


def test_events_of_before_and_without_encryption_are_read_as_they_are(
    open_client: Callable[..., EventClient],
) -> None:
    """A log may turn to encryption at any time; a client without the plugin sees what is stored."""
    bare = open_client()
    bare.save_event(ANN)
    client = open_client(Encryption(RULES))
    client.save_event({"type": "NOTE_WRITTEN", "data": {"about": "u1", "text": "hm"}})
    assert [one.data for one in client.get_event_stream()][0] == ANN
    (hidden,) = bare.get_event_streams([stream("NOTE_WRITTEN")])
    assert set(hidden.data["text"]) == {"$encrypted"}


# -- what forgetting finds ----------------------------------------------------


def test_forgetting_reports_events_in_the_clear(
    open_client: Callable[..., EventClient], encryption: Encryption
) -> None:
    """Saved before the plugin: reported by id, shown redacted, and overwritten where a reason is given."""
    bare = open_client()
    bare.save_events([ANN, UserRegistered("u2", "bob@example.org"), MOVED])
    client = open_client(encryption)
    client.save_event(ANN)
    assert client.get_event_stream(UserRegistered)[0].data == ANN
    report = encryption.forget(client, "u1")
    assert report.events_in_clear == (1, 3) and not report and "ann@" in stored(client)
    shown = client.get_event_stream(UserEvent)
    assert [one.data.email for one in shown if isinstance(one.data, UserRegistered)] == [
        "[redacted]",
        "bob@example.org",
        "[redacted]",
    ]
    assert UserProjection("u1", client).save_projection().projection.data == User(
        "u1", "[redacted]", "[redacted]"
    )
    report = encryption.forget(client, "u1", maintenance="erasure request 17")
    assert report.is_complete
    text = stored(client)
    assert not any(secret in text for secret in ("ann@", "1990", "Bath")) and "bob@" in text
    ((data, metadata),) = client.db.execute_sql(
        "SELECT data, metadata FROM my_app.events WHERE id = 1"
    ).fetchall()
    assert data == {"user_id": "u1", "email": "[redacted]", "born": None}
    assert metadata == {"encrypted_for": "u1", "redacted": True}
    trail = client.db.execute_sql("SELECT reason, ids FROM my_app.events_maintenance").fetchall()
    assert trail == [("erasure request 17", [3]), ("erasure request 17", [1])]


def test_an_event_of_an_older_form_is_reported_for_its_fields_may_have_other_names(
    open_client: Callable[..., EventClient], encryption: Encryption
) -> None:
    """It holds no field of the rule and was not saved through the plugin: nobody knows, so it is said."""
    open_client().save_event({"type": "NOTE_WRITTEN", "data": {"about": "u1", "words": "likes tea"}})
    client = open_client(encryption)
    assert encryption.forget(client, "u1", maintenance="erasure").events_in_clear == (1,)


def views_of(make: Callable[..., EventClient], name: str, *plugins: Any) -> EventClient:
    """A client on the same events with another projections table."""
    first = make(event_types=UserEvent)
    made = create_event_client(
        first.db,
        create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "product_id"]),
        create_projections_table(schema="my_app", name=name),
        UserEvent,
        plugins=plugins,
    )
    made.create_tables()
    return made


def test_snapshots_in_every_table_are_deleted(
    make_client: Callable[..., EventClient], client: EventClient, encryption: Encryption
) -> None:
    """Whichever projections table a client of this log has saved them to; a table that is gone is named."""
    client.save_event(ANN)
    second, third = (views_of(make_client, name, Encryption(RULES)) for name in ("more", "gone"))
    for one in (client, second, third):
        UserProjection("u1", one).save_projection()
    third.db.execute_sql("ALTER TABLE my_app.gone RENAME TO elsewhere")
    report = encryption.forget(client, "u1")
    assert (report.deleted_snapshots, report.missing_tables) == (2, ("my_app.gone",)) and not report
    assert second.db.execute_sql("SELECT count(*) FROM my_app.more").fetchone() == (0,)


def test_snapshots_of_programs_without_the_plugin_are_found(
    open_client: Callable[..., EventClient], encryption: Encryption
) -> None:
    """One that names the subject is deleted, others are counted, also what was saved on top of them."""

    class Everybody(UserProjection):
        projection_type = "EVERYBODY"

        def get_event_identifiers(self) -> dict[str, str]:
            return {}

        def get_streams(self) -> Any:
            return [stream(UserEvent)]

    bare = open_client()
    bare.save_event(ANN)
    UserProjection("u1", bare).save_projection()
    Everybody("all", bare).save_projection()
    client = open_client(encryption)
    client.save_event(UserMoved("u2", {"city": "Cork"}))
    Everybody("all", client).save_projection()
    report = encryption.forget(client, "u1")
    assert (report.deleted_snapshots, report.unknown_snapshots) == (1, 1)
    assert encryption.forget(client, "u2").deleted_snapshots == 1  # noted, when it was saved with the plugin
    assert Everybody("all", client).save_projection().status == "created"
    report = encryption.forget(client, "u3")
    assert (report.deleted_snapshots, report.unknown_snapshots) == (0, 0)


def test_a_snapshot_of_events_in_the_clear_is_noted(
    open_client: Callable[..., EventClient], encryption: Encryption
) -> None:
    """Whose they are is told by the rule, where no metadata say it."""
    open_client().save_event(ANN)
    client = open_client(encryption)
    UserProjection("u1", client).save_projection()
    client.db.execute_sql(
        "UPDATE my_app.views SET data = data - 'id'"
    )  # so that it does not name the subject
    assert encryption.forget(client, "u1").deleted_snapshots == 1


def test_a_snapshot_that_is_saved_without_its_events_is_of_unknown_content(
    client: EventClient, encryption: Encryption
) -> None:
    """`save_snapshot` takes a view that a program has folded by itself: nobody knows whose data it holds."""
    saved = client.save_event(ANN)
    client.save_snapshot(UserProjection("all", client), User("all", ANN.email), saved.id)
    assert encryption.forget(client, "u1").unknown_snapshots == 1
    client.save_snapshot(UserProjection("u1", client), User("u1", ANN.email), saved.id)
    assert encryption.forget(client, "u1").deleted_snapshots == 1


def test_a_snapshot_whose_base_was_deleted_meanwhile_is_not_saved(
    open_client: Callable[..., EventClient], encryption: Encryption, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody knows whose data the base held."""
    bare = open_client()
    bare.save_event(ANN)
    UserProjection("u1", bare).save_projection()
    client, other = open_client(encryption), open_client(Encryption(RULES))
    client.save_event({"type": "USER_MOVED", "data": {"user_id": "u1", "address": {"city": "Bath"}}})
    projection = UserProjection("u1", client)
    note = Snapshots.note

    def note_then_delete(self: Snapshots, key: Any) -> Any:
        found = note(self, key)
        other.db.execute_sql("DELETE FROM my_app.views")
        return found

    monkeypatch.setattr(Snapshots, "note", note_then_delete)
    with pytest.raises(RetryableError, match="the snapshot that it starts from was deleted while USER u1"):
        projection.save_projection()


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_forgetting_waits_for_a_snapshot_that_is_being_saved(
    open_client: Callable[..., EventClient], encryption: Encryption, is_encrypted: bool
) -> None:
    """It is deleted as soon as it is committed, also one of events in the clear, whose subject had no key."""
    plain = open_client()
    if not is_encrypted:
        plain.save_event(ANN)
    client, other = open_client(encryption), open_client(Encryption(RULES))
    if is_encrypted:
        client.save_event(ANN)
    reports: list[Forgotten] = []
    forgetting = threading.Thread(target=lambda: reports.append(encryption.forget(other, "u1")))
    with client.db.atomic():
        UserProjection("u1", client).save_projection()
        forgetting.start()
        time.sleep(0.3)
        assert not reports
    forgetting.join(20)
    assert reports[0].deleted_snapshots == 1
    assert client.get_projection(UserProjection, "u1") is None


@pytest.mark.parametrize("subject", [None, "", True, 1.5, "\ud800", "a\0b", "x" * 501, 2**70, ["u1"]])
def test_a_subject_is_a_text_or_a_number(client: EventClient, encryption: Encryption, subject: Any) -> None:
    """Anything else is refused in words, when it is forgotten and when it is saved."""
    with pytest.raises(ConfigurationError, match="a subject is a text of 1 to 500 characters"):
        encryption.forget(client, subject)
    with pytest.raises(EventEncodeError):
        client.save_event({"type": "NOTE_WRITTEN", "data": {"about": subject, "text": "hm"}})
    assert len(client.get_event_stream()) == 0


def test_a_subject_is_forgotten_by_its_uuid(client: EventClient, encryption: Encryption) -> None:
    """As it is given to `stream()`."""
    subject = UUID("00000000-0000-4000-8000-000000000001")
    client.save_event({"type": "NOTE_WRITTEN", "data": {"about": str(subject), "text": "hm"}})
    assert encryption.forget(client, subject).had_key


@pytest.mark.parametrize(
    "types", [UserRegistered, "USER_REGISTERED", ["USER_REGISTERED", "OTHER"], None, [UserRegistered]]
)
def test_an_encrypted_field_is_no_identifier(client: EventClient, encryption: Encryption, types: Any) -> None:
    """It would find nothing: reads, conditions and decisions are refused, however the types are named."""
    client.save_event(UserRegistered("u1", "ada@example.org"))
    by_email = stream(types, email="ada@example.org")
    for call in (
        lambda: client.get_event_streams([by_email]),
        lambda: list(client.iter_event_streams([by_email])),
        lambda: client.save_event_with_stream_validation(UserRegistered("u2", "x"), 0, [by_email]),
        lambda: client.get_latest_event(types, email="ada@example.org"),
    ):
        with pytest.raises(ConfigurationError, match=r"'USER_REGISTERED' is found by 'email'.*encrypted"):
            call()
    assert len(client.get_event_stream()) == 1
    client.plugins.unregister("Encryption")
    assert client.get_event_streams([by_email]) == []


def test_forgetting_takes_a_client_and_sees_everything(client: EventClient, encryption: Encryption) -> None:
    """Arguments the other way round, and a transaction with a frozen snapshot, are refused in words."""
    with pytest.raises(ConfigurationError, match=r"takes an EventClient first, not 'u1'"):
        encryption.forget("u1", client)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedTransactionError, match="REPEATABLE READ"), client.db.atomic():
        client.db.execute_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        encryption.forget(client, "u1")


# -- what is refused ----------------------------------------------------------


def test_a_client_without_the_plugin_cannot_save_personal_fields_in_the_clear(
    client: EventClient, open_client: Callable[..., EventClient], make_client: Callable[..., EventClient]
) -> None:
    """Neither by classes or dicts, in batches, imports and SQL; other fields and types are free."""
    bare = make_client(event_types=UserEvent)
    note = {"type": "NOTE_WRITTEN", "data": {"about": 7, "text": "likes tea"}}
    for given in (ANN, MOVED, note, {"type": "ADDRESS_CHANGED", "data": {"user_id": "u1", "address": {}}}):
        with pytest.raises(EventEncodeError, match="is personal and not encrypted; nothing was written"):
            bare.save_event(given)
    with pytest.raises(EventEncodeError, match="'text' is personal"):
        bare.save_events([{"type": "OTHER", "data": {"x": 1}}] * 200 + [note])
    call = "SELECT my_app.events_append(%s)"
    with pytest.raises(EventEncodeError, match="'text' is personal"):
        bare.session.execute(call, [json.dumps([note])])
    assert len(bare.get_event_stream()) == 0
    bare.save_events(
        [{"type": "OTHER", "data": {"text": "hm"}}, {"type": "NOTE_WRITTEN", "data": {"about": 7}}]
    )
    client.save_event(note)
    exported = client.db.execute_sql("SELECT type, data, metadata FROM my_app.events WHERE metadata <> '{}'")
    for kind, data, metadata in exported.fetchall():  # what is encrypted may be imported
        bare.save_event({"type": kind, "data": data}, metadata=metadata)
    assert [one.data.get("text") for one in client.get_event_stream("NOTE_WRITTEN")] == [
        None,
        *["likes tea"] * 2,
    ]


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        [],
        {},
        {"$encrypted": None},
        {"$encrypted": 5},
        {"$encrypted": ""},
        {"$encrypted": "ann@example.org"},
    ],
)
def test_what_looks_encrypted_and_is_not_is_refused(
    client: EventClient, make_client: Callable[..., EventClient], value: Any
) -> None:
    """At the door, by the database: nobody could read it."""
    bare = make_client(event_types=UserEvent)
    with pytest.raises(EventEncodeError, match="'text' is personal"):
        bare.save_event(
            {"type": "NOTE_WRITTEN", "data": {"about": 7, "text": value}}, metadata={"encrypted_for": "7"}
        )
    with pytest.raises(EventEncodeError, match=r"'x' holds \"\$encrypted\", and no rule names it"):
        bare.save_event(
            {"type": "OTHER", "data": {"x": {"$encrypted": value}}}, metadata={"encrypted_for": "7"}
        )


@pytest.mark.parametrize("value", [None, 5, "", "%%%", "AAAA", {"a": 1}])
def test_a_changed_ciphertext_is_pgevents_own_error(client: EventClient, value: Any) -> None:
    """Whatever stands there in its place."""
    client.save_event(ANN)
    with client.maintenance("test"):
        client.db.execute_sql(
            "UPDATE my_app.events SET data = jsonb_set(data, '{email,$encrypted}', %s)", [json.dumps(value)]
        )
    with pytest.raises(
        EventDecodeError, match="event 1 of type 'USER_REGISTERED', field 'email': it was"
    ) as caught:
        client.get_event_stream()
    assert (caught.value.event_id, caught.value.field) == (1, "email")


def test_a_value_moved_to_another_subject_or_field_does_not_decrypt(client: EventClient) -> None:
    """Ciphertext is bound to event type, field and subject."""
    client.save_events(
        [UserRegistered("u1", "ann@example.org", None), UserRegistered("u2", "bob@example.org")]
    )
    for change in ("'{email}', data->'born'", "'{user_id}', '\"u2\"'"):
        with client.db.atomic() as transaction:
            with client.maintenance("test"):
                client.db.execute_sql(
                    f"UPDATE my_app.events SET data = jsonb_set(data, {change}) WHERE id = 1"
                )
            if "user_id" in change:  # the mark goes with it
                with client.maintenance("test"):
                    client.db.execute_sql(
                        """UPDATE my_app.events SET metadata = '{"encrypted_for": "u2"}' WHERE id = 1"""
                    )
            with pytest.raises(
                EventDecodeError, match="encrypted with another key, for another event, or changed"
            ):
                client.get_event_stream(UserRegistered)
            transaction.rollback()


def test_a_missing_key_is_an_error_and_no_redaction(client: EventClient) -> None:
    """A row that was lost, in a restore say, does not stand for somebody who was forgotten."""
    client.save_event(ANN)
    client.db.execute_sql("DELETE FROM my_app.events_keys WHERE subject = 'u1'")
    with pytest.raises(EventDecodeError, match="event 1 .* its subject's key is missing"):
        client.get_event_stream()
    with client.maintenance("test"):
        client.db.execute_sql("UPDATE my_app.events SET metadata = '{}'")
    with pytest.raises(EventDecodeError, match="event 1 .* the metadata lack 'encrypted_for'"):
        client.get_event_stream()


def test_a_wrong_master_key_is_noticed_before_a_save_and_not_needed_to_forget(
    open_client: Callable[..., EventClient], make_client: Callable[..., EventClient]
) -> None:
    """A new subject's key would be wrapped with it: nothing is written, neither event nor key."""
    client = open_client(Encryption(RULES, master_key=b"m" * 32))
    for other in (b"n" * 32, None):
        wrong = make_client(event_types=UserEvent, plugins=[Encryption(RULES, master_key=other)])
        with pytest.raises(ConfigurationError, match="master key"):
            wrong.save_event(ANN)
    assert client.db.execute_sql("SELECT subject FROM my_app.events_keys").fetchall() == [("",)]
    client.save_event(ANN)
    bare = Encryption(RULES)
    assert bare.forget(make_client(event_types=UserEvent, plugins=[bare]), "u1").had_key
    assert client.get_event_stream()[0].data.email == "[redacted]"


def test_a_client_whose_rules_the_table_does_not_know_is_refused(
    client: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """Else others could save its fields in the clear; and two programs agree on whose a field is."""
    newer = {**RULES, "RANG": Personal("about", {"phone": ""})}
    other = make_client(event_types=UserEvent, plugins=[Encryption(newer)])
    with pytest.raises(NotInstalledError, match="does not name 'phone' of 'RANG'.*create_tables"):
        other.save_event({"type": "RANG", "data": {"about": 7, "phone": "1"}})
    other.create_tables()
    other.save_event({"type": "RANG", "data": {"about": 7, "phone": "1"}})
    third = make_client(plugins=[Encryption({"RANG": Personal("whom", {"phone": ""})})])
    with pytest.raises(ConfigurationError, match="'phone' belongs to 'whom' here, and to 'about' in"):
        third.create_tables()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), "\ud800", "a\0b", object(), {1: "a", "1": "b"}]
)
def test_a_value_without_a_form_in_json_is_refused(client: EventClient, value: Any) -> None:
    """An error of pgevents' own that names type and field, and not the value."""
    with pytest.raises(EventEncodeError, match="NOTE_WRITTEN") as caught:
        client.save_event({"type": "NOTE_WRITTEN", "data": {"about": 7, "text": {"x": value}}})
    assert repr(value) not in str(caught.value)
    assert len(client.get_event_stream()) == 0


def test_personal_values_stay_out_of_error_texts(
    client: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """Of a save, of a read, and of what caused them; field and class are named."""
    for data in (
        {"email": 5_550_100},
        {"email": "x", "born": "5550100"},
        {"email": "x", "born": [5_550_100]},
    ):
        with pytest.raises(EventEncodeError, match="USER_REGISTERED, field") as caught:
            client.save_event({"type": "USER_REGISTERED", "data": {"user_id": "u1", **data}})
        assert "5550100" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(EventEncodeError) as caught:
        client.save_event(UserRegistered("u1", "x", "5550100"))  # type: ignore[arg-type]
    assert "5550100" not in "".join(traceback.format_exception(caught.value)).partition("Traceback")[0]
    dicts = make_client(event_types=[], plugins=[Encryption({"CALLED": Personal("about", {"phone": ""})})])
    dicts.create_tables()
    dicts.save_event({"type": "CALLED", "data": {"about": "u1", "phone": "5550100"}})

    @event("CALLED")
    class Called:
        about: str
        phone: int

    rule = Personal("about", {"phone": 0})
    reader = make_client(event_types=Called, plugins=[Encryption({Called: rule})])
    with pytest.raises(EventDecodeError, match="event 1 of type 'CALLED', field 'phone'") as read:
        reader.get_event_stream()
    assert "5550100" not in "".join(traceback.format_exception(read.value))

    @event("CALLED", version=2, upcasters={1: lambda data: data["phone"]})
    class CalledLater:
        about: str
        phone: str

    later = make_client(
        event_types=CalledLater, plugins=[Encryption({CalledLater: Personal("about", {"phone": ""})})]
    )
    with pytest.raises(EventDecodeError, match="upcaster from version 1 returned str") as wrong:
        later.get_event_stream()
    assert "5550100" not in "".join(traceback.format_exception(wrong.value))
    with pytest.raises(EventEncodeError, match="'text' is personal") as raised:
        make_client().save_event({"type": "NOTE_WRITTEN", "data": {"about": "u1", "text": "5550100"}})
    assert "5550100" not in str(raised.value)


def test_metadata_cannot_pretend_that_an_event_is_redacted(client: EventClient) -> None:
    """Its snapshots would not be found when the subject is forgotten."""
    with pytest.raises(EventEncodeError, match="only encryption writes 'redacted'"):
        client.save_event(ANN, metadata={"redacted": True})


@pytest.mark.parametrize("master_key", [None, b"m" * 32])
def test_no_statement_holds_a_key(
    make_client: Callable[..., EventClient], master_key: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What a server with log_statement = all writes down does not open the data."""
    plugin = Encryption(RULES, master_key=master_key)
    client = make_client(event_types=UserEvent, plugins=[plugin])
    statements: list[str] = []
    execute = client.db.execute_sql

    def listening(sql: str, params: Any = None, *more: Any) -> Any:
        cursor = client.db.connection().cursor()
        statements.append(cursor.mogrify(sql, params or ()).decode())
        return execute(sql, params, *more)

    client.db.execute_sql = listening  # type: ignore[method-assign]
    client.create_tables()
    client.save_events([ANN, MOVED])
    plugin.forget(client, "u2")
    rows = execute("SELECT encode(key, 'hex') FROM my_app.events_keys WHERE key IS NOT NULL").fetchall()
    assert len(rows) == 2 and len({key for (key,) in rows}) == 2
    text = "\n".join(statements)
    assert "events_keys" in text and "USER_REGISTERED" in text
    keys = KeyTable(master_key).find(client, ["", "u1"])
    assert not any(key is not None and key.hex() in text.replace("\\x", "") for key in keys.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Encryption([UserRegistered]), "Encryption takes a rule for each event type, in a dict"),  # type: ignore[arg-type]
        (lambda: Encryption({UserRegistered: {"email": ""}}), "is a Personal"),  # type: ignore[dict-item]
        (
            lambda: Encryption(
                {
                    UserRegistered: Personal("user_id", {"email": ""}),
                    "USER_REGISTERED": Personal("user_id", {"born": None}),
                }
            ),
            "two rules for the event type 'USER_REGISTERED'",
        ),
        (lambda: Personal("user_id", {}), "maps each personal field"),
        (lambda: Personal("user_id", ["email"]), "maps each personal field"),  # type: ignore[arg-type]
        (lambda: Personal(UserRegistered, {"email": ""}), "named by a text"),  # type: ignore[arg-type]
        (lambda: Personal("user_id", {5: ""}), "named by a text, not 5"),  # type: ignore[dict-item]
        (lambda: Personal("user_id", {"born": date(1, 1, 1)}), "the redacted value of 'born' is JSON"),
        (lambda: Personal("user_id", {"born": float("nan")}), "the redacted value of 'born' is JSON"),
        (lambda: Encryption(RULES, master_key=b"abc"), "32 bytes"),
        (lambda: Encryption(RULES, master_key="m" * 32), "32 bytes"),  # type: ignore[arg-type]
    ],
)
def test_options_of_the_wrong_kind_are_refused(make: Callable[[], Any], message: str) -> None:
    """When the plugin is made, in words."""
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_a_misspelt_type_is_refused(make_client: Callable[..., EventClient]) -> None:
    """Its events would be saved in the clear; a name that differs in a number only is another type."""
    rule = Personal("user_id", {"email": ""})
    with pytest.raises(ConfigurationError, match="'USER_REGISTRED'; did you mean 'USER_REGISTERED'"):
        make_client(event_types=UserEvent, plugins=[Encryption({"USER_REGISTRED": rule})])
    make_client(event_types=UserEvent, plugins=[Encryption({"USER_REGISTERED_2": rule})])


def test_a_table_without_a_schema_has_its_own_rules(url: str) -> None:
    """The trigger finds them, whatever the search_path of who saves."""
    plugin = Encryption({"NOTE_WRITTEN": Personal("about", {"text": ""})})
    note = {"type": "NOTE_WRITTEN", "data": {"about": 7, "text": "hm"}}
    for plugins in ([plugin], []):
        client = create_event_client(
            database(url), create_events_table(), create_projections_table(), plugins=plugins
        )
        if plugins:
            client.create_tables()
            client.save_event(note)
        else:
            with pytest.raises(EventEncodeError, match="'text' is personal"):
                client.save_event(note)
        client.db.close()


# -- under roles ----------------------------------------------------


@pytest.fixture
def roles(url: str) -> Iterator[dict[str, str]]:
    """A role that saves, one that reads, and one that forgets, with the grants that the docs name."""
    page = (Path(__file__).parent.parent / "docs/explanation/security.md").read_text(encoding="utf-8")
    grants = re.search(r"```sql\n(-- saves.*?)```", page, re.DOTALL)
    assert grants is not None
    owner: Any = psycopg2.connect(url)
    owner.autocommit = True
    cursor, name = owner.cursor(), parse_dsn(url)["dbname"]
    made = {kind: f"{name}_{kind}" for kind in ("writer", "reader", "privacy")}
    for role in made.values():
        cursor.execute(f"CREATE ROLE {role} LOGIN")
    setup = database(url)
    shop_client(setup, UserEvent, plugins=[Encryption(RULES)]).create_tables(
        grant_writer=made["writer"], grant_reader=made["reader"]
    )
    setup.close()
    cursor.execute(f"GRANT {made['reader']} TO {made['privacy']}")
    sql = grants[1]
    for kind, role in made.items():
        sql = sql.replace(f"shop_{kind}", role)
    cursor.execute(sql)
    yield {kind: make_dsn(**{**parse_dsn(url), "user": role}) for kind, role in made.items()}
    for role in made.values():
        cursor.execute(f"DROP OWNED BY {role}")
        cursor.execute(f"DROP ROLE {role}")
    owner.close()


def test_each_role_can_do_its_part_and_no_more(roles: dict[str, str]) -> None:
    """The writer saves, reads and snapshots, and cannot forget; the reader reads; one role only forgets."""
    clients, plugins = dict[str, EventClient](), dict[str, Encryption]()
    for kind, url in roles.items():
        plugins[kind] = Encryption(RULES)
        clients[kind] = shop_client(database(url), UserEvent, plugins=[plugins[kind]])
    writer = clients["writer"]
    writer.save_events([ANN, MOVED])
    assert UserProjection("u1", writer).save_projection().status == "created"
    writer.save_event(MOVED)
    assert UserProjection("u1", writer).save_projection().status == "updated"
    assert UserProjection("u1", clients["reader"]).view.email == ANN.email
    for statement in ("UPDATE my_app.events_keys SET key = NULL", "DELETE FROM my_app.events_keys"):
        with pytest.raises(PgEventsError, match="permission denied"):
            writer.session.execute(statement)
    for kind in ("writer", "reader"):
        with pytest.raises(PgEventsError, match="permission denied"):
            plugins[kind].forget(clients[kind], "u1")
    with pytest.raises(PgEventsError, match="permission denied"):
        clients["privacy"].save_event(ANN)
    report = plugins["privacy"].forget(clients["privacy"], "u1")
    assert report.is_complete and report.deleted_snapshots == 1
    assert clients["reader"].get_latest_event(UserRegistered).data.email == "[redacted]"  # type: ignore[union-attr]
    for client in clients.values():
        client.db.close()
