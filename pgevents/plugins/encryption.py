"""Personal data that can be forgotten while the log stays as it is (`pip install "pgevents-store[crypto]"`).

Chosen fields of chosen events are encrypted with a key of their subject, which stands in a table beside the
events. Forgetting a subject deletes the key: the events stay, and reads give redacted values in place of the
fields.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from uuid import UUID

import attrs

from pgevents import (
    ConfigurationError,
    EventClient,
    EventDecodeError,
    EventEncodeError,
    NewEvent,
    Snapshot,
    StoredEvent,
    UnsupportedTransactionError,
    hookimpl,
)
from pgevents.plugins._cipher import MARK, Cipher, encrypted_fields
from pgevents.plugins._forgetting import (
    Forgotten,
    SnapshotNotes,
    events_in_clear,
    folded_too_early,
    is_early,
    overwrite,
)
from pgevents.plugins._keys import KeyTable, SubjectForgottenError
from pgevents.plugins._personal import LONGEST_SUBJECT, Personal, rules_of, subject_text
from pgevents.plugins._ruled import RuledFields

__all__ = ["Encryption", "Forgotten", "Personal", "SubjectForgottenError"]

SUBJECT = "encrypted_for"
REDACTED = "redacted"


class Encryption:
    """Encrypts personal fields, and forgets subjects.

    `client.create_tables()` makes three tables: `<events>_keys` with a key for each subject,
    `<events>_key_uses` with whose data each snapshot holds, and `<events>_personal` with the fields of the
    rules. A trigger reads the last one: from then on nobody can append these fields in the clear, neither a
    client without the plugin, nor the command line, nor SQL. Rules are only added; to take one away, delete
    its row. An event that has encrypted fields says in its metadata for whom (`encrypted_for`), and once
    that subject is forgotten, `redacted`.

    Encryption is deterministic (AES-SIV), so a repeat with an idempotency key is recognised; equal values of
    one subject in one field look equal. A value is bound to event type, field and subject. Identifiers (data
    indexes) cannot be encrypted: streams and locks go by them. A save takes one query more for the keys, and
    so does each read that meets personal fields.

    No SQL statement holds a key: without a master key the server makes them, with one they are sent wrapped.
    What forgetting does not reach is listed in [Security](../explanation/security.md#forgetting).

    Args:
        personal: The rule for each event type, by its class or name.
        master_key: 32 bytes that subjects' keys are wrapped with, so that the database alone does not give
            the data away; keep it elsewhere. Without it the keys stand in the table as they are.

    Raises:
        ConfigurationError: A rule that cannot work, or `cryptography` is not installed.

    Example:
        ```python
        from pgevents.plugins.encryption import Encryption, Personal

        personal = {"USER_REGISTERED": Personal(subject="user_id", fields={"email": "[redacted]"})}
        encryption = Encryption(personal)
        client = create_event_client(db, events, views, plugins=[encryption])
        client.create_tables()
        report = encryption.forget(client, "u1")
        if not report:
            print("what stays:", report.events_in_clear, report.unknown_snapshots)
        ```
    """

    def __init__(self, personal: Mapping[Any, Personal], *, master_key: bytes | None = None) -> None:
        self._cipher, self._keys, self._notes = Cipher(), KeyTable(master_key), SnapshotNotes()
        self._rules = rules_of(personal)
        self._ruled = RuledFields(
            (event_type, field, rule.subject)
            for event_type, rule in self._rules.items()
            for field in rule.fields
        )
        self._checked: set[tuple[str, type[Any]]] = set()

    def forget(
        self, client: EventClient, subject: str | int | UUID, *, maintenance: str | None = None
    ) -> Forgotten:
        """Delete a subject's key, for ever, and the snapshots that hold its data; safe to repeat.

        Inside `db.atomic()` it is part of that transaction. Later events with its personal data are refused.
        No master key is needed.

        Args:
            client: The client whose log the subject is in.
            subject: As the events name it.
            maintenance: A reason: then personal fields that were saved in the clear are overwritten with
                their redacted values, under `client.maintenance(reason)`. Only the tables' owner may do that.

        Returns:
            What was deleted, and what was found that stays.

        Raises:
            ConfigurationError: Not a subject, or not a client.
            UnsupportedTransactionError: The transaction is not READ COMMITTED.
        """
        if not isinstance(client, EventClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"forget(client, subject) takes an EventClient first, not {client!r}")
        name = subject_text(subject)
        if name is None:
            raise ConfigurationError(
                f"a subject is a text of 1 to {LONGEST_SUBJECT} characters, an integer or a UUID"
            )
        changing = nullcontext() if maintenance is None else client.maintenance(maintenance)
        with client.session.atomic(), changing:
            (level,) = client.session.execute("SELECT current_setting('transaction_isolation')").fetchone()
            if level not in ("read committed", "read uncommitted"):
                raise UnsupportedTransactionError(
                    f"this transaction is {level.upper()}, which misses snapshots: use READ COMMITTED"
                )
            had_key = self._keys.forget(client, name)
            deleted, unknown, missing = self._notes.delete(client, name)
            in_clear = events_in_clear(client, name)
            if in_clear and maintenance is not None:
                overwrite(client, in_clear, name, {kind: rule.fields for kind, rule in self._rules.items()})
                in_clear = events_in_clear(client, name)
        return Forgotten(name, had_key, deleted, in_clear, unknown, missing)

    # -- hooks ------------------------------------------------------------

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """Refuse rules that this client's tables or classes do not fit."""
        client.serializer.personal |= self._rules.keys()
        for name in self._rules:
            self._check(client, name)

    @hookimpl
    def pgevents_hidden_fields(self) -> dict[str, list[str]]:
        """Encrypted fields: no stream finds events by them."""
        return {name: list(rule.fields) for name, rule in self._rules.items()}

    @hookimpl
    def pgevents_create_tables(self, client: EventClient) -> None:
        """Make the tables, and the trigger that refuses personal fields in the clear."""
        self._keys.create(client)
        self._notes.create(client)
        self._ruled.create(client)

    @hookimpl(trylast=True)
    def pgevents_before_save(self, client: EventClient, events: Sequence[NewEvent]) -> list[NewEvent] | None:
        """Encrypt, after other plugins have seen the data."""
        data = [client.serializer.encode(new.data, new.type) for new in events]
        for new, plain in zip(events, data, strict=True):
            forged = encrypted_fields(plain)
            if forged:
                raise EventEncodeError(
                    f"{new.type}: {next(iter(forged))!r} holds {MARK!r}, which only encryption may write"
                )
        subjects = {n: self._subject(new, data[n]) for n, new in enumerate(events) if new.type in self._rules}
        if not subjects:
            return None
        self._ruled.check(client)
        keys = self._keys.make(client, sorted(set(subjects.values())))
        made = list(events)
        for n, subject in subjects.items():
            self._check(client, events[n].type)
            made[n] = self._encrypted(events[n], data[n], subject, keys[subject])
        return made

    @hookimpl(tryfirst=True)
    def pgevents_before_decode(
        self, client: EventClient, events: Sequence[StoredEvent]
    ) -> list[StoredEvent] | None:
        """Decrypt, or put the redacted values in place."""
        subjects = [self._subject_of(stored) for stored in events]
        wanted = sorted({subject for subject in subjects if subject is not None})
        if not wanted:
            return None
        keys = self._keys.find(client, wanted)
        return [self._shown(stored, subject, keys) for stored, subject in zip(events, subjects, strict=True)]

    @hookimpl
    def pgevents_before_snapshot(self, client: EventClient, snapshot: Snapshot) -> None:
        """Note whose data the snapshot holds; refuse one that was folded before somebody was forgotten."""
        encrypted, in_clear = set[str](), set[str]()
        for event in snapshot.events:
            subject = event.metadata.get(SUBJECT)
            if event.metadata.get(REDACTED) is True:
                continue
            if isinstance(subject, str):
                encrypted.add(subject)
            elif event.type in self._rules:
                data = client.serializer.encode(event.data, event.type)
                subject = subject_text(data.get(self._rules[event.type].subject))
                in_clear |= set() if subject is None else {subject}
        subjects = sorted(encrypted | in_clear)
        if subjects:
            client.serializer.personal.add(snapshot.type)
        try:
            if in_clear:
                self._keys.make(client, sorted(in_clear))  # a row that forgetting waits for
        except SubjectForgottenError:
            raise folded_too_early(snapshot, "a subject was forgotten") from None
        for subject, forgotten_at in self._keys.hold(client, subjects, snapshot.type, snapshot.id):
            if is_early(subject, forgotten_at, subjects, snapshot.base_saved_at):
                raise folded_too_early(snapshot, "a subject was forgotten")
        self._notes.note(client, snapshot, subjects)

    # -- how ------------------------------------------------------------

    def _check(self, client: EventClient, name: str) -> None:
        rule = self._rules[name]
        for field in client.events.pgevents_spec.data_indexes:
            if field.split(".")[0] in rule.fields and not field.startswith("metadata."):
                raise ConfigurationError(
                    f"{name}: {field!r} is a data index; identifiers cannot be encrypted"
                )
        kind = client.types.find(name)
        if kind is None:
            near = client.types.nearest(name)
            if near is not None:
                raise ConfigurationError(f"no event type is named {name!r}; did you mean {near!r}?")
            return
        if (name, kind.cls) in self._checked:
            return
        known = attrs.fields_dict(attrs.resolve_types(kind.cls))
        for field, redacted in {rule.subject: None, **rule.fields}.items():
            if field not in known:
                raise ConfigurationError(
                    f"{name}: {kind.cls.__qualname__} has no field {field!r}; it has {', '.join(known)}"
                )
            wanted: Any = known[field].type
            if field != rule.subject and wanted is not None:
                try:
                    client.serializer.converter.structure(redacted, wanted)
                except Exception as error:
                    raise ConfigurationError(
                        f"{name}: {redacted!r} does not fit {field!r}, so redacted events could not be read"
                    ) from error
        self._checked.add((name, kind.cls))

    def _subject(self, new: NewEvent, data: Mapping[str, Any]) -> str:
        field = self._rules[new.type].subject
        subject = subject_text(data.get(field))
        if subject is None:
            raise EventEncodeError(
                f"{new.type}: {field!r} says whose personal data these are: a text of 1 to {LONGEST_SUBJECT} "
                f"characters without control characters, or an integer, not {_kind(data.get(field))}"
            )
        if new.metadata.get(REDACTED) is not None:
            raise EventEncodeError(
                f"{new.type}: only encryption writes {REDACTED!r} into the metadata of this type"
            )
        return subject

    def _encrypted(self, new: NewEvent, data: dict[str, Any], subject: str, key: bytes) -> NewEvent:
        hidden = {
            field: self._cipher.encrypt(key, new.type, field, subject, data[field])
            for field in self._rules[new.type].fields
            if field in data
        }
        return attrs.evolve(new, data={**data, **hidden}, metadata={**new.metadata, SUBJECT: subject})

    def _subject_of(self, stored: StoredEvent) -> str | None:
        """Whose personal fields a stored event holds, encrypted or in the clear; None if it holds none."""
        subject = stored.metadata.get(SUBJECT)
        if isinstance(subject, str):
            return subject
        rule = self._rules.get(stored.type)
        if rule is None:
            return None
        hidden = encrypted_fields(stored.data)
        if hidden:
            field = next(iter(hidden))
            raise _unreadable(stored, field, f"is encrypted, and the metadata lack {SUBJECT!r}, its subject")
        return (
            subject_text(stored.data.get(rule.subject)) if rule.fields.keys() & stored.data.keys() else None
        )

    def _shown(
        self, stored: StoredEvent, subject: str | None, keys: Mapping[str, bytes | None]
    ) -> StoredEvent:
        if subject is None:
            return stored
        hidden = encrypted_fields(stored.data)
        if subject in keys and keys[subject] is None:
            return self._redacted(stored, hidden)
        if not hidden:
            return stored
        key = keys.get(subject)
        if key is None:
            field = next(iter(hidden))
            raise _unreadable(
                stored, field, "its subject's key is missing: the row is not in the table of keys; restore it"
            )
        shown = {
            field: self._cipher.decrypt(key, stored.id, stored.type, field, subject, secret)
            for field, secret in hidden.items()
        }
        return attrs.evolve(stored, data={**stored.data, **shown})

    def _redacted(self, stored: StoredEvent, hidden: Mapping[str, Any]) -> StoredEvent:
        """The event of a forgotten subject, also where it was saved in the clear."""
        rule = self._rules.get(stored.type)
        values: Mapping[str, Any] = {} if rule is None else rule.fields
        fields = [field for field in stored.data if field in hidden or field in values]
        if not fields:
            return stored
        shown = {field: copy.deepcopy(values.get(field, "[redacted]")) for field in fields}
        return attrs.evolve(
            stored, data={**stored.data, **shown}, metadata={**stored.metadata, REDACTED: True}
        )


def _kind(value: object) -> str:
    return "None" if value is None else "this text" if isinstance(value, str) else type(value).__name__


def _unreadable(stored: StoredEvent, field: str, reason: str) -> EventDecodeError:
    return EventDecodeError(
        f"event {stored.id} of type {stored.type!r}, field {field!r}: {reason}",
        event_id=stored.id,
        event_type=stored.type,
        field=field,
    )
