"""The keys of subjects, in a table beside the events, and which snapshots hold personal data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pgevents import ConfigurationError, EventClient, PgEventsError
from pgevents.plugins._extras import require

__all__ = ["KeyTable", "SubjectForgottenError"]

KEY_BYTES = 64

TABLES_SQL = """\
CREATE TABLE IF NOT EXISTS {keys} (
    subject text PRIMARY KEY,
    key bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    forgotten_at timestamptz
);
CREATE TABLE IF NOT EXISTS {uses} (
    subject text NOT NULL,
    type text NOT NULL,
    id text NOT NULL,
    PRIMARY KEY (type, id, subject)
);
CREATE INDEX IF NOT EXISTS {uses_index} ON {uses} (subject);
"""
KEYS_SQL = "SELECT subject, key FROM {keys} WHERE subject = ANY(%s)"
ADD_SQL = "INSERT INTO {keys} (subject, key) VALUES (%s, %s) ON CONFLICT (subject) DO NOTHING"
USE_SQL = "INSERT INTO {uses} (subject, type, id) SELECT unnest(%s::text[]), %s, %s ON CONFLICT DO NOTHING"
# Held until the snapshot is committed, so that a subject is forgotten before it or after it, and never
# meanwhile.
HOLD_SQL = """\
SELECT subject, forgotten_at FROM {keys}
WHERE subject = ANY(%s) OR subject IN (SELECT subject FROM {uses} WHERE type = %s AND id = %s)
ORDER BY subject FOR SHARE
"""
FORGET_SQL = """\
INSERT INTO {keys} AS known (subject, forgotten_at) VALUES (%s, clock_timestamp())
ON CONFLICT (subject) DO UPDATE SET key = NULL, forgotten_at = clock_timestamp() WHERE known.key IS NOT NULL
"""
DELETE_SQL = """\
DELETE FROM {projections} AS p USING {uses} AS u WHERE u.subject = %s AND p.type = u.type AND p.id = u.id
"""


class SubjectForgottenError(PgEventsError):
    """An event with personal data of a subject that was forgotten; nothing was written.

    Attributes:
        subject: The subject.
    """

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class KeyTable:
    """Reads and writes keys. None is ever kept in memory: another process may delete it.

    Args:
        master_key: 32 bytes that keys are wrapped with, or None.
    """

    def __init__(self, master_key: bytes | None) -> None:
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", "crypto")
        self._keywrap = require("cryptography.hazmat.primitives.keywrap", "crypto")
        if master_key is not None and len(master_key) != 32:
            raise ConfigurationError(f"the master key has 32 bytes, not {len(master_key)}")
        self._master_key = master_key

    def create(self, client: EventClient) -> None:
        """Make the tables, if they are missing."""
        self._execute(client, TABLES_SQL, None)

    def find(self, client: EventClient, subjects: Sequence[str]) -> dict[str, bytes | None]:
        """The keys of those subjects that ever had one; None of one that was forgotten."""
        rows = self._execute(client, KEYS_SQL, [subjects]).fetchall()
        return {subject: None if key is None else self._unwrapped(bytes(key)) for subject, key in rows}

    def make(self, client: EventClient, subjects: Sequence[str]) -> dict[str, bytes]:
        """The keys of subjects; those who have none get one.

        Raises:
            SubjectForgottenError: One of them was forgotten.
        """
        known = self.find(client, subjects)
        for subject in subjects:
            if subject not in known:
                key = self._aead.AESSIV.generate_key(8 * KEY_BYTES)
                stored = (
                    key if self._master_key is None else self._keywrap.aes_key_wrap(self._master_key, key)
                )
                self._execute(client, ADD_SQL, [subject, stored])
        if len(known) < len(subjects):
            known = self.find(client, subjects)
        made: dict[str, bytes] = {}
        for subject in subjects:
            found = known[subject]
            if found is None:
                raise SubjectForgottenError(f"{subject!r} was forgotten; nothing was written", subject)
            made[subject] = found
        return made

    def delete(self, client: EventClient, subject: str) -> bool:
        """Delete a subject's key and the snapshots that hold its data; whether there was a key."""
        with client.session.atomic():
            had_key = bool(self.find(client, [subject]).get(subject))
            self._execute(client, FORGET_SQL, [subject])
            self._execute(client, DELETE_SQL, [subject])
        return had_key

    def hold(
        self, client: EventClient, subjects: Sequence[str], type: str, id: str
    ) -> list[tuple[str, datetime | None]]:
        """Keep these subjects, and those whose data the snapshot held before, as they are until the
        transaction ends.

        Returns:
            Each of them, and when it was forgotten.
        """
        found: list[tuple[str, datetime | None]] = self._execute(
            client, HOLD_SQL, [subjects, type, id]
        ).fetchall()
        if subjects:
            self._execute(client, USE_SQL, [subjects, type, id])
        return found

    def _unwrapped(self, stored: bytes) -> bytes:
        if self._master_key is None and len(stored) == KEY_BYTES:
            return stored
        try:
            key: bytes = self._keywrap.aes_key_unwrap(self._master_key or bytes(32), stored)
        except self._keywrap.InvalidUnwrap as error:
            raise ConfigurationError(
                "this is not the master key that the subjects' keys were wrapped with"
            ) from error
        return key

    def _execute(self, client: EventClient, sql: str, params: Any) -> Any:
        spec = client.events.pgevents_spec
        names = {
            "keys": spec.qualified("_keys"),
            "uses": spec.qualified("_key_uses"),
            "uses_index": spec.index_name("key", "uses", "subject"),
            "projections": client.projections.pgevents_spec.qualified(),
        }
        return client.session.execute(sql.format(**names), params)
