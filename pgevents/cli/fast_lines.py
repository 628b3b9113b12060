"""Lines of JSON as export writes them, split without encoding their data again: the extra `fast`.

What is unusual in any way is left to the slower form in `lines`, which gives the same result for every line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pgevents.codec.fast import MAX_DEPTH

msgspec: Any = None
if not TYPE_CHECKING:
    try:
        import msgspec
    except ImportError:
        pass

__all__ = ["LineTexts", "texts_of_line"]

_SCALARS = frozenset({str, int, bool, type(None)})
_odd_character = re.compile(r"\\u(?:0000|[dD][89a-fA-F])").search
"""NUL, or half of a surrogate pair."""


class LineTexts(NamedTuple):
    """An event's members: data and metadata as the JSON text that the line has."""

    type: str
    data: str
    metadata: str
    created_at: str | None
    key: str | None
    is_exported: bool


if msgspec is not None:
    _Members: Any = msgspec.defstruct(
        "_Members",
        [
            ("type", str),
            ("data", msgspec.Raw),
            ("metadata", msgspec.Raw, msgspec.Raw(b"")),
            ("id", int | None, None),
            ("created_at", str | None, None),
            ("idempotency_key", str | None, None),
        ],
    )
    _decode_line = msgspec.json.Decoder(_Members).decode
    _decode = msgspec.json.Decoder(dict[str, Any]).decode


def texts_of_line(line: str) -> LineTexts | None:
    """The members of an event, if a save certainly accepts them; else None."""
    if msgspec is None or "$version" in line or line.count("[") + line.count("{") > MAX_DEPTH:
        return None
    if "\\u" in line and _odd_character(line):
        return None
    try:
        found = _decode_line(line)
        data = str(found.data, "utf-8")
        metadata = str(found.metadata, "utf-8") or "{}"
        if not _is_storable(_decode(data).values()):
            return None
        if metadata != "{}":
            metadata_dict = _decode(metadata)
            if not metadata_dict or not _is_storable(metadata_dict.values()):
                return None
    except Exception:  # the slower form says what is wrong
        return None
    has_all = found.id is not None and found.id >= 0 and bool(found.metadata) and bool(found.created_at)
    texts = LineTexts(found.type, data, metadata, found.created_at, found.idempotency_key, has_all)
    return texts if _written(found, texts, line) else None


def _written(found: Any, texts: LineTexts, line: str) -> bool:
    """Whether the members make up the whole line: so that no name occurs twice, and there is no other one."""
    comma, colon = (", ", ": ") if '": ' in line[:9] else (",", ":")
    head = "" if found.id is None else f'"id"{colon}{found.id}{comma}'
    parts = [f'{{{head}"type"{colon}"{texts.type}"', f'"data"{colon}{texts.data}']
    if bytes(found.metadata):
        parts.append(f'"metadata"{colon}{texts.metadata}')
    if texts.created_at is not None:
        parts.append(f'"created_at"{colon}"{texts.created_at}"')
    if texts.key is not None:
        parts.append(f'"idempotency_key"{colon}"{texts.key}"')
    return comma.join(parts) + "}" == line.rstrip("\r\n")


def _is_storable(values: Iterable[object]) -> bool:
    """Whether jsonb keeps all numbers: it has no -0.0."""
    for value in values:
        kind = type(value)
        if kind in _SCALARS:
            continue
        if kind is float:
            number = cast(float, value)
            if number == 0 and math.copysign(1, number) < 0:
                return False
        elif kind is dict:
            if not _is_storable(cast("dict[str, object]", value).values()):
                return False
        elif not _is_storable(cast("list[object]", value)):
            return False
    return True
