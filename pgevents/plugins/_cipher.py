"""Encrypts fields of events and decrypts them."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from pgevents import EventDecodeError, EventEncodeError
from pgevents.plugins._extras import require

__all__ = ["MARK", "Cipher", "encrypted_fields"]

MARK = "$encrypted"
FORM = b"pgevents.1"
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Cipher:
    """AES-SIV; each value is bound to its event type, field and subject.

    Raises:
        ConfigurationError: `cryptography` is not installed.
    """

    def __init__(self) -> None:
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", "crypto")
        self._invalid = require("cryptography.exceptions", "crypto").InvalidTag

    def encrypt(self, key: bytes, event_type: str, field: str, subject: str, value: Any) -> dict[str, str]:
        """Encrypt a JSON value; returns the object that is stored instead of it.

        Raises:
            EventEncodeError: The value has no JSON form. It is not quoted.
        """
        try:
            text = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False)
            plain = text.encode()
        except (TypeError, ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
            raise EventEncodeError(
                f"{event_type}, field {field!r}: the value has no JSON form (NaN, half of a surrogate pair, "
                "a loop, or an object that is not JSON); it is not shown, because it is personal"
            ) from None
        if NUL.search(text):
            raise EventEncodeError(
                f"{event_type}, field {field!r}: PostgreSQL cannot hold a NUL character in a string"
            )
        secret = self._aead.AESSIV(key).encrypt(plain, _bound(event_type, field, subject))
        return {MARK: base64.b64encode(secret).decode()}

    def decrypt(
        self, key: bytes, event_id: int, event_type: str, field: str, subject: str, secret: Any
    ) -> Any:
        """Decrypt a JSON value.

        Raises:
            EventDecodeError: The value was encrypted with another key or for another event, or was changed.
        """
        try:
            raw = base64.b64decode(secret, validate=True)
            text = self._aead.AESSIV(key).decrypt(raw, _bound(event_type, field, subject))
            return json.loads(text)
        except (self._invalid, TypeError, ValueError, binascii.Error, RecursionError):
            raise EventDecodeError(
                f"event {event_id} of type {event_type!r}, field {field!r}: it was encrypted with another "
                "key, for another event, or changed",
                event_id=event_id,
                event_type=event_type,
                field=field,
            ) from None


def encrypted_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The encrypted fields of an event's data, with their ciphertext."""
    return {field: value[MARK] for field, value in data.items() if isinstance(value, dict) and MARK in value}


def _bound(event_type: str, field: str, subject: str) -> list[bytes]:
    return [FORM, event_type.encode(), field.encode(), subject.encode()]
