"""Values as the text that PostgreSQL has of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from uuid import UUID

from pgevents.errors import InvalidValueError, shown

__all__ = [
    "is_text",
    "array_text",
    "identifier_text",
]


def identifier_text(field: str, value: object) -> str:
    """The text that `data->>'field'` gives for a value once it is stored.

    Raises:
        ConfigurationError: None, a float or another type that has no single text, or a NUL character.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        if not is_text(value):
            raise InvalidValueError(f"{field}: half of a surrogate pair is not text: {value[:40]!r}")
        if "\0" in value:
            raise InvalidValueError(
                f"{field}: PostgreSQL cannot hold a NUL character, remove it from {value[:40]!r}"
            )
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, UUID)):
        try:
            return str(value)
        except ValueError:  # an int of thousands of digits
            raise InvalidValueError(f"{field}: a number of so many digits cannot identify events") from None
    hint = "no event can be found by None" if value is None else "its text is ambiguous"
    raise InvalidValueError(
        f"{field}={shown(value)} cannot identify events ({hint}); give a str, int, bool, UUID, "
        "Enum or a list of these"
    )


def array_text(names: Sequence[str]) -> str:
    """An array of names as PostgreSQL writes it."""
    text = '","'.join(names)
    if "\\" in text or text.count('"') != 2 * len(names) - 2:
        text = '","'.join([name.replace("\\", "\\\\").replace('"', '\\"') for name in names])
    return f'{{"{text}"}}' if names else "{}"


def is_text(value: str) -> bool:
    """Whether a str can be encoded as UTF-8: half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
