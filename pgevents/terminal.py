"""Shared by the command lines: conditions on fields as arguments, and text that is safe to print."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from pgevents.codec.times import parse_date, parse_datetime
from pgevents.comparisons import Comparison, at_least, at_most, between, is_not, less_than, more_than
from pgevents.errors import ConfigurationError

__all__ = ["parse_match", "printable"]


CONDITION = re.compile("([^<>=!]*)(>=|<=|!=|=|>|<)(.*)", re.DOTALL)
ORDERED: dict[str, Callable[[Any], Comparison]] = {
    ">=": at_least,
    "<=": at_most,
    ">": more_than,
    "<": less_than,
}


def parse_match(parts: Sequence[str]) -> dict[str, list[str] | Comparison]:
    """What each field must be by arguments like `cart_id=c1`, `total>=100` and `state!=done`.

    A field given twice means any of its values, or from one to the other (`total>=1 total<=5`). What a field
    is compared with is a number, a day or a time with its zone if it reads like one, else a text.

    Raises:
        ConfigurationError: An argument that is not such a condition, or two that do not go together.
    """
    conditions: dict[str, list[tuple[str, str]]] = {}
    for part in parts:
        found = CONDITION.fullmatch(part)
        if found is None or not found[1]:
            raise ConfigurationError(
                f"{part}: write FIELD=VALUE, as in cart_id=c1, or a comparison in quotes, as in 'total>=100' "
                "or 'state!=done'"
            )
        conditions.setdefault(found[1], []).append((found[2], found[3]))
    return {field: _condition(field, dict(given), given) for field, given in conditions.items()}


def _condition(
    field: str, by_sign: dict[str, str], given: Sequence[tuple[str, str]]
) -> list[str] | Comparison:
    signs, texts = set(by_sign), [text for _, text in given]
    if signs == {"="}:
        return texts
    if signs == {"!="}:
        return is_not(*map(_value, texts))
    if len(given) == 1:
        return ORDERED[given[0][0]](_value(texts[0]))
    if signs == {">=", "<="} and len(given) == 2:
        return between(_value(by_sign[">="]), _value(by_sign["<="]))
    raise ConfigurationError(
        f"the conditions on {field} do not go together: write several values with =, several with !=, one "
        "comparison, or >= and <="
    )


def _value(text: str) -> Any:
    """What a text on the command line is, if it is compared."""
    if re.fullmatch("-?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"-?[0-9]+\.[0-9]+", text):
        return Decimal(text)
    for parse in (parse_date, parse_datetime):
        try:
            return parse(text)
        except ValueError:
            continue
    return text


def printable(text: str) -> str:
    r"""The text with each character that does not print in the form that JSON gives it, such as `\u001b`.

    Characters that control a terminal (escape sequences, line breaks, changes of the writing direction)
    become visible. JSON text keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
