"""Personal data that can be forgotten while the log stays as it is (`pip install "pgevents-store[crypto]"`).

Chosen fields of chosen events are encrypted with a key of their subject. Keys are kept in a table beside the
events. Forgetting a subject deletes its key: the events stay, and reads give redacted values for these
fields.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
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
from pgevents.plugins._cipher import MARK, Cipher, encrypted_fields, unreadable
from pgevents.plugins._forgetting import (
    Forgotten,
    SnapshotNotes,
    events_in_clear,
    folded_too_early,
    is_early,
    overwrite,
)
from pgevents.plugins._keys import KeyTable, SubjectForgottenError
from pgevents.plugins._personal import MAX_SUBJECT_LENGTH, Personal, rules_of, subject_text
from pgevents.plugins._ruled import RuledFields
from pgevents.plugins._tables import execute

__all__ = ["Encryption", "Forgotten", "Personal", "SubjectForgottenError"]

SUBJECT, SEAL = "encrypted_for", "encrypted_with"
REDACTED = "redacted"


REBOUND_SQL = """\
SELECT id, type, data::text, metadata::text FROM {events}
WHERE id = ANY(%s) AND jsonb_typeof(metadata->'encrypted_for') = 'string' ORDER BY id
"""
BIND_SQL = "UPDATE {events} SET data = data || %s::jsonb, metadata = metadata || %s::jsonb WHERE id = %s"


class Encryption:
    """Encrypts personal fields, and forgets subjects.

    `client.create_tables()` makes three tables: `<events>_keys` with a key for each subject,
    `<events>_key_uses` with the subjects whose data each snapshot holds, and `<events>_personal` with the
    fields of the rules. A trigger reads the last table: from then on nobody can append these fields in the
    clear, neither a client without the plugin, nor the command line, nor SQL. Rules are only added; to remove
    a rule, delete its row. The metadata of an event with encrypted fields name the subject
    (`encrypted_for`) and hold a seal of its data (`encrypted_with`). Once that subject is forgotten, a read
    adds `redacted`.

    Encryption is deterministic (AES-SIV), so that a repeat with an idempotency key is recognised: events of a
    subject with equal data have equal ciphertexts. A value is bound to event type, field, subject and all
    other data of its event, so that one that was moved from another event is refused. After a change of such
    an event under maintenance, call `rebind`.

    Identifiers (data indexes) cannot be encrypted, because streams and locks use them. A save needs
    an additional query for the keys, and so does each read that meets personal fields.

    No SQL statement contains a key in the clear: without a master key the server generates keys, with one
    they are sent wrapped. [Security](../explanation/security.md#forgetting) lists what forgetting does not
    reach.

    Args:
        personal: The rule for each event type, by its class or name.
        master_key: 32 bytes that subjects' keys are wrapped with, so that the database alone does not reveal
            the data; keep it outside the database. Without it the keys are stored as they are.

    Raises:
        ConfigurationError: A rule is not valid, or `cryptography` is not installed.

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
            client: The client whose log has the subject.
            subject: The subject, as the events name it.
            maintenance: A reason. With a reason, personal fields that were saved in the clear are overwritten
                with their redacted values, under `client.maintenance(reason)`, which takes the tables' owner.

        Returns:
            What was deleted, and what stays.

        Raises:
            ConfigurationError: Not a subject, or not a client.
            UnsupportedTransactionError: The transaction is not READ COMMITTED.
        """
        if not isinstance(client, EventClient):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"forget(client, subject) takes an EventClient first, not {client!r}")
        name = subject_text(subject)
        if name is None:
            raise ConfigurationError(
                f"a subject is a text of 1 to {MAX_SUBJECT_LENGTH} characters, an integer or a UUID"
            )
        overwriting = nullcontext() if maintenance is None else client.maintenance(maintenance)
        with client.session.atomic(), overwriting:
            (level,) = client.session.execute("SELECT current_setting('transaction_isolation')").fetchone()
            if level not in ("read committed", "read uncommitted"):
                raise UnsupportedTransactionError(
                    f"this transaction is {level.upper()}, which misses snapshots: use READ COMMITTED"
                )
            had_key = self._keys.forget(client, name)
            deleted, unknown, missing = self._notes.delete(client, name)
            in_clear = events_in_clear(client, name)
            if in_clear and maintenance is not None:
                fields_by_type = {event_type: rule.fields for event_type, rule in self._rules.items()}
                overwrite(client, in_clear, name, fields_by_type)
                in_clear = events_in_clear(client, name)
        return Forgotten(name, had_key, deleted, in_clear, unknown, missing)

    def rebind(self, client: EventClient, event_ids: Iterable[int], *, maintenance: str) -> int:
        """Bind the encrypted fields of events to the other data that stand beside them now.

        Call it after other fields were changed under `client.maintenance()`, in the same transaction: until
        then these events cannot be read. It accepts whatever stands there.

        Args:
            client: The client whose log has the events.
            event_ids: Their ids.
            maintenance: Why, as for `client.maintenance(reason)`. It takes the tables' owner.

        Returns:
            How many were bound; not those without encrypted fields, and those of forgotten subjects.

        Raises:
            ConfigurationError: The ids are not whole numbers.
            EventDecodeError: An encrypted field itself was changed, or comes from another event.
        """
        ids = list(event_ids)
        if not all(type(event) is int for event in ids):
            raise ConfigurationError(f"rebind takes the ids of events, not {ids!r}")
        with client.session.atomic(), client.maintenance(maintenance):
            rows = execute(client, REBOUND_SQL, [ids]).fetchall()
            found = [
                StoredEvent(event_id, name, 1, json.loads(data), json.loads(metadata))
                for event_id, name, data, metadata in rows
            ]
            keys = self._keys.find(client, sorted({event.metadata[SUBJECT] for event in found}))
            bound = 0
            for stored in found:
                subject, fields = stored.metadata[SUBJECT], encrypted_fields(stored.data)
                key = keys.get(subject)
                if key is None and subject not in keys:
                    raise _without_key(stored, fields)
                if key is None or not fields:
                    continue
                seal = stored.metadata.get(SEAL)
                data = self._cipher.decrypt(key, stored, subject, seal, is_rebinding=True)
                seal, hidden = self._cipher.encrypt(key, stored.type, subject, data, fields)
                execute(client, BIND_SQL, [json.dumps(hidden), json.dumps({SEAL: seal}), stored.id])
                bound += 1
        return bound

    # -- hooks ------------------------------------------------------------

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """Refuse rules that do not fit this client's tables or classes."""
        client.serializer.personal |= self._rules.keys()
        for name in self._rules:
            self._check(client, name)

    @hookimpl
    def pgevents_hidden_fields(self) -> dict[str, list[str]]:
        """Name the encrypted fields, by which no stream can find events."""
        return {name: list(rule.fields) for name, rule in self._rules.items()}

    @hookimpl
    def pgevents_create_tables(self, client: EventClient) -> None:
        """Create the tables, and the trigger that refuses personal fields in the clear."""
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
        encrypted = list(events)
        for n, subject in subjects.items():
            self._check(client, events[n].type)
            encrypted[n] = self._encrypted(events[n], data[n], subject, keys[subject])
        return encrypted

    @hookimpl(tryfirst=True)
    def pgevents_before_decode(
        self, client: EventClient, events: Sequence[StoredEvent]
    ) -> list[StoredEvent] | None:
        """Decrypt, or give the redacted values."""
        subjects = [self._subject_of(stored) for stored in events]
        wanted = sorted({subject for subject in subjects if subject is not None})
        if not wanted:
            return None
        keys = self._keys.find(client, wanted)
        return [self._shown(stored, subject, keys) for stored, subject in zip(events, subjects, strict=True)]

    @hookimpl
    def pgevents_before_snapshot(self, client: EventClient, snapshot: Snapshot) -> None:
        """Note whose data the snapshot holds; refuse it if a subject was forgotten after it was folded."""
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
                self._keys.make(client, sorted(in_clear))  # rows to lock, so that forgetting waits
        except SubjectForgottenError:
            raise folded_too_early(snapshot, "a subject was forgotten") from None
        for subject, forgotten_at in self._keys.hold(client, subjects, snapshot.type, snapshot.id):
            if is_early(subject, forgotten_at, subjects, snapshot.base_saved_at):
                raise folded_too_early(snapshot, "a subject was forgotten")
        self._notes.note(client, snapshot, subjects)

    # -- encryption and decryption ------------------------------------------------------------

    def _check(self, client: EventClient, name: str) -> None:
        rule = self._rules[name]
        for field in client.events.pgevents_spec.data_indexes:
            if field.split(".")[0] in rule.fields and not field.startswith("metadata."):
                raise ConfigurationError(
                    f"{name}: {field!r} is a data index; identifiers cannot be encrypted"
                )
        event_type = client.types.find(name)
        if event_type is None:
            near = client.types.nearest(name)
            if near is not None:
                raise ConfigurationError(f"no event type is named {name!r}; did you mean {near!r}?")
            return
        if (name, event_type.cls) in self._checked:
            return
        attributes = attrs.fields_dict(attrs.resolve_types(event_type.cls))
        for field, redacted in {rule.subject: None, **rule.fields}.items():
            if field not in attributes:
                raise ConfigurationError(
                    f"{name}: {event_type.cls.__qualname__} has no field {field!r}; "
                    f"it has {', '.join(attributes)}"
                )
            wanted: Any = attributes[field].type
            if field != rule.subject and wanted is not None:
                try:
                    client.serializer.converter.structure(redacted, wanted)
                except Exception as error:
                    raise ConfigurationError(
                        f"{name}: {redacted!r} does not fit {field!r}, so redacted events could not be read"
                    ) from error
        self._checked.add((name, event_type.cls))

    def _subject(self, new: NewEvent, data: Mapping[str, Any]) -> str:
        field = self._rules[new.type].subject
        subject = subject_text(data.get(field))
        if subject is None:
            raise EventEncodeError(
                f"{new.type}: {field!r} says whose personal data these are: "
                f"a text of 1 to {MAX_SUBJECT_LENGTH} characters without control characters, or an integer, "
                f"not {_kind(data.get(field))}"
            )
        if new.metadata.get(REDACTED) is not None:
            raise EventEncodeError(
                f"{new.type}: only encryption writes {REDACTED!r} into the metadata of this type"
            )
        return subject

    def _encrypted(self, new: NewEvent, data: dict[str, Any], subject: str, key: bytes) -> NewEvent:
        fields = self._rules[new.type].fields
        seal, hidden = self._cipher.encrypt(key, new.type, subject, data, fields)
        metadata = {**new.metadata, SUBJECT: subject, SEAL: seal}
        return attrs.evolve(new, data={**data, **hidden}, metadata=metadata)

    def _subject_of(self, stored: StoredEvent) -> str | None:
        """The subject of an event's personal fields, encrypted or in the clear; None without such fields."""
        subject = stored.metadata.get(SUBJECT)
        if isinstance(subject, str):
            return subject
        rule = self._rules.get(stored.type)
        if rule is None:
            return None
        hidden = encrypted_fields(stored.data)
        if hidden:
            field = next(iter(hidden))
            raise unreadable(stored, field, f"is encrypted, and the metadata lack {SUBJECT!r}, its subject")
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
            raise _without_key(stored, hidden)
        return attrs.evolve(
            stored, data=self._cipher.decrypt(key, stored, subject, stored.metadata.get(SEAL))
        )

    def _redacted(self, stored: StoredEvent, hidden: Mapping[str, Any]) -> StoredEvent:
        """An event of a forgotten subject with redacted values, also where it was saved in the clear."""
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


def _without_key(stored: StoredEvent, hidden: Mapping[str, Any]) -> EventDecodeError:
    reason = "its subject's key is missing: the row is not in the table of keys; restore it"
    return unreadable(stored, next(iter(hidden), ""), reason)
