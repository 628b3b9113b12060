"""Personal data that can be forgotten while the log stays as it is (`pip install "pgevents[crypto]"`).

Chosen fields of chosen events are encrypted with a key of their subject, which stands in a table beside the
events.
Forgetting a subject deletes the key: the events stay, and reads give a redacted value in place of the fields.
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pgevents import (
    ConfigurationError,
    EventClient,
    EventDecodeError,
    EventEncodeError,
    EventTypes,
    NewEvent,
    RetryableError,
    Snapshot,
    StoredEvent,
    hookimpl,
)
from pgevents.plugins._extras import require
from pgevents.plugins._keys import KeyTable, SubjectForgottenError

__all__ = ["Encryption", "Personal", "SubjectForgottenError"]

MARK = "$encrypted"
SUBJECT = "encrypted_for"
REDACTED = "redacted"


@attrs.frozen
class Personal:
    """Which fields of an event are personal, and whose.

    Attributes:
        subject: The field that says whose they are: a text or a number. It is not encrypted.
        fields: Each personal field, with the value that stands in its place once the subject is forgotten; it
            must fit the field's type.
    """

    subject: str
    fields: Mapping[str, Any]


class Encryption:
    """Encrypts personal fields, and forgets subjects.

    `client.create_tables()` makes the key table `<events>_keys`, and `<events>_key_uses`, which knows the
    snapshots that
    hold personal data: forgetting deletes them, and they are folded anew, redacted. An event that has
    encrypted fields says in its metadata for whom (`encrypted_for`), and once it is forgotten, `redacted`.

    Encryption is deterministic (AES-SIV), so a repeat with an idempotency key is recognised; equal values of
    one subject in one field look equal. Identifiers (data indexes) cannot be encrypted: streams and locks go
    by them. A save takes one query more for the keys, and so does each read that meets encrypted events.

    What forgetting does not reach: backups and PostgreSQL's WAL until they expire, views and events kept in
    the memory of programs, and what other plugins or programs copied elsewhere.

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
        encryption.forget(client, "u1")
        ```
    """

    def __init__(self, personal: Mapping[Any, Personal], *, master_key: bytes | None = None) -> None:
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", "crypto")
        self._invalid = require("cryptography.exceptions", "crypto").InvalidTag
        self._keys = KeyTable(master_key)
        self._rules: dict[str, Personal] = {}
        for given, rule in personal.items():
            if rule.subject in rule.fields or not rule.fields:
                raise ConfigurationError(
                    f"{given!r}: fields names what is encrypted, and the subject {rule.subject!r} is not"
                )
            self._rules |= dict.fromkeys(EventTypes.everything.names(given) or (), rule)
        self._checked: set[tuple[str, type[Any]]] = set()

    def forget(self, client: EventClient, subject: str | int) -> bool:
        """Delete a subject's key, and the snapshots that hold its data; for ever, and safe to repeat.

        Inside `db.atomic()` it is part of that transaction. Later events with its personal data are refused.

        Args:
            client: The client whose log the subject is in.
            subject: As the events name it.

        Returns:
            Whether there was a key.
        """
        return self._keys.delete(client, str(subject))

    # -- hooks ------------------------------------------------------------

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """Refuse rules that this client's tables or classes do not fit."""
        for name in self._rules:
            self._check(client, name)

    @hookimpl
    def pgevents_create_tables(self, client: EventClient) -> None:
        """Make the key table and the table of its uses."""
        self._keys.create(client)

    @hookimpl(trylast=True)
    def pgevents_before_save(self, client: EventClient, events: Sequence[NewEvent]) -> list[NewEvent] | None:
        """Encrypt, after other plugins have seen the data."""
        data = [client.serializer.encode(new.data, new.type) for new in events]
        for new, plain in zip(events, data, strict=True):
            forged = _encrypted_fields(plain)
            if forged:
                raise EventEncodeError(
                    f"{new.type}: {next(iter(forged))!r} holds {MARK!r}, which only encryption may write"
                )
        subjects = {n: self._subject(new, data[n]) for n, new in enumerate(events) if new.type in self._rules}
        if not subjects:
            return None
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
        subjects = {one.metadata[SUBJECT] for one in events if isinstance(one.metadata.get(SUBJECT), str)}
        if not subjects:
            return None
        keys = self._keys.find(client, sorted(subjects))
        return [self._decrypted(one, keys) for one in events]

    @hookimpl
    def pgevents_before_snapshot(self, client: EventClient, snapshot: Snapshot) -> None:
        """Note whose data the snapshot holds; refuse one that was folded before somebody was forgotten."""
        plain = [event.metadata for event in snapshot.events if SUBJECT in event.metadata]
        subjects = sorted({str(one[SUBJECT]) for one in plain if not one.get(REDACTED)})
        for subject, forgotten_at in self._keys.hold(client, subjects, snapshot.type, snapshot.id):
            base = snapshot.base_saved_at
            if forgotten_at is not None and (
                subject in subjects or (base is not None and base < forgotten_at)
            ):
                raise RetryableError(
                    f"a subject was forgotten while {snapshot.type} {snapshot.id} was folded; "
                    "nothing was written: try again"
                )

    # -- how ------------------------------------------------------------

    def _check(self, client: EventClient, name: str) -> None:
        rule = self._rules[name]
        indexed = set(rule.fields) & set(client.events.pgevents_spec.data_indexes)
        if indexed:
            raise ConfigurationError(
                f"{name}: {sorted(indexed)[0]!r} is a data index; identifiers cannot be encrypted"
            )
        kind = client.types.find(name)
        if kind is None or (name, kind.cls) in self._checked:
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
                        f"{name}: {redacted!r} does not fit {field!r}, "
                        "so events could not be read once it is redacted"
                    ) from error
        self._checked.add((name, kind.cls))

    def _subject(self, new: NewEvent, data: Mapping[str, Any]) -> str:
        field = self._rules[new.type].subject
        value = data.get(field)
        if not isinstance(value, (str, int)) or isinstance(value, bool):
            raise EventEncodeError(
                f"{new.type}: {field!r} says whose personal data these are; {value!r} is nobody"
            )
        return str(value)

    def _encrypted(self, new: NewEvent, data: dict[str, Any], subject: str, key: bytes) -> NewEvent:
        cipher = self._aead.AESSIV(key)
        hidden: dict[str, Any] = {}
        for field in self._rules[new.type].fields:
            if field in data:
                text = json.dumps(data[field], sort_keys=True, allow_nan=False)
                secret = cipher.encrypt(text.encode(), [new.type.encode(), field.encode()])
                hidden[field] = {MARK: base64.b64encode(secret).decode()}
        return attrs.evolve(new, data={**data, **hidden}, metadata={**new.metadata, SUBJECT: subject})

    def _decrypted(self, one: StoredEvent, keys: Mapping[str, bytes | None]) -> StoredEvent:
        hidden = _encrypted_fields(one.data)
        if not hidden or SUBJECT not in one.metadata:
            return one
        key = keys.get(one.metadata[SUBJECT])
        if key is None:
            values: Mapping[str, Any] = self._rules[one.type].fields if one.type in self._rules else {}
            shown = {field: copy.deepcopy(values.get(field, "[redacted]")) for field in hidden}
            return attrs.evolve(one, data={**one.data, **shown}, metadata={**one.metadata, REDACTED: True})
        cipher = self._aead.AESSIV(key)
        shown = {}
        for field, secret in hidden.items():
            try:
                text = cipher.decrypt(base64.b64decode(secret), [one.type.encode(), field.encode()])
            except self._invalid as error:
                raise EventDecodeError(
                    f"event {one.id} of type {one.type!r}, field {field!r}: "
                    "it was encrypted with another key, or changed",
                    event_id=one.id,
                    event_type=one.type,
                    field=field,
                ) from error
            shown[field] = json.loads(text)
        return attrs.evolve(one, data={**one.data, **shown})


def _encrypted_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are encrypted, with their ciphertext."""
    return {field: value[MARK] for field, value in data.items() if isinstance(value, dict) and MARK in value}
