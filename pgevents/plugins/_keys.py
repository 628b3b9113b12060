"""The keys of subjects, in a table beside the events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import cast

from pgevents import ConfigurationError, EventClient, NotInstalledError, PgEventsError
from pgevents.plugins._extras import require
from pgevents.plugins._tables import execute

__all__ = ["KeyTable", "SubjectForgottenError"]

KEY_BYTES = 64
NOBODY = ""
"""The subject of the check key, which encrypts nothing: it reveals a wrong master key before a save."""

# A dead row keeps its key until VACUUM, so one dead row is enough for autovacuum.
TABLE_SQL = """\
CREATE TABLE IF NOT EXISTS {keys} (
    subject text PRIMARY KEY,
    key bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    forgotten_at timestamptz,
    CHECK ((key IS NULL) = (forgotten_at IS NOT NULL))
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)
"""
FIND_SQL = "SELECT subject, key FROM {keys} WHERE subject = ANY(%s)"
ANY_KEY_SQL = "SELECT key FROM {keys} WHERE key IS NOT NULL LIMIT 1"
ADD_SQL = "INSERT INTO {keys} (subject, key) VALUES (%s, %s) ON CONFLICT (subject) DO NOTHING"
# Made by the server, so that the key stands in no statement, and so in no log: 8 x 122 random bits to 512.
MAKE_SQL = """\
INSERT INTO {keys} (subject, key)
SELECT s, sha512(
    uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
    || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
FROM unnest(%s::text[]) AS s ON CONFLICT (subject) DO NOTHING
"""
# Rows stay locked until the snapshot is committed, so no subject is forgotten between fold and commit.
HOLD_SQL = """\
SELECT subject, forgotten_at FROM {keys}
WHERE subject = ANY(%s) OR subject IN (
    SELECT u.subject FROM {uses} AS u WHERE u.projections = {this_table} AND u.type = %s AND u.id = %s)
ORDER BY subject FOR SHARE
"""
FORGET_NEW_SQL = """\
INSERT INTO {keys} (subject, forgotten_at) VALUES (%s, clock_timestamp())
ON CONFLICT (subject) DO NOTHING RETURNING true
"""
FORGET_SQL = """\
UPDATE {keys} SET key = NULL, forgotten_at = clock_timestamp() WHERE subject = %s AND key IS NOT NULL
RETURNING true
"""


class SubjectForgottenError(PgEventsError):
    """An event has personal data of a subject that was forgotten; nothing was written.

    Attributes:
        subject: The subject.
    """

    def __init__(self, message: str, subject: str) -> None:
        super().__init__(message)
        self.subject = subject


class KeyTable:
    """Reads and writes keys. No key is cached, because another process may delete it.

    Args:
        master_key: 32 bytes that keys are wrapped with, or None.

    Raises:
        ConfigurationError: The master key is not 32 bytes, or `cryptography` is not installed.
    """

    def __init__(self, master_key: bytes | None) -> None:
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", "crypto")
        self._keywrap = require("cryptography.hazmat.primitives.keywrap", "crypto")
        if master_key is not None and not _is_master_key(master_key):
            raise ConfigurationError("the master key is 32 bytes (a bytes object)")
        self._master_key = master_key
        self._checked = b""

    def create(self, client: EventClient) -> None:
        """Create the table and its check key if they are missing.

        Raises:
            ConfigurationError: The keys were wrapped with another master key.
        """
        execute(client, TABLE_SQL)
        row = execute(client, ANY_KEY_SQL).fetchone()
        if row is not None:
            self._unwrapped(bytes(row[0]))
        self._add(client, [NOBODY])

    def find(self, client: EventClient, subjects: Sequence[str]) -> dict[str, bytes | None]:
        """The keys of the subjects that have a row; None for a subject that was forgotten."""
        return {
            subject: None if key is None else self._unwrapped(bytes(key))
            for subject, key in execute(client, FIND_SQL, [list(subjects)]).fetchall()
        }

    def make(self, client: EventClient, subjects: Sequence[str]) -> dict[str, bytes]:
        """The keys of subjects; a subject without a key gets a new one.

        Raises:
            SubjectForgottenError: One of them was forgotten.
            ConfigurationError: The keys were wrapped with another master key; no key was made.
            NotInstalledError: `client.create_tables()` has not run with this plugin.
        """
        keys = self._find_checked(client, subjects)
        missing = [subject for subject in subjects if subject not in keys]
        if missing:
            self._add(client, missing)
            keys |= self.find(client, missing)
        for subject in subjects:
            if keys[subject] is None:
                raise SubjectForgottenError(f"{subject!r} was forgotten; nothing was written", subject)
        return cast("dict[str, bytes]", keys)

    def hold(
        self, client: EventClient, subjects: Sequence[str], type: str, id: str
    ) -> list[tuple[str, datetime | None]]:
        """Lock the rows of these subjects, and of those whose data the snapshot held before, until the
        transaction ends.

        Returns:
            Each subject, and when it was forgotten.
        """
        rows: list[tuple[str, datetime | None]] = execute(
            client, HOLD_SQL, [list(subjects), type, id]
        ).fetchall()
        return rows

    def forget(self, client: EventClient, subject: str) -> bool:
        """Delete a subject's key for ever; returns whether there was a key. Needs no master key."""
        if execute(client, FORGET_NEW_SQL, [subject]).fetchone() is not None:
            return False
        return execute(client, FORGET_SQL, [subject]).fetchone() is not None

    def _find_checked(self, client: EventClient, subjects: Sequence[str]) -> dict[str, bytes | None]:
        rows = dict(execute(client, FIND_SQL, [[NOBODY, *subjects]]).fetchall())
        check = rows.pop(NOBODY, None)
        if check is None:
            raise NotInstalledError(
                "the table of subjects' keys has no check key: run client.create_tables() with this plugin"
            )
        if bytes(check) != self._checked:
            self._unwrapped(bytes(check))
            self._checked = bytes(check)
        return {
            subject: None if key is None else self._unwrapped(bytes(key)) for subject, key in rows.items()
        }

    def _add(self, client: EventClient, subjects: Sequence[str]) -> None:
        if self._master_key is None:
            execute(client, MAKE_SQL, [list(subjects)])
            return
        for subject in subjects:  # wrapped before they are sent, so that a log of statements reveals no key
            key = self._aead.AESSIV.generate_key(8 * KEY_BYTES)
            execute(client, ADD_SQL, [subject, self._keywrap.aes_key_wrap(self._master_key, key)])

    def _unwrapped(self, stored: bytes) -> bytes:
        if self._master_key is None and len(stored) == KEY_BYTES:
            return stored
        if self._master_key is None:
            raise ConfigurationError("the subjects' keys are wrapped: give the plugin their master key")
        if len(stored) == KEY_BYTES:
            raise ConfigurationError("the subjects' keys are not wrapped: give the plugin no master key")
        try:
            key: bytes = self._keywrap.aes_key_unwrap(self._master_key, stored)
        except self._keywrap.InvalidUnwrap:
            raise ConfigurationError(
                "this is not the master key that the subjects' keys were wrapped with"
            ) from None
        return key


def _is_master_key(given: object) -> bool:
    return isinstance(given, bytes) and len(given) == 32
