"""Lines of a file to import: with msgspec each is what it is without."""

from __future__ import annotations

import io
import json
import random

import pytest

from pgevents.cli import fast_lines
from pgevents.cli.lines import Line, json_lines

from .fuzz import inputs
from .test_cli import POISON

TIME = '"2026-01-31T12:00:00.000001+00:00"'
DATA = (
    '{"a": 1.50, "b": [1e16, {"c": null}]}', '{"a": -0.0}', '{"a": {"b": [-0.0]}}', '{"a": -0}',
    '{"a": -1e-400}', '{"a": 1e400}', '{ }', '{"a": 1, "a": 2}', r'{"a": "\u0041\ud83d\ude00"}',
    r'{"a": "\u0000"}', r'{"a": "\ud800"}', r'{"a": "\\u0000"}', '{"a":\t"\u00e9\u2028"}',
    "[]", "null", '"{}"', '{"a": ' + "[" * 101 + "]" * 101 + "}", '{"a": 12345678901234567890123}',
    '{"a": ' + "9" * 5_000 + "}", '{"$version": 2}', '{"$version": 0}',
)  # fmt: skip
LINES = [
    *POISON,
    *(f'{{"id": 1, "type": "A", "data": {data}, "metadata": {{}}, "created_at": {TIME}}}' for data in DATA),
    *(f'{{"type":"A","data":{{"n":1}},"metadata":{data}}}' for data in DATA),
    *(f'{{"type": "A", "data": {data}, "data": {{}}}}' for data in DATA),
    '{"data": {}, "type": "A"}', '{"type": "A", "data": {}, "more": 1}', '{"type": "\\u0041", "data": {}}',
    '{"type": "A", "data": {}, "created_at": "2026-01-31T13:00:00+01:00", "idempotency_key": "k"}',
    '{"type": "A", "data": {}, "created_at": "", "idempotency_key": "\\u006b"}', '{"type": "A", "data": {}} ',
    '{"id": 01, "type": "A", "data": {}}', '{"id": 1, "id": 1, "type": "A", "data": {}}', "", " ", "\udcff",
    '{"type": "A\x7f", "data": {}}', '{"type": "A", "data": {"a": "\udcff"}}',
]  # fmt: skip


def read(lines: list[str]) -> list[tuple[int, Line | str]]:
    """The lines' events, and what is wrong with the others."""
    refused: list[tuple[int, Line | str]] = []

    def refuse(number: int, reason: object) -> bool:
        refused.append((number, str(reason)))
        return False

    good = [(line.number, line) for line in json_lines(io.StringIO("\n".join(lines), newline="\n"), refuse)]
    return sorted([*good, *refused], key=lambda pair: pair[0])


def test_lines_are_alike_with_and_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events and their digests, or the reasons of refusals, for odd lines and drawn ones."""
    pytest.importorskip("msgspec")
    rng = random.Random(20260131)
    drawn = [
        f'{{"type": {json.dumps(rng.choice(("A", inputs.text(rng))))}, '
        f'"data": {{"v": {inputs.json_text(rng, odd)}}}}}'
        for odd in (False, True)
        for _ in range(500)
    ]
    lines = [line for line in [*LINES, *drawn] if "\n" not in line]
    fast = read(lines)
    assert sum(fast_lines.texts_of_line(line) is not None for line in lines) > 300
    monkeypatch.setattr(fast_lines, "msgspec", None)
    plain = read(lines)
    for one, other in zip(fast, plain, strict=True):
        assert one == other, lines[one[0] - 1]
