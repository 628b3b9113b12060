"""Shared by the command lines: FIELD=VALUE arguments, and text that is safe to print on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pgevents.errors import ConfigurationError

__all__ = ["parse_match", "printable"]


def parse_match(parts: Sequence[str]) -> dict[str, list[str]]:
    """The values of each field in FIELD=VALUE arguments; a field given twice means any of its values.

    Raises:
        ConfigurationError: An argument has no `=`.
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

    Characters that control a terminal (escape sequences, line breaks, changes of the writing direction)
    become visible. JSON text keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
