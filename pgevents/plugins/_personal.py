"""The rules of encryption: which fields of an event are personal, and which field names their subject."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast
from uuid import UUID

import attrs

from pgevents import ConfigurationError, EventTypes

__all__ = ["MAX_SUBJECT_LENGTH", "Personal", "rules_of", "subject_text"]

MAX_SUBJECT_LENGTH = 500


def _fields(_instance: object, _attribute: object, value: Any) -> None:
    """Check that the fields of a rule are names with JSON values."""
    if not isinstance(value, Mapping) or not value:
        raise ConfigurationError(
            "Personal(fields=...) maps each personal field to the value that replaces it once the subject "
            f'is forgotten, as in {{"email": "[redacted]"}}, not {value!r}'
        )
    for field, redacted in cast("Mapping[object, object]", value).items():
        _field_name(field)
        try:
            json.dumps(redacted, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(
                f"the redacted value of {field!r} is JSON (a date is a text), not {redacted!r}"
            ) from error


def _field_name(value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"a field of an event is named by a text, not {value!r}")


def _rule_field(_instance: object, _attribute: object, value: Any) -> None:
    _field_name(value)


@attrs.frozen
class Personal:
    """Which fields of an event are personal, and whose data they are.

    Attributes:
        subject: The field that names the subject, with a text or an integer. It is not encrypted.
        fields: Each personal field, with the value that replaces it once the subject is forgotten. The value
            must fit the field's type.

    Raises:
        ConfigurationError: A name is not a text, no field is given, or a value has no JSON form.
    """

    subject: str = attrs.field(validator=_rule_field)
    fields: Mapping[str, Any] = attrs.field(validator=_fields)


def rules_of(personal: object) -> dict[str, Personal]:
    """Check rules that are given by event class or name; returns them by name."""
    if not isinstance(personal, Mapping):
        raise ConfigurationError(f"Encryption takes a rule for each event type, in a dict, not {personal!r}")
    rules: dict[str, Personal] = {}
    for given, rule in cast("Mapping[Any, object]", personal).items():
        if not isinstance(rule, Personal):
            raise ConfigurationError(f"the rule of {given!r} is a Personal(subject, fields), not {rule!r}")
        if rule.subject in rule.fields:
            raise ConfigurationError(
                f"{given!r}: fields names what is encrypted, and the subject {rule.subject!r} is not"
            )
        for name in EventTypes.everything.names(given) or ():
            if name in rules:
                raise ConfigurationError(f"there are two rules for the event type {name!r}")
            rules[name] = rule
    return rules


def subject_text(value: object) -> str | None:
    """A subject as text; None if the value cannot be a subject."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int.__repr__(value) if value.bit_length() < 64 else None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_SUBJECT_LENGTH or min(value) < " ":
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return str(value)
