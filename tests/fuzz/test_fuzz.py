"""Whatever goes in: it is read back equal, or refused by pgevents in words, and nothing is half written.

By default each lane is short, and Hypothesis makes a failing input small. `pytest -m soak tests/fuzz` tries a
million: PGEVENTS_FUZZ says how many, PGEVENTS_FUZZ_SEED from which seed on. Seeds are printed.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import peewee
import psycopg2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from pgevents import EventClient, stream
from pgevents.cli import main
from pgevents.codec import fast
from pgevents.codec.serialization import Serializer

from ..conftest import database, shop_client
from . import inputs
from .oracle import Count, as_jsonb, outcome, same

INPUTS = int(os.environ.get("PGEVENTS_FUZZ", "1000000"))
SEED = int(os.environ.get("PGEVENTS_FUZZ_SEED", "0")) or random.SystemRandom().randrange(2**32)
CLASSES = 150
"""Event classes of random fields; a converter takes milliseconds for each."""
BATCH = 500
"""Events in one transaction."""

quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
randoms = st.randoms(use_true_random=False)


@lru_cache(maxsize=1)
def classes() -> list[tuple[type[Any], dict[str, Any]]]:
    """The classes of this run, the same for every lane; where annotations repeat, they are found once."""
    rng = random.Random(20_240_229)
    return [inputs.event_class(rng, f"FUZZ_{n}") for n in range(CLASSES)]


def without_msgspec(make: Callable[[], Any]) -> Any:
    """The same by the standard library's json and cattrs alone."""
    msgspec, load = fast.msgspec, fast.load
    fast.msgspec, fast.load = None, json.loads
    try:
        return make()
    finally:
        fast.msgspec, fast.load = msgspec, load


SERIALIZERS: dict[bool, Serializer] = {}


def serializer(has_msgspec: bool) -> Serializer:
    if has_msgspec not in SERIALIZERS:
        SERIALIZERS[has_msgspec] = Serializer()
    return SERIALIZERS[has_msgspec]


# -- the codec alone ------------------------------------------------------------


def code(rng: random.Random, count: Count) -> None:
    """One event to JSON, through a model of jsonb, and back; with and without msgspec alike."""
    count.inputs += 1
    if rng.random() < 0.3:
        cls, data = None, inputs.dict_event(rng, "T")["data"]
    else:
        cls, described = rng.choice(classes())
        data = inputs.instance(rng, cls, described)

    def round_trip(has_msgspec: bool) -> Any:
        codec = serializer(has_msgspec)
        text, as_read = codec.dump(data, cls, "T")
        stored = as_jsonb(text)
        read = codec.decode_text(stored, cls or dict, "T")
        assert same(data, read), f"{data!r} was read as {read!r}"
        assert same(as_read, read), f"the save would return {as_read!r}, a read {read!r}"
        return stored

    with_it, error = outcome(lambda: round_trip(True))
    without_it, other_error = without_msgspec(lambda: outcome(lambda: round_trip(False)))
    assert (with_it, type(error), str(error)) == (without_it, type(other_error), str(other_error))
    count.stored += error is None
    count.refused += error is not None


# -- events in a database ------------------------------------------------------------


def save_and_read(rng: random.Random, client: EventClient, count: Count) -> None:
    """Batches of typed and dict events with metadata: what is accepted alone is so together, and read."""
    events: list[tuple[Any, Any]] = []
    for _ in range(rng.randint(1, BATCH) if rng.random() < 0.5 else 3):
        count.inputs += 1
        if rng.random() < 0.4:
            event: Any = inputs.dict_event(rng, rng.choice(("A", "B", inputs.text(rng) or "C")))
            given = event["data"]
            if rng.random() < 0.2:
                event["metadata"] = inputs.dict_event(rng, "M")["data"]
        else:
            event = given = inputs.instance(rng, *rng.choice(classes()))
        _, error = outcome(lambda event=event: client.saver.encoder.encode([event]))
        count.refused += error is not None
        if error is None:
            events.append((event, given))
        else:
            before = len(client.get_event_stream(after=LAST.get(id(client), 0)))
            _, same_error = outcome(lambda event=event: client.save_event(event))
            assert str(same_error) == str(error)
            assert len(client.get_event_stream(after=LAST.get(id(client), 0))) == before
    if not events:
        return
    saved = client.save_events([event for event, _ in events])
    read = client.get_event_stream(after=saved[0].id - 1)
    LAST[id(client)] = saved[-1].id
    count.stored += len(saved)
    assert len(read) == len(saved) == len(events)
    for (event, given), at_save, at_read in zip(events, saved, read, strict=True):
        assert same(given, at_read.data), f"{given!r} was read as {at_read.data!r}"
        assert same(at_save.data, at_read.data)
        assert same(at_save.metadata, at_read.metadata)
        assert (at_save.id, at_save.type, at_save.created_at) == (
            at_read.id,
            at_read.type,
            at_read.created_at,
        )
        if isinstance(event, dict):
            assert same(event.get("metadata", {}), at_read.metadata)


LAST: dict[int, int] = {}


# -- identifiers and options ------------------------------------------------------------


def identify(rng: random.Random, client: EventClient, count: Count) -> None:
    """What identifies events finds exactly those that carry it, or is refused."""
    count.inputs += 1
    chosen = (
        inputs.odd(rng) if rng.random() < 0.3 else rng.choice((inputs.text(rng), inputs.number(rng), True))
    )
    name = rng.choice(("cart_id", "cart_id", "other", "größe", inputs.text(rng)))
    saved, error = outcome(lambda: client.save_event({"type": "IDENTIFIED", "data": {name: chosen}}))
    found, refused = outcome(lambda: client.get_event_stream("IDENTIFIED", data={name: chosen}))
    count.stored += refused is None
    count.refused += refused is not None
    if refused is None and error is None and not isinstance(chosen, (list, tuple, set, frozenset)):
        assert saved.id in [one.id for one in found], (name, chosen)
        assert all(str(one.data[name]) == str(chosen) for one in found), (name, chosen)


def choose(rng: random.Random, client: EventClient, count: Count) -> None:
    """Options of reads and saves, of their kind or not: they mean what they say, or are refused."""
    count.inputs += 1

    def option(*right: Any) -> Any:
        return inputs.odd(rng) if rng.random() < 0.3 else rng.choice(right)

    now = datetime.now(timezone.utc)
    calls: list[Callable[[], Any]] = [
        lambda: client.get_event_stream(
            "IDENTIFIED", after=option(0, 1, -1, 2**63, 10**400), as_of=option(None, now, 5), cart_id="c1"
        ),
        lambda: client.get_event_stream(
            "IDENTIFIED", cart_id="c1", on_undecodable=option("raw", "skip", "raise")
        ),
        lambda: client.get_latest_event(option("IDENTIFIED", None, "", "X" * 201), cart_id=option("c1", 3)),
        lambda: list(client.iter_event_stream("IDENTIFIED", after=option(0, 3), cart_id="c1")),
        lambda: client.save_event(
            {"type": option("IDENTIFIED", "X" * 201, ""), "data": {"cart_id": "c1"}},
            metadata=option(None, {}, {"a": 1}, {"$version": 2}),
            idempotency_key=option(None, inputs.text(rng), "k" * 501),
            created_at=option(None, now, now - timedelta(days=300_000), now.replace(tzinfo=None)),
        ),
        lambda: client.save_events_with_stream_validation(
            option([], [{"type": "IDENTIFIED", "data": {"cart_id": "c1"}}]),
            option(None, 0, 10**6, client.get_event_stream("IDENTIFIED", cart_id="c1")),
            option(None, [], stream("IDENTIFIED", cart_id="c1"), [stream("IDENTIFIED", cart_id="c1")]),
        ),
    ]
    _, error = outcome(rng.choice(calls))
    count.stored += error is None
    count.refused += error is not None


# -- SQL ------------------------------------------------------------


def append_by_sql(rng: random.Random, client: EventClient, count: Count) -> None:
    """What another program appends by the SQL function is read as it was, or refused whole."""
    rows: list[str] = []
    is_broken = rng.random() < 0.7
    for _ in range(rng.choice((1, 1, 5)) if is_broken else 50):
        count.inputs += 1
        name = json.dumps(rng.choice(("SQL_A", "SQL_B", inputs.text(rng) if is_broken else "SQL_C")))
        values = [inputs.json_text(rng, is_broken) for _ in range(rng.randrange(3))]
        data = "{" + ", ".join(f'"k{n}": {value}' for n, value in enumerate(values)) + "}"
        if is_broken and rng.random() < 0.03:
            data = inputs.json_text(rng, is_broken)
        metadata = ""
        if is_broken and rng.random() < 0.1:
            version = rng.choice(("1", "2", "-1e18", "null", '"2"', "[1]", "1.5"))
            metadata = f', "metadata": {{"$version": {version}}}'
        rows.append(f'{{"type": {name}, "data": {data}{metadata}}}')
    text = "[" + ", ".join(rows) + "]"
    before = client.db.execute_sql("SELECT coalesce(max(id), 0) FROM my_app.events").fetchone()[0]
    try:
        with client.db.atomic():
            client.db.execute_sql("SELECT my_app.events_append(%s::jsonb)", [text])
    except (peewee.PeeweeException, psycopg2.Error, UnicodeEncodeError, ValueError) as error:
        state = getattr(getattr(error, "orig", error.__cause__), "pgcode", "") or ""
        assert not state.startswith("XX"), error
        assert len(client.get_event_stream(after=before)) == 0, text
        count.refused += len(rows)
        return
    read = client.get_event_stream(after=before)
    assert len(read) == len(rows), text
    expected = json.loads(as_jsonb(text), parse_constant=str)
    for one, row in zip(read, expected, strict=True):
        assert one.type == row["type"]
        assert same(row["data"], one.data), f"{row['data']!r} was read as {one.data!r}"
    count.stored += len(rows)


# -- files ------------------------------------------------------------


def by_command(*arguments: str) -> str:
    """What a command of the command line says, which ends as commands do."""
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr(sys, "argv", ["pgevents", *arguments])
        with pytest.raises(SystemExit) as ended:  # anything else is an error of the program's own
            main()
    said.seek(0)
    output = said.read()
    assert ended.value.code in (0, 1, None), output
    assert "Traceback" not in output
    return output


def import_a_file(rng: random.Random, client: EventClient, count: Count, url: str, folder: Path) -> None:
    """Lines are imported, but for those that are refused by their numbers; an export gives them back."""
    path, lines, is_broken = folder / f"{rng.getrandbits(64):x}.jsonl", [], rng.random() < 0.3
    for _ in range(rng.choice((1, 30, 300))):
        count.inputs += 1
        name = json.dumps(rng.choice(("FILE_A", inputs.text(rng) if is_broken else "FILE_B")))
        value = inputs.json_text(rng, is_broken and rng.random() < 0.1)
        line = f'{{"type": {name}, "data": {{"v": {value}}}}}'
        is_line = not is_broken or rng.random() < 0.98
        lines.append(line if is_line else rng.choice(("", "{}", "[1]", "\ufeff{", line[:-2])))
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    before = client.db.execute_sql("SELECT coalesce(max(id), 0) FROM my_app.events").fetchone()[0]
    store = ["--database", f"postgresql:///?{urlencode(parse_dsn(url))}", "--events", "my_app.events"]
    output = by_command("import", str(path), "--skip", *store)
    skipped = {int(number) for number in re.findall(r"^skipped line (\d+):", output, re.MULTILINE)}
    read = client.get_event_stream(after=before)
    kept = [line for number, line in enumerate(lines, 1) if number not in skipped and line]
    assert len(kept) == len(read), output
    for one, line in zip(read, kept, strict=True):
        expected = json.loads(as_jsonb(line.removeprefix("\ufeff")), parse_constant=str)
        assert one.type == expected["type"]
        assert same(expected["data"], one.data), f"{line} was read as {one.data!r}"
    by_command("export", str(path), "--after", str(before), *store)
    exported = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [(one["id"], one["type"]) for one in exported] == [(one.id, one.type) for one in read]
    assert all(same(one.data, line["data"]) for one, line in zip(read, exported, strict=True))
    count.stored += len(read)
    count.refused += len(lines) - len(read)
    path.unlink()


# -- the lanes ------------------------------------------------------------


@pytest.fixture
def any_client(pgevents_tables: None, url: str) -> Any:
    """A client that knows the classes above, and dict events."""
    db = database(url)
    yield shop_client(db, [cls for cls, _ in classes()])
    db.close()


@quick
@given(rng=randoms)
def test_the_codec_gives_back_what_it_takes(rng: random.Random) -> None:
    """Typed and dict events, of right and wrong values."""
    for _ in range(20):
        code(rng, Count())


@quick
@given(rng=randoms)
def test_a_database_gives_back_what_it_takes(any_client: EventClient, rng: random.Random) -> None:
    """The same through a server, with metadata, alone and in batches."""
    save_and_read(rng, any_client, Count())


@quick
@given(rng=randoms)
def test_identifiers_and_options_mean_what_they_say(any_client: EventClient, rng: random.Random) -> None:
    """Whatever is given for them."""
    for _ in range(4):
        identify(rng, any_client, Count())
        choose(rng, any_client, Count())


@quick
@given(rng=randoms)
def test_what_sql_appends_is_read_or_refused(any_client: EventClient, rng: random.Random) -> None:
    """Other programs write through the same function."""
    append_by_sql(rng, any_client, Count())


@settings(quick, max_examples=8)
@given(rng=randoms)
def test_files_are_imported_line_by_line_or_refused(
    any_client: EventClient, url: str, tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    """Broken lines are named, and the others are there."""
    import_a_file(rng, any_client, Count(), url, tmp_path_factory.mktemp("files"))


@pytest.mark.soak
def test_a_million_inputs(
    any_client: EventClient, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All lanes by turns, until there were so many inputs: the codec alone takes most of them."""
    lanes: list[tuple[str, float, Callable[[random.Random, Count], None]]] = [
        ("codec", 0.85, code),
        ("database", 0.10, lambda rng, count: save_and_read(rng, any_client, count)),
        ("identifiers", 0.005, lambda rng, count: identify(rng, any_client, count)),
        ("options", 0.005, lambda rng, count: choose(rng, any_client, count)),
        ("sql", 0.03, lambda rng, count: append_by_sql(rng, any_client, count)),
        ("files", 0.01, lambda rng, count: import_a_file(rng, any_client, count, url, tmp_path)),
    ]
    total = Count()
    for name, share, run in lanes:
        count, seed = Count(), SEED
        while count.inputs < INPUTS * share:
            seed += 1
            try:
                run(random.Random(seed), count)
            except BaseException as error:
                error.args = (f"lane {name}, PGEVENTS_FUZZ_SEED={seed - 1}: {error}",)
                raise
        with capsys.disabled():
            print(f"\n{name} (seeds {SEED + 1} to {seed}): {count}")
        for field in ("inputs", "stored", "refused"):
            setattr(total, field, getattr(total, field) + getattr(count, field))
    with capsys.disabled():
        print(f"\nall: {total}")
    assert total.inputs == total.stored + total.refused
