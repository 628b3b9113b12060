"""Encrypts fields of events and decrypts them, each bound to the whole of its event."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, cast

from pgevents import EventDecodeError, EventEncodeError, StoredEvent
from pgevents.distribution import require

__all__ = ["MARK", "Cipher", "canonical", "encrypted_fields", "unreadable"]

MARK = "$encrypted"
FORM = b"pgevents.2"
SEAL = b"pgevents.2 seal"
SEAL_BYTES = 16
NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Cipher:
    """AES-SIV; each value is bound to its event type, field, subject and the seal of its event.

    The seal is a keyed digest of all data of the event, in the clear. Equal data have equal seals, so that a
    repeat of a save is recognised.

    Raises:
        ConfigurationError: `cryptography` is not installed.
    """

    def __init__(self) -> None:
        self._aead = require("cryptography.hazmat.primitives.ciphers.aead", "crypto")
        self._invalid = require("cryptography.exceptions", "crypto").InvalidTag

    def encrypt(
        self, key: bytes, event_type: str, subject: str, data: Mapping[str, Any], fields: Iterable[str]
    ) -> tuple[str, dict[str, dict[str, str]]]:
        """Encrypt fields of an event.

        Args:
            key: The subject's key.
            event_type: The event's type.
            subject: Whose data the fields are.
            data: All data of the event, in the clear.
            fields: The fields to encrypt.

        Returns:
            The event's seal, and for each field the object that is stored instead of its value.

        Raises:
            EventEncodeError: A value has no JSON form. It is not quoted.
        """
        plain = {field: _plain(event_type, field, data[field]) for field in fields if field in data}
        try:
            seal = self._seal(key, event_type, subject, data)
        except (TypeError, ValueError, ArithmeticError, RecursionError):
            raise EventEncodeError(
                f"{event_type}: a field has no JSON form; it is not shown, because the event is personal"
            ) from None
        cipher = self._aead.AESSIV(key)
        return seal, {
            field: {MARK: _text(cipher.encrypt(value, _bound(event_type, field, subject, seal)))}
            for field, value in plain.items()
        }

    def decrypt(
        self, key: bytes, stored: StoredEvent, subject: str, seal: object, *, is_rebinding: bool = False
    ) -> dict[str, Any]:
        """Decrypt the fields of an event.

        Args:
            key: The subject's key.
            stored: The event.
            subject: Whose data the fields are.
            seal: The event's seal, as it is stored.
            is_rebinding: Leave out the check that the other fields are those that the event was saved with.

        Returns:
            All its data in the clear.

        Raises:
            EventDecodeError: A value was encrypted with another key or for another event, or was changed; or
                another field was.
        """
        text = seal if isinstance(seal, str) else ""
        cipher, data = self._aead.AESSIV(key), dict(stored.data)
        field = ""
        try:
            for field, secret in encrypted_fields(stored.data).items():
                raw = base64.b64decode(secret, validate=True)
                data[field] = json.loads(cipher.decrypt(raw, _bound(stored.type, field, subject, text)))
        except (self._invalid, TypeError, ValueError, binascii.Error, RecursionError):
            raise unreadable(
                stored, field, "it was encrypted with another key, for another event, or changed"
            ) from None
        if not is_rebinding and not self._is_sealed(key, stored.type, subject, data, text):
            raise unreadable(
                stored,
                field,
                "it was encrypted for an event with other fields: they were changed, or it comes from "
                "another event; after a change under maintenance, use Encryption.rebind()",
            )
        return data

    def _is_sealed(
        self, key: bytes, event_type: str, subject: str, data: Mapping[str, Any], seal: str
    ) -> bool:
        try:
            return hmac.compare_digest(self._seal(key, event_type, subject, data), seal)
        except (TypeError, ValueError, ArithmeticError, RecursionError):
            return False

    def _seal(self, key: bytes, event_type: str, subject: str, data: Mapping[str, Any]) -> str:
        """The synthetic IV of the data: a keyed digest."""
        whole = canonical(data).encode()
        secret = self._aead.AESSIV(key).encrypt(whole, [SEAL, event_type.encode(), subject.encode()])
        return _text(secret[:SEAL_BYTES])


def canonical(value: object) -> str:
    """A text that is the same for a JSON value before it is stored as `jsonb` and after.

    Raises:
        TypeError: No JSON value.
        ValueError: A number that is not finite.
    """
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (int, float, Decimal)):
        return _number(value)
    if isinstance(value, Mapping):
        items = sorted(cast("Mapping[str, object]", value).items())
        return "{" + ",".join(f"{canonical(name)}:{canonical(item)}" for name, item in items) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(canonical, cast("list[object]", value))) + "]"
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _number(value: float | Decimal) -> str:
    """A number, however it is written: 1, 1.0 and 1e0 are the same, and -0.0 is 0."""
    number = Decimal(float.__repr__(value) if isinstance(value, float) else value)
    if not number.is_finite():
        raise ValueError("not finite")
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def encrypted_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The encrypted fields of an event's data, with their ciphertext."""
    return {field: value[MARK] for field, value in data.items() if isinstance(value, dict) and MARK in value}


def unreadable(stored: StoredEvent, field: str, reason: str) -> EventDecodeError:
    """The error of an encrypted field that cannot be shown."""
    return EventDecodeError(
        f"event {stored.id} of type {stored.type!r}, field {field!r}: {reason}",
        event_id=stored.id,
        event_type=stored.type,
        field=field,
    )


def _plain(event_type: str, field: str, value: Any) -> bytes:
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
    return plain


def _text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def _bound(event_type: str, field: str, subject: str, seal: str) -> list[bytes]:
    return [FORM, event_type.encode(), field.encode(), subject.encode(), seal.encode()]
