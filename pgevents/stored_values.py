"""Which texts a field of an event can have, by its type: a question for another text would find nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import Enum, Flag
from typing import Any
from uuid import UUID

import attrs

from pgevents.errors import InvalidValueError
from pgevents.texts import identifier_text

__all__ = ["FieldTexts", "field_texts"]

Convert = Callable[[Any], Any]
"""Makes the JSON-ready value of a value."""
SAMPLES: tuple[tuple[type[Any], Any, str, str], ...] = (
    (bool, True, "true or false", r"true|false"),
    (int, 7, "a whole number", r"-?(0|[1-9][0-9]*)"),
    (UUID, UUID(int=7), "a UUID in lower case", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
)
"""Types, one of their values, what they are called, and the pattern of their texts."""


@attrs.frozen
class FieldTexts:
    """The texts that a field can have.

    Attributes:
        field: The field.
        kinds: What each of its types is called, and the pattern of its texts.
    """

    field: str
    kinds: Sequence[tuple[str, re.Pattern[str]]]

    def check(self, texts: Sequence[str]) -> None:
        """Check what the field is asked for.

        Raises:
            InvalidValueError: No event has one of these texts there.
        """
        for text in texts:
            if not any(pattern.fullmatch(text) for _, pattern in self.kinds):
                what = " or ".join(name for name, _ in self.kinds)
                raise InvalidValueError(f"the field {self.field!r} is {what}, so no event has {text!r} there")


def field_texts(
    field: str, types: Sequence[Any], converter_of: Callable[[Any], Convert]
) -> FieldTexts | None:
    """The texts of a field of these types; None if one of them may have any text.

    Args:
        field: The field.
        types: Single types, without None.
        converter_of: Gives for a type what makes JSON-ready values of its values.
    """
    kinds = [_texts_of(each, converter_of) for each in types]
    return FieldTexts(field, [kind for kind in kinds if kind]) if kinds and all(kinds) else None


def _texts_of(declared: Any, converter_of: Callable[[Any], Convert]) -> tuple[str, re.Pattern[str]] | None:
    if not isinstance(declared, type):
        return None
    if issubclass(declared, Enum):
        return None if issubclass(declared, Flag) else _texts_of_enum(declared, converter_of(declared))
    for cls, sample, name, pattern in SAMPLES:
        if declared is cls and converter_of(cls)(sample) in (sample, str(sample)):
            return name, re.compile(pattern)
    return None


def _texts_of_enum(declared: type[Enum], convert: Convert) -> tuple[str, re.Pattern[str]] | None:
    try:
        texts = [identifier_text("", convert(member)) for member in declared]
    except InvalidValueError:  # values that have no single text
        return None
    return f"one of {', '.join(map(repr, texts))}", re.compile("|".join(map(re.escape, texts)))
