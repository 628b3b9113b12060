"""Encryption per subject: the log stays, the data can be forgotten."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from attrs import frozen

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    EventDecodeError,
    EventEncodeError,
    ProjectionBase,
    RetryableError,
    event,
    pipeline,
    stream,
)
from pgevents.plugins.encryption import Encryption, Personal, SubjectForgottenError
from pgevents.snapshots import Snapshots


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
    assert saved[2].metadata == {"encrypted_for": "7"}


def test_who_is_forgotten_is_redacted_everywhere(client: EventClient, encryption: Encryption) -> None:
    """The events stay, with the redacted values; other subjects are as they were; snapshots are folded
    anew."""
    client.save_events([ANN, MOVED, UserRegistered("u2", "bob@example.org")])
    for user in ("u1", "u2"):
        UserProjection(user, client).save_projection()
    assert "ann@" in stored(client)  # a snapshot holds the view
    assert encryption.forget(client, "u1") is True
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
    assert encryption.forget(client, "u1") is False


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
    assert client.db.execute_sql("SELECT count(*) FROM my_app.events_keys").fetchone() == (1,)


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
        (Personal("user_id", {}), "fields names what is encrypted"),
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
        EventEncodeError, match="NOTE_WRITTEN: 'about' says whose personal data these are; None is nobody"
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


def test_a_master_key_guards_the_key_table(open_client: Callable[..., EventClient]) -> None:
    """With it the data are read, with another or none they are not."""
    client = open_client(Encryption(RULES, master_key=b"m" * 32))
    client.save_event(ANN)
    assert client.get_latest_event(UserRegistered).data == ANN  # type: ignore[union-attr]
    for other in (b"n" * 32, None):
        with pytest.raises(
            ConfigurationError, match="not the master key that the subjects' keys were wrapped with"
        ):
            open_client(Encryption(RULES, master_key=other)).get_latest_event(UserRegistered)
    with pytest.raises(ConfigurationError, match="32 bytes, not 3"):
        Encryption(RULES, master_key=b"abc")


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
