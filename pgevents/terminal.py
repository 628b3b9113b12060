"""What command lines have in common: FIELD=VALUE arguments, and text that a terminal does not obey."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pgevents.errors import ConfigurationError

__all__ = ["parse_match", "printable"]


def parse_match(parts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field in FIELD=VALUE arguments; a field given twice means any of its values.

    Raises:
        ConfigurationError: An argument without a sign.
    """
    values: dict[str, list[str]] = {}
    for part in parts:
        field, sign, value = part.partition("=")
        if not sign:
            raise ConfigurationError(f"{part}: write FIELD=VALUE, as in cart_id=c1")
        values.setdefault(field, []).append(value)
    return values


def printable(text: str) -> str:
    r"""The text with each character that does not print in the form that JSON gives it, such as `\u001b`.

    What a terminal would obey (escape sequences, line breaks, changes of the writing direction) becomes
    visible. JSON text keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)
