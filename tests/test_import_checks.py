"""`pgevents import --app`: a line is checked by the program's classes, as a save or a read would check it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from pgevents import EventClient, create_event_client, event, hookimpl
from pgevents.cli.commands import cli
from pgevents.codec.fast import key_check

Import = Callable[..., Result]


@attrs.frozen
class Part:
    name: str


@event("CHECKED_NEW", version=2, upcasters={1: lambda data: {"pence": data["pounds"] * 100}})
class New:
    pence: int
    parts: list[Part] = attrs.field(factory=list)


@event("CHECKED_PLAIN")
class Plain:
    pence: int
    note: str = ""


class Veto:
    @hookimpl
    def pgevents_before_save(self, events: list[Any]) -> None:
        if any("user" not in event.metadata for event in events):
            raise ValueError("no user")


@pytest.fixture
def program(make_client: Callable[..., EventClient], monkeypatch: pytest.MonkeyPatch) -> EventClient:
    """The client that `--app` names."""
    made = make_client()
    made.create_tables()
    client = create_event_client(made.db, made.events, made.projections, [New, Plain])
    monkeypatch.setitem(sys.modules, "checked_app", SimpleNamespace(client=client))  # type: ignore[misc]
    return client


@pytest.fixture
def run(program: EventClient, tmp_path: Path) -> Import:
    """Import lines, each import under a name of its own."""
    numbers = iter(range(100))

    def run(lines: list[str], *options: str) -> Result:
        path = tmp_path / f"{next(numbers)}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        return CliRunner().invoke(cli, ["--app", "checked_app:client", "import", str(path), *options])

    return run


def line(type: str, data: str, **more: Any) -> str:
    rest = "".join(f', "{name}": {json.dumps(value)}' for name, value in more.items())
    return f'{{"type": "{type}", "data": {data}{rest}}}'


def exported(type: str, data: str, metadata: dict[str, Any]) -> str:
    """A line as `pgevents export` writes it."""
    at = "2026-01-31T12:00:00+00:00"
    rest = f'"metadata": {json.dumps(metadata)}, "created_at": "{at}"'
    return f'{{"id": 7, "type": "{type}", "data": {data}, {rest}}}'


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (line("CHECKED_PLAIN", '{"pense": 5}'), "field 'pence': it is missing"),
        (line("CHECKED_PLAIN", '{"pence": "5"}'), "field 'pence': expected int, got '5'"),
        (line("CHECKED_PLAIN", '{"pence": 5, "x": 1}'), "Plain has no field 'x'"),
        (line("CHECKED_NEW", '{"pence": 5, "parts": [{"name": "a", "x": 1}]}'), "New has no field 'x'"),
        (line("CHECKED_NEW", '{"pounds": 5}'), "field 'pence': it is missing"),
        (line("CHECKED_NEW", '{"pence": 5}', metadata={"$version": 1}), "upcaster from version 1 failed"),
        (line("CHECKED_NEW", '{"pence": 5}', metadata={"$version": 3}), "written by a newer one"),
        (line("CHECKED_PLAIN", '{"pence": 5}', metadata={"$key": 1}), "begin with $ are reserved: '$key'"),
        (exported("CHECKED_PLAIN", '{"pence": "5"}', {}), "no read could decode it"),
        (line("CHECKED_PLAIN", '{"pence": 5}', createdAt="2020-01-01"), "did you mean 'created_at'?"),
    ],
)
def test_a_line_that_a_save_refuses_is_refused(
    program: EventClient, run: Import, wrong: str, reason: str
) -> None:
    """The import ends at it; with `--skip` it alone is left out; `--as-is` takes what the log can hold."""
    good = line("CHECKED_PLAIN", '{"pence": 1}')
    lines = [good, wrong, good]
    done = run(lines)
    assert done.exit_code == 1 and "line 2: " in done.output and reason in done.output
    assert len(program.get_event_stream()) == 1
    done = run(lines, "--skip")
    assert done.exit_code == 1 and "skipped line 2: " in done.output
    assert len(program.get_event_stream()) == 3
    is_event = "createdAt" not in wrong
    assert run([wrong], "--as-is").exit_code == (0 if is_event else 1)
    assert program.db.execute_sql("SELECT count(*) FROM my_app.events").fetchone() == (3 + is_event,)


def test_lines_of_any_version_are_read_as_what_they_are(program: EventClient, run: Import) -> None:
    """A line without a version is of the newest; one of an export without it is of version 1. Numbers and
    fields that a read does not need stand in the log as in the file, and so do events without a class."""
    texts = [
        line("CHECKED_NEW", '{"pence": 1}'),
        line("CHECKED_NEW", '{"pence": 2}', metadata={"by": "me"}),
        line("CHECKED_NEW", '{"pounds": 3}', metadata={"$version": 1}),
        exported("CHECKED_NEW", '{"pounds": 4}', {}),
        exported("CHECKED_NEW", '{"pence": 5, "gone": 1.50}', {"$version": 2}),
        line("CHECKED_GONE", '{"any": 6}'),
    ]
    assert "imported 6 events" in run(texts).output
    events = program.get_event_stream()
    assert [event.data for event in events] == [
        New(1), New(2), New(300), New(400), New(5), {"any": 6}
    ]  # fmt: skip
    assert events[1].metadata == {"by": "me"}
    found = program.db.execute_sql("SELECT data::text FROM my_app.events WHERE id = 5").fetchone()
    assert found == ('{"gone": 1.50, "pence": 5}',)


def test_an_export_is_imported_with_the_classes(program: EventClient, run: Import, tmp_path: Path) -> None:
    """What was read before the export is read after the import, in both forms."""
    program.save_events([New(1), Plain(2)])
    run([line("CHECKED_NEW", '{"pounds": 3}', metadata={"$version": 1})])
    before = [event.data for event in program.get_event_stream()]
    for name in ("all.jsonl", "all.csv"):
        command = ["--app", "checked_app:client"]
        assert CliRunner().invoke(cli, [*command, "export", str(tmp_path / name)]).exit_code == 0
        done = CliRunner().invoke(cli, [*command, "import", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        after = [event.data for event in program.get_event_stream()]
        assert after == before * 2
        before = after


def test_a_plugin_sees_each_line_in_its_own_version_or_none(program: EventClient, run: Import) -> None:
    """A veto names the line, and `--skip` leaves it out; `--as-is` asks no plugin."""
    program.plugins.register(Veto())
    user = {"user": "u1"}
    texts = [
        line("CHECKED_NEW", '{"pence": 1}', metadata={**user, "$version": 2}),
        line("CHECKED_PLAIN", '{"pence": 2}'),
        exported("CHECKED_NEW", '{"pounds": 3}', user),
        exported("CHECKED_PLAIN", '{"pence": 4}', user),
    ]
    done = run(texts)
    assert done.exit_code == 1 and "line 2: a plugin refused it: ValueError: no user" in done.output
    assert [event.data for event in program.get_event_stream()] == [New(1)]
    done = run(texts, "--skip")
    assert "skipped line 3: it holds data of version 1 of CHECKED_NEW" in done.output
    assert [event.data for event in program.get_event_stream()][1:] == [New(1), Plain(4)]
    assert "imported 4 events" in run(texts, "--as-is").output
    assert [event.data for event in program.get_event_stream()][3:] == [New(1), Plain(2), New(300), Plain(4)]


def test_a_csv_of_unknown_columns_is_refused(run: Import, tmp_path: Path) -> None:
    """As are two columns of one name, of which only the last would count."""
    for header, words in (
        ("type,data,createdAt", "did you mean 'created_at'"),
        ("type,data,data", "two columns"),
    ):
        (tmp_path / "odd.csv").write_text(f"{header}\nA,{{}},{{}}\n")
        done = CliRunner().invoke(cli, ["--app", "checked_app:client", "import", str(tmp_path / "odd.csv")])
        assert done.exit_code == 2 and words in done.output


@attrs.frozen
class Deep:
    by_name: dict[str, Part]
    one: Part | None = None
    many: tuple[Part, ...] = ()
    at: datetime | None = None


def test_keys_of_plain_classes_are_known_at_any_depth() -> None:
    """The quick check says yes only where the slow one does, and says yes to what an instance writes."""
    known = key_check(Deep)
    part, odd = {"name": "a"}, {"name": "a", "x": 1}
    assert known({"by_name": {"x": part}, "one": part, "many": [part], "at": None})
    assert known({"by_name": {}, "one": None})
    for wrong in ({"by_name": {"x": odd}}, {"one": odd}, {"many": [part, odd]}, {"x": 1}):
        assert not known({"by_name": {}, **wrong})
    assert not key_check(Decimal)({})
