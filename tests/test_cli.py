"""The command line: what it prints, to whom, and with which exit code."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from pgevents.cli import main
from pgevents.demo.orders import FIELDS

Command = Callable[..., tuple[object, str, str]]
HEADER = ",".join(FIELDS)
ORDERS = (
    "1,22423,CAKESTAND [RED],2,2010-12-09 08:30:00,12.75,17850.0,Eire",
    "1,DOT,POSTAGE,1,2010-12-09 08:30:00,99.00,17850.0,Eire",
    "C2,22423,CAKESTAND [RED],-1,2010-12-10 09:00:00,12.75,,Eire",
    "3,22423,,-5,2010-12-10 09:00:00,0.0,,Eire",
)


TWO_BUYERS = "import pgevents.demo.run; pgevents.demo.run.BUYERS = 2"


def pgevents(*arguments: str | Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as its entry point does, after some Python if need be."""
    code = f"{before}\nimport sys\nfrom pgevents.cli import main\nif __name__ == '__main__': sys.exit(main())"
    environment = {**os.environ, "COLUMNS": "80", "PYTHONUTF8": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


@pytest.fixture
def database(url: str) -> str:
    """The test's database as a person would give it to the command."""
    return "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote)


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    """A small file of order lines."""
    path = tmp_path / "orders.csv"
    path.write_text("\n".join((HEADER, *ORDERS)) + "\n")
    return path


def test_the_demo_tells_a_shop_owner_the_day(database: str, url: str, orders: Path) -> None:
    """Turnover, best sellers, what was skipped, the race and the source fit 80 columns; one schema is
    left."""
    done = pgevents("demo", "--csv", orders, "--database", database, before=TWO_BUYERS)
    assert (done.returncode, done.stderr) == (0, "")
    for told in (
        "4 order lines of a shop, 9 December 2010 to 10 December 2010",
        "£124.50",
        "-£12.75",
        "£111.75",
        "22423    CAKESTAND [RED]",
        "negative quantity, but not a cancellation (stock correction)",
        "1 was told that it is sold out",
        "Every figure equals what the CSV itself adds up to, to the penny.",
        "CC BY 4.0",
        "DROP SCHEMA pgevents_demo_",
    ):
        assert told in " ".join(done.stdout.split()) or told in done.stdout
    tables = done.stdout[done.stdout.index("The shop") : done.stdout.index("Order lines: Chen")]
    assert max(map(len, tables.splitlines())) <= 80
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_(catalog|toast|temp)|information|public)'"
    )
    assert [name[:14] for (name,) in cursor.fetchall()] == ["pgevents_demo_"]
    connection.close()


SPOILED = """
import pgevents.demo.replay as replay_module
from pgevents.demo.shop import CartView
honest = replay_module.add_item
from attrs import evolve
replay_module.add_item = lambda cart, item: evolve(honest(cart, item), price=item.price + 1)
"""


@pytest.mark.long
def test_a_penny_too_much_fails_the_demo(database: str, orders: Path) -> None:
    """If the views do not add up to the CSV, the command says what does not, and its exit code is 1."""
    done = pgevents("demo", "--csv", orders, "--database", database, before=TWO_BUYERS + SPOILED)
    assert done.returncode == 1
    assert "✗ Not what the CSV adds up to: money, money, Turnover, by products." in " ".join(
        done.stdout.split()
    )


@pytest.mark.parametrize("name", ["click", "rich"])
def test_a_missing_extra_says_what_to_install(orders: Path, name: str) -> None:
    """Without click or rich the command ends in one line with the pip command that helps."""
    done = pgevents("demo", "--csv", orders, before=f"import sys; sys.modules[{name!r}] = None")
    assert done.returncode == 1
    assert 'pip install "pgevents-store[cli]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_embedded_server_says_what_to_install(orders: Path) -> None:
    """Without the wheel of the embedded server the demo says which extra has it."""
    hide = (
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if 'pgserver' in name else find(name, *rest)"
    )
    done = pgevents("demo", "--csv", orders, before=hide)
    assert done.returncode == 1
    assert 'pip install "pgevents-store[embedded]"' in done.stderr


@pytest.fixture
def cli(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process, on the test's database; gives exit code, output and errors."""
    monkeypatch.setenv("PGEVENTS_DATABASE_URL", database)

    def run(*arguments: str | Path, stdin: str = "") -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["pgevents", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code or 0, output.out, output.err

    return run


def test_errors_are_one_line_on_the_standard_error(cli: Command, tmp_path: Path, orders: Path) -> None:
    """What was not understood ends with 2, what failed with 1; a password is not printed."""
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty.csv").write_text(HEADER + "\n1,2\n")
    nowhere = "postgresql://me:geheim@localhost:1/shop"
    for code, words, arguments in (
        (2, "No such command", ["nonsense"]),
        (2, "does not exist", ["demo", "--csv", tmp_path / "missing.csv"]),
        (2, "names no column InvoiceNo", ["demo", "--csv", tmp_path / "other.csv"]),
        (2, "starts with postgresql://", ["demo", "--csv", orders, "--database", "shop"]),
        (1, "2 fields where the header has 8", ["demo", "--csv", tmp_path / "empty.csv"]),
        (1, "Connection refused", ["demo", "--csv", orders, "--database", nowhere]),
    ):
        ended, out, error = cli(*arguments)
        assert ended == code
        assert error.startswith("pgevents: ")
        assert words in error
        assert error.count("\n") == 1
        assert "geheim" not in out + error


def test_help_names_the_exit_codes(cli: Command) -> None:
    """Every help page says what the exit codes mean."""
    for arguments in (["--help"], ["demo", "--help"]):
        code, out, _ = cli(*arguments)
        assert code == 0
        assert "Exit codes: 0" in out


@pytest.fixture
def log(cli: Command) -> Command:
    """The same, with tables and three events of two carts."""
    cli(
        "init",
        "--events",
        "my_app.events",
        "--index",
        "cart_id",
        "--index",
        "product_id",
        "--view-index",
        "user_id",
    )
    cli("append", "CART_CREATED", '{"cart_id": "c1", "user": "Ä"}', "--metadata", '{"by": "me"}')
    cli("append", "ITEM_ADDED", '{"cart_id": "c1", "text": "a\\n\\"b\\","}')
    cli(
        "append",
        "CART_CREATED",
        '{"cart_id": "c2"}',
        "--key",
        "k",
        "--created-at",
        "2026-01-01T12:00:00+0100",
    )
    return cli


def test_init_makes_the_tables_or_prints_their_sql(cli: Command) -> None:
    """`init` may be run again; `--sql` is what it runs, and needs no database."""
    for _ in range(2):
        code, out, _ = cli("init", "--events", "my_app.events", "--index", "cart_id")
        assert (code, out) == (0, "my_app.events and my_app.projections are ready.\n")
    printed = pgevents("init", "--sql", "--events", "my_app.events", "--index", "cart_id").stdout
    assert printed.startswith("BEGIN;")
    assert "data->>'cart_id'" in printed


def test_append_saves_and_validates(log: Command) -> None:
    """An event is saved once for a key, and with `--after` only if its stream has nothing newer."""
    assert log("append", "CART_CREATED", "-", "--key", "k", "--json", stdin='{"cart_id": "c2"}')[1] == (
        '{"id": 3, "type": "CART_CREATED", "data": {"cart_id": "c2"}, "metadata": {}, '
        '"created_at": "2026-01-01T11:00:00+00:00"}\n'
    )
    assert log("append", "ITEM_ADDED", "cart_id=c2", "--stream", "cart_id=c2", "--after", "3")[0] == 0
    code, _, error = log("append", "ITEM_ADDED", "cart_id=c2", "--stream", "cart_id=c2", "--after", "3")
    assert (code, error.count("\n")) == (1, 1)
    assert "nothing was written" in error


def test_stream_and_tail_print_events(log: Command) -> None:
    """A stream from the first event on, a tail from the last; by identifier, type, id and time; also as
    JSON."""
    assert [json.loads(line)["id"] for line in log("stream", "--json")[1].splitlines()] == [1, 2, 3]
    assert log("stream", "cart_id=c1", "--type", "ITEM_ADDED")[1].split()[0] == "2"
    assert len(log("stream", "cart_id=c1", "cart_id=c2", "--as-of", "2")[1].splitlines()) == 2
    assert len(log("stream", "--as-of", "2026-02-01T00:00:00Z")[1].splitlines()) == 1
    assert [line.split()[0] for line in log("tail", "-n", "2")[1].splitlines()] == ["2", "3"]
    assert log("tail", "-n", "0")[1] == log("tail", "cart_id=nobody")[1] == ""


def test_a_stream_is_printed_in_part_and_by_comparisons(log: Command) -> None:
    """The options and comparisons of reads; numbers, days and times by what the text looks like."""
    for day, quantity in ((1, 9), (2, 10), (3, -1)):
        data = {"quantity": quantity, "day": f"2026-01-0{day}", "at": f"2026-01-0{day}T00:00:00+02:00"}
        log("append", "COUNTED", json.dumps({**data, "state": f"s{day}"}))

    def ids(*arguments: str) -> list[int]:
        code, out, error = log("stream", "--json", "--type", "COUNTED", *arguments)
        assert (code, error) == (0, "")
        return [json.loads(line)["id"] for line in out.splitlines()]

    assert ids("--reverse") == [6, 5, 4]
    assert ids("--reverse", "--limit", "1", "--after", "6", "--final") == [5]
    assert ids("quantity>=9") == [4, 5]
    assert ids("quantity>=0", "quantity<=9") == [4]
    assert ids("day>2026-01-01", "state!=s3") == [5]
    assert ids("state!=s3", "state!=s2") == [4]
    assert ids("at<2026-01-01T22:00:00Z") == [4]
    assert log("tail", "quantity<9", "--json")[1].count("\n") == 1
    for wrong in (["quantity>=1", "quantity>2"], ["quantity>=1", "quantity=2"], [">=5"], ["quantity"]):
        code, _, error = log("stream", *wrong)
        assert code == 2
        assert "do not go together" in error or "write FIELD=VALUE" in error
    assert "exclude each other" in log("stream", "--final", "--as-of", "3")[2]


def test_tail_follows_the_log(log: Command, database: str) -> None:
    """With `--follow` new events come as they are saved, until Ctrl-C."""
    environment = {**os.environ, "PGEVENTS_DATABASE_URL": database}
    command = [
        sys.executable,
        "-c",
        "from pgevents.cli import main; main()",
        "tail",
        "-n",
        "1",
        "--follow",
        "--json",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == 3
        assert log("append", "CART_CHECKED_OUT", '{"cart_id": "c1"}')[::2] == (0, "")
        timer = threading.Timer(30, process.kill)
        timer.start()
        assert json.loads(process.stdout.readline())["type"] == "CART_CHECKED_OUT"
        timer.cancel()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
def test_an_export_is_resumed_and_imported_exactly(log: Command, tmp_path: Path, name: str) -> None:
    """Cut off, resumed, imported into another log, and imported again: every event is there once, as it
    was."""
    path = tmp_path / name
    assert log("export", path)[0] == 0
    path.write_bytes(path.read_bytes()[:-7])
    log("append", "CART_CHECKED_OUT", '{"cart_id": "c1"}')
    assert "exported 2 events" in log("export", path, "--resume")[2]
    assert "exported 0 events" in log("export", path, "--resume")[2]
    log("init", "--events", "copy.events", "--index", "cart_id")
    assert "imported 4 events" in log("import", path, "--events", "copy.events")[2]
    assert (
        '{"events": 0, "repeated": 4, "skipped": 0,'
        in log("import", path, "--json", "--events", "copy.events")[2]
    )
    assert (
        log("stream", "--json", "--events", "copy.events")[1]
        == log("stream", "--json", "--events", "my_app.events")[1]
    )


def test_an_import_goes_on_where_the_file_has_grown(log: Command, tmp_path: Path) -> None:
    """What was added to the file is saved, what was there is not saved twice, and what was changed is
    refused."""
    path = tmp_path / "new.jsonl"
    lines = [f'{{"type": "NOTE", "data": {{"n": {number}}}}}\n' for number in range(1_203)]
    for many, told in ((3, "3 events"), (700, "697 events"), (1_203, "503 events"), (1_203, "0 events")):
        path.write_text("".join(lines[:many]))
        assert f"imported {told}" in log("import", path)[2]
    notes = [
        json.loads(line)["data"]["n"] for line in log("stream", "--type", "NOTE", "--json")[1].splitlines()
    ]
    assert notes == list(range(1_203))
    path.write_text("".join(lines).replace('"n": 0', '"n": -1'))
    code, _, error = log("import", path)
    assert code == 1
    assert "another event was imported from this line" in error


def test_an_import_stops_at_a_bad_line_or_tells_of_it(log: Command, tmp_path: Path) -> None:
    """What stands before the line is saved; with `--skip` also what stands after it, and the exit code is
    1."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"type": "A", "data": {}}\n{"type": "B"}\n\xff\n[1]\n\n{"type": "C", "data": {}}\n')
    code, _, error = log("import", path)
    assert (code, error.count("\n")) == (1, 1)
    assert "line 2: " in error
    assert len(log("stream", "--type", "A")[1].splitlines()) == 1
    code, _, error = log("import", path, "--skip")
    assert code == 1
    assert [line.partition(":")[0] for line in error.splitlines()[:-1]] == [
        "skipped line 2",
        "skipped line 3",
        "skipped line 4",
    ]
    assert "imported 1 events" in error
    assert len(log("stream", "--type", "C")[1].splitlines()) == 1


def test_old_versions_of_events_are_carried_along(log: Command, tmp_path: Path) -> None:
    """The version of an event's data is exported and imported, so that its upcasters still find it."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"type": "OLD", "data": {"n": 1}, "metadata": {"$version": 2}}\n')
    assert log("import", path)[0] == 0
    log("export", tmp_path / "again.jsonl", "--type", "OLD")
    assert json.loads((tmp_path / "again.jsonl").read_text())["metadata"] == {"$version": 2}


def test_any_csv_is_imported_as_events_of_one_type(log: Command, orders: Path) -> None:
    """With `--type` each row is an event, its data by column."""
    assert "imported 4 events" in log("import", orders, "--type", "ORDER_LINE")[2]
    (line,) = log("stream", "InvoiceNo=C2", "--json")[1].splitlines()
    assert json.loads(line)["data"]["Quantity"] == "-1"


def test_show_and_query_print_saved_projections(log: Command, database: str) -> None:
    """Projections are shown by type and id, and found and sorted by the fields of their views."""
    assert log("show", "CART", "c1")[0] == 1
    connection = psycopg2.connect(database)
    cursor = connection.cursor()
    for number in (9, 10):
        view = json.dumps({"id": f"c{number}", "user_id": "u1", "total": number})
        values = (f"c{number}", view)
        cursor.execute(
            "INSERT INTO my_app.projections (type, id, data, latest_event_id) VALUES ('CART', %s, %s, 1)",
            values,
        )
    connection.commit()
    connection.close()
    assert '"total": 9' in log("show", "CART", "c9")[1]
    found = log("query", "CART", "user_id=u1", "--order-by", "total", "--descending", "--json")[
        1
    ].splitlines()
    assert [json.loads(line)["id"] for line in found] == ["c10", "c9"]
    assert "No projection" in log("query", "CART", "user_id=u2")[1]

    def ids(*arguments: str) -> list[str]:
        code, out, error = log("query", "CART", "--json", *arguments)
        assert (code, error) == (0, "")
        return [json.loads(line)["id"] for line in out.splitlines()]

    assert ids("total>=10") == ["c10"]
    assert ids("total>=9", "total<=9.5", "user_id!=u2") == ["c9"]
    assert ids("--order-by", "-total", "--limit", "1", "--offset", "1") == ["c9"]
    assert ids("--descending") == ["c9", "c10"]
    assert ids("--version", "2") == []
    assert log("query", "CART", "total>8", "--count")[1] == "2\n"
    code, _, error = log("query", "CART", "--order-by", "no'field")
    assert code == 2
    assert "field names" in error


def test_stats_counts_and_doctor_advises(log: Command, database: str) -> None:
    """A sound store has no fault; a guard that was switched off is one, with what to do, and exit code 1."""
    assert json.loads(log("stats", "--json")[1])["types"][0]["events"] == 2
    assert "3 events in" in log("stats")[1]
    faults = [
        line for line in log("doctor", "--json")[1].splitlines() if json.loads(line)["level"] == "fault"
    ]
    assert [
        fault for fault in faults if "fsync" not in fault
    ] == []  # the tests' server is fast rather than durable
    connection = psycopg2.connect(database)
    cursor = connection.cursor()
    cursor.execute("ALTER TABLE my_app.events DISABLE TRIGGER pgevents_change")
    cursor.execute(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'events' AND indexdef LIKE '%cart_id%'"
    )
    cursor.execute(f'DROP INDEX my_app."{cursor.fetchall()[0][0]}"')
    connection.commit()
    connection.close()
    code, out, _ = log("doctor")
    assert code == 1
    assert "is not guarded: pgevents_change is missing or disabled" in out
    assert "has no index on (data->>'cart_id'), id" in out


def test_doctor_sees_through_names_and_defaults(log: Command, database: str) -> None:
    """A wrong index under a right name, a read-only default, a trigger that changes events, who waits."""

    with psycopg2.connect(database) as connection:
        cursor = connection.cursor()
        cursor.execute('DROP INDEX my_app."events$data$cart_id$idx"')
        cursor.execute("""CREATE INDEX "events$data$cart_id$idx" ON my_app.events ((data->>'user_id'), id)""")
        cursor.execute(
            "CREATE FUNCTION my_app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        for name, when in (("norm", "BEFORE"), ("notify", "AFTER")):
            cursor.execute(
                f"CREATE TRIGGER {name} {when} INSERT ON my_app.events FOR EACH ROW EXECUTE FUNCTION "
                "my_app.f()"
            )
        cursor.execute(f"ALTER DATABASE {connection.info.dbname} SET default_transaction_read_only = on")
    connection.close()
    code, out, _ = log("doctor")
    assert code == 1
    assert 'the index "my_app"."events$data$cart_id$idx" is not the one that pgevents makes' in out
    assert 'DROP INDEX CONCURRENTLY "my_app"."events$data$cart_id$idx"' in out
    assert "transactions are READ ONLY by default" in out
    assert "has a row trigger before INSERT that is not pgevents', norm" in out
    assert "each save runs triggers of others: notify" in out
    with psycopg2.connect(database) as holder, psycopg2.connect(database) as waiter:
        for one in (holder, waiter):
            one.cursor().execute("SET TRANSACTION READ WRITE")
        holder.cursor().execute("LOCK TABLE my_app.events IN EXCLUSIVE MODE")
        thread = threading.Thread(
            target=waiter.cursor().execute, args=["LOCK TABLE my_app.events IN EXCLUSIVE MODE"]
        )
        thread.start()
        end = time.monotonic() + 10
        expected = f"backend {waiter.info.backend_pid}"
        while expected not in out and time.monotonic() < end:
            out = " ".join(log("doctor")[1].split())
        assert f"SELECT pg_terminate_backend({holder.info.backend_pid})" in out
        holder.rollback()
        thread.join()
        waiter.rollback()


def test_init_again_keeps_the_indexed_fields(log: Command) -> None:
    """Fields that running programs rely on go only if that is said."""
    assert log("init")[0] == 0
    assert log("append", "A", '{"cart_id": "c1"}')[0] == 0
    code, _, error = log("init", "--index", "product_id")
    assert code == 2
    assert "--drop-index cart_id" in error
    assert log("init", "--index", "cart_id", "--index", "product_id")[0] == 0
    assert log("init", "--drop-index", "cart_id", "--index", "product_id")[0] == 0
    assert "indexed are product_id" in log("init", "--drop-index", "cart_id")[2]
    assert log("init", "--drop-index", "product_id")[0] == 0


def test_the_readmes_commands_work_without_a_schema(cli: Command) -> None:
    """`pgevents init` and any other command, on tables that name no schema; and a program that names none."""
    assert cli("init", "--index", "cart_id")[0] == 0
    assert cli("append", "CART_CREATED", '{"cart_id": "c9"}')[0] == 0
    for arguments in (("stats",), ("stream", "cart_id=c9"), ("tail",), ("export", "-")):
        code, out, error = cli(*arguments)
        assert code == 0, error
        assert out
    assert "of this version of pgevents" in cli("doctor")[1]


def test_which_tables_is_asked_only_if_there_are_several(log: Command) -> None:
    """The only events table is found by itself; of several one has to be named; without any the way to it is
    told."""
    log("init", "--events", "copy.events")
    code, _, error = log("stream")
    assert code == 1
    assert "copy.events, my_app.events" in error
    assert "pgevents init makes one" in log("stream", "--events", "nowhere.events")[2]


@pytest.mark.parametrize(
    "arguments",
    [
        ["stream", "cart_id"], ["stream", "x'=3"], ["stream", "--as-of", "x"], ["append", "A", "x"],
        ["append", "A", "[]"], ["append", "A", "{}", "--after", "1"], ["import", "-"],
        ["export", "-", "--resume"],
        ["append", "A", "{}", "--stream", "a=1"], ["append", "A", "n:=x"], ["append", "A", "n=1", "n=2"],
        ["stream", "--as-of", "9" * 20], ["stream", "--after", "9" * 20], ["tail", "-n", "9" * 20],
        ["query", "A", "--order-by", "a-b"], ["show", "\udcff", "x"],
        ["append", "A", "--created-at", "2026-01-01"],
        ["append", "A", "--created-at", "0001-01-01T00:00:00+14:00"], ["diff", "A", "x"],
        ["append", "A", "--app", "nowhere:client"], ["append", "A", "--app", "nowhere"],
        ["append", "A", "--plugin", "nowhere"], ["stream", "--database", "embedded:"],
    ],
)  # fmt: skip
def test_what_is_not_understood_ends_with_2(log: Command, arguments: list[str]) -> None:
    """Arguments that cannot be meant are told in one line, with exit code 2."""
    code, _, error = log(*arguments)
    assert (code, error.count("\n")) == (2, 1)


def test_doctor_names_who_holds_the_horizon_back_and_what_is_waste(
    log: Command, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open save, an index that nobody uses and rows that are dead are seen for what they are, with what to
    do."""
    monkeypatch.setattr("pgevents.diagnosis.LONG", 0.0)
    monkeypatch.setattr("pgevents.diagnosis.BIG", 10)
    with psycopg2.connect(database) as slow:
        cursor = slow.cursor()
        cursor.execute("""SELECT my_app.events_append('[{"type": "A", "data": {"cart_id": "c1"}}]')""")
        pid = slow.info.backend_pid
        out = " ".join(log("doctor")[1].split())
        assert f"backend {pid}" in out
        assert "followers wait" in out
        assert f"SELECT pg_terminate_backend({pid})" in out
        slow.rollback()
        cursor.execute("ALTER TABLE my_app.events SET (autovacuum_enabled = false)")
        for _ in range(2):
            cursor.execute("SET LOCAL pgevents.maintenance = 'a test'")
            cursor.execute(
                "SELECT my_app.events_append(jsonb_agg(jsonb_build_object('type', 'A', 'data', '{}'::jsonb)))"
                " FROM generate_series(1, 1500)"
            )
            cursor.execute("UPDATE my_app.events SET metadata = '{\"touched\": true}' WHERE type = 'A'")
            slow.commit()
        cursor.execute("SELECT pg_stat_force_next_flush()")
        slow.commit()
    out = " ".join(log("doctor")[1].split())
    assert "the horizon is free" in out
    assert "$cart_id$idx (0.0 MB) was never used since statistics began" in out
    assert "$type$idx" not in out  # pgevents needs it, and no program declares it
    assert "is bloated: " in out
    assert 'VACUUM "my_app"."events"' in out


# -- options, fields and plugins ------------------------------------------------------------


def test_options_of_the_store_stand_before_or_after_the_command(log: Command) -> None:
    """Both mean the same; what stands after the command goes before."""
    after = log("stream", "--json", "--events", "my_app.events")[1]
    assert log("--json", "--events", "my_app.events", "stream")[1] == after
    assert "nowhere.events" in log("--events", "my_app.events", "stream", "--events", "nowhere.events")[2]


def test_append_takes_fields(log: Command) -> None:
    """FIELD=TEXT and FIELD:=JSON are the data, alone or added to an object."""
    line = log("append", "ITEM", "cart_id=c3", "quantity:=2", "note=a=b", 'tags:=["x"]', "--json")[1]
    data = {"cart_id": "c3", "quantity": 2, "note": "a=b", "tags": ["x"]}
    assert json.loads(line)["data"] == data
    line = log("append", "ITEM", '{"cart_id": "c3"}', "big:=12345678901234567", "--json")[1]
    assert json.loads(line)["data"] == {"cart_id": "c3", "big": 12345678901234567}


def test_a_folder_is_a_database(cli: Command, tmp_path: Path) -> None:
    """`embedded:FOLDER` starts a server for the time of a command; what it holds stays."""
    folder = f"embedded:{tmp_path / 'data'}"
    assert cli("--database", folder, "init", "--events", "my_app.events")[0] == 0
    assert cli("append", "NOTE", "cart_id=c1", "--database", folder)[0] == 0
    assert json.loads(cli("stream", "--json", "--database", folder)[1])["type"] == "NOTE"


APP = """
from attrs import frozen
from pgevents import ProjectionBase, create_event_client, create_events_table, create_projections_table
from pgevents import event, hookimpl, pipeline

@event("CLI_ADDED")
class Added:
    cart_id: str
    quantity: int

@frozen
class Cart:
    id: str
    quantity: int = 0

class CartProjection(ProjectionBase[Cart, Added]):
    projection_type = "CLI_CART"
    reducers = pipeline(quantity=lambda quantity, event: quantity + event.data.quantity)

    def initial_view(self):
        return Cart(self.id)

    def get_event_identifiers(self):
        return {"cart_id": self.id}

class Veto:
    @hookimpl
    def pgevents_before_save(self, events):
        for one in events:
            quantity = one.data["quantity"] if isinstance(one.data, dict) else one.data.quantity
            if quantity < 1:
                raise ValueError("a quantity is at least 1")

def make_client():
    import os
    events = create_events_table("my_app", data_indexes=["cart_id", "product_id"])
    views = create_projections_table("my_app", "projections", ["user_id"])
    return create_event_client(os.environ["PGEVENTS_DATABASE_URL"], events, views, plugins=[Veto()])

def added_only():
    whole = make_client()
    return create_event_client(whole.db, whole.events, whole.projections, [Added])

def flask_app():
    from flask import Flask
    from pgevents.flask import PgEvents
    app = Flask("cli")
    app.config.update(PGEVENTS_SCHEMA="my_app", PGEVENTS_DATA_INDEXES=["cart_id", "product_id"])
    PgEvents(app, plugins=[Veto()])
    return app
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a module with a program's own client, classes and plugin; imported once."""
    folder = tmp_path_factory.mktemp("app")
    (folder / "cli_app.py").write_text(APP)
    sys.path.insert(0, str(folder))
    yield "cli_app"
    sys.path.remove(str(folder))


@pytest.mark.parametrize(
    "options",
    [["--plugin", "cli_app:Veto"], ["--app", "cli_app:make_client"], ["--app", "cli_app:flask_app"]],
    ids=["plugin", "client", "flask"],
)
def test_a_plugin_is_not_gone_round(log: Command, app: str, options: list[str], tmp_path: Path) -> None:
    """A veto holds for `append` and `import`, too, with the plugin named or that of the program."""
    assert log("append", "CLI_ADDED", "cart_id=c7", "quantity:=2", *options)[0] == 0
    code, _, error = log("append", "CLI_ADDED", "cart_id=c7", "quantity:=0", *options)
    assert code == 1
    assert error.count("\n") == 1
    assert "at least 1" in error
    path = tmp_path / "more.jsonl"
    path.write_text('{"type": "CLI_ADDED", "data": {"cart_id": "c7", "quantity": 0}}\n')
    code, _, error = log("import", path, *options)
    assert (code, error.count("\n")) == (1, 1)
    assert len(log("stream", "cart_id=c7")[1].splitlines()) == 1


def test_diff_shows_a_view_then_and_now(log: Command, app: str) -> None:
    """With the program's classes, as of two ids or times; also for programs."""
    for quantity in (1, 2):
        log("append", "CLI_ADDED", "cart_id=c7", f"quantity:={quantity}")
    options = ["--app", "cli_app:make_client"]
    code, out, error = log("diff", "CLI_CART", "c7", "--from", "4", "--to", "5", *options)
    assert (code, error) == (0, "")
    assert '-  "quantity": 1' in out
    assert '+  "quantity": 3' in out
    assert log("diff", "CLI_CART", "c7", "--from", "5", *options)[1] == "No difference.\n"
    found = json.loads(log("diff", "CLI_CART", "c7", "--json", *options)[1])
    assert (found["then"]["quantity"], found["now"]["quantity"]) == (0, 3)
    assert "no projection class" in log("diff", "OTHER", "c7", *options)[2]


def test_events_are_described_for_other_tools(log: Command, app: str) -> None:
    """A schema of one type, a document of all, and SQL views that other programs read."""
    options = ["--app", "cli_app:added_only"]
    schema = json.loads(log("schema", "CLI_ADDED", *options)[1])
    assert schema["required"] == ["cart_id", "quantity"]
    document = json.loads(log("schema", "--title", "Shop", *options)[1])
    assert (document["info"]["title"], list(document["components"]["messages"])) == ("Shop", ["CLI_ADDED"])
    assert "did you mean" in log("schema", "CLI_ADDD", *options)[2]
    code, out, error = log("views", *options)
    assert (code, error) == (0, "")
    assert out.startswith('"my_app_views"."cli_added": event_id,')
    (view,) = [json.loads(line) for line in log("views", "--json", *options)[1].splitlines()]
    assert view["columns"][-2:] == ["cart_id", "quantity"]
    assert log("views", "--reader", "nobody", *options)[0] == 1


def test_help_describes_the_commands_without_docstrings() -> None:
    """Under `python -OO` (or PYTHONOPTIMIZE=2) too."""
    code = "from pgevents.cli import main; main()"
    done = subprocess.run([sys.executable, "-OO", "-c", code, "--help"], capture_output=True, text=True)
    for command, words in (
        ("doctor", "what is wrong"),
        ("demo", "Replay one day"),
        ("append", "Save an event"),
    ):
        assert any(line.split()[:1] == [command] and words in line for line in done.stdout.splitlines())


# -- what is shown ------------------------------------------------------------


def test_control_characters_and_markup_are_shown_and_not_obeyed(log: Command, database: str) -> None:
    """Whatever another program has written: no escape sequence reaches the terminal, no markup is read."""
    with psycopg2.connect(database) as connection:
        cursor = connection.cursor()
        data = {"cart_id": "c1", "text": "\x1b[2J\x9b5n\u202e\u2028"}
        events = json.dumps([{"type": "[red]A\x85[/red]", "data": data}])
        cursor.execute("SELECT my_app.events_append(%s::jsonb)", [events])
        view = "INSERT INTO my_app.projections (type, id, data, latest_event_id) VALUES (%s, %s, %s, 1)"
        cursor.execute(view, ["[bold]V", "\x1bid", json.dumps(data)])
    connection.close()
    for arguments in (
        ["tail"], ["stream", "--json"], ["stats"], ["query", "[bold]V"], ["show", "[bold]V", "\x1bid"],
        ["show", "[bold]V", "\x1bother"], ["query", "[bold]V", "--json"],
    ):  # fmt: skip
        _, out, error = log(*arguments)
        assert all(line.isprintable() for line in (out + error).splitlines(keepends=False) if line), arguments
    assert "[red]A\\u0085[/red]" in log("stats")[1]
    last = log("stream", "--json")[1].split("\n")[-2]
    assert json.loads(last)["data"] == data


# -- files ------------------------------------------------------------


ODD = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "é" * 40_000, "x" + "é" * 40_000]


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "log.jsonl.gz", "log.csv.gz"])
@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
def test_an_export_is_resumed_whatever_its_last_event_holds(
    log: Command, tmp_path: Path, name: str, text: str
) -> None:
    """Other line separators of Unicode, and characters that a block of the file cuts in two."""
    path = tmp_path / name
    log("append", "NOTE", json.dumps({"text": text}, ensure_ascii=False))
    assert log("export", path)[0] == 0
    log("append", "NOTE", f"text=second{text}")
    assert "exported 1 events" in log("export", path, "--resume")[2]
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert content.count(b"\n") == 5 + name.startswith("log.csv")
    log("init", "--events", "copy.events")
    assert "imported 5 events" in log("import", path, "--events", "copy.events")[2]
    read = [log("stream", "--json", "--events", events)[1] for events in ("copy.events", "my_app.events")]
    assert read[0] == read[1]


@pytest.mark.parametrize("name", ["log.jsonl.gz", "log.csv.gz"])
def test_a_gzipped_export_that_was_cut_off_is_resumed(
    log: Command, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is behind the last whole piece is written again."""
    monkeypatch.setattr("pgevents.cli.exports.PAGE", 2)
    whole, cut = tmp_path / name, tmp_path / f"cut-{name}"
    log("export", whole)
    content = whole.read_bytes()
    for size in range(0, len(content), 7):
        cut.write_bytes(content[:size])
        assert log("export", cut, "--resume")[0] == 0
        assert gzip.decompress(cut.read_bytes()) == gzip.decompress(content)


def test_mended_lines_are_imported_alone(log: Command, tmp_path: Path) -> None:
    """After `--skip` the bad lines are mended, and the same import saves just these, wherever they stand."""
    rows = [json.dumps({"type": "N", "data": {"n": number}}) for number in range(1_500)]
    path = tmp_path / "log.jsonl"
    bad = {0, 2, 700, 998, 999, 1_499}
    path.write_text("".join(("{}" if n in bad else row) + "\n" for n, row in enumerate(rows)))
    assert "imported 1,494 events" in log("import", path, "--skip")[2]
    path.write_text("".join(row + "\n" for row in rows))
    assert "imported 6 events" in log("import", path)[2]
    assert "imported 0 events" in log("import", path)[2]
    lines = log("stream", "--type", "N", "--json")[1].splitlines()
    assert sorted(json.loads(line)["data"]["n"] for line in lines) == list(range(1_500))


def test_a_line_that_the_database_refuses_is_told_alone(log: Command, tmp_path: Path) -> None:
    """Of a page that is saved as one batch: what stands before it is saved, with `--skip` all others."""
    rows = [json.dumps({"type": "N", "data": {"cart_id": f"n{number}"}}) for number in range(300)]
    long = "".join(chr(256 + n * 7919 % 20_000) for n in range(3_000))  # more than an index takes
    bad = {77, 200}
    path = tmp_path / "log.jsonl"
    path.write_text(
        "".join((r if n not in bad else r.replace(f"n{n}", long)) + "\n" for n, r in enumerate(rows))
    )
    code, _, error = log("import", path)
    assert (code, error.count("\n")) == (1, 1)
    assert "line 78: " in error and "index row" in error
    assert len(log("stream", "--type", "N")[1].splitlines()) == 77
    code, _, error = log("import", path, "--skip")
    assert code == 1
    assert [line.partition(":")[0] for line in error.splitlines()[:-1]] == [
        "skipped line 78",
        "skipped line 201",
    ]
    assert "imported 221 events" in error
    path.write_text("".join(row + "\n" for row in rows))
    assert "imported 2 events" in log("import", path)[2]
    lines = log("stream", "--type", "N", "--json")[1].splitlines()
    assert sorted(json.loads(line)["data"]["cart_id"] for line in lines) == sorted(
        f"n{n}" for n in range(300)
    )


def test_lines_with_keys_and_times_are_one_batch(log: Command, tmp_path: Path) -> None:
    """Each keeps its own; one whose key saved another event is told alone, the same event is known."""
    assert log("append", "K", '{"n": 7}', "--key", "k7")[0] == 0
    assert log("append", "K", '{"n": -1}', "--key", "k9")[0] == 0
    rows = [
        {
            "type": "K",
            "data": {"n": n},
            "created_at": f"2026-01-{1 + n % 28:02}T00:00:00+00:00",
            **({"idempotency_key": f"k{n}"} if n % 3 != 2 else {}),
        }
        for n in range(100)
    ]
    rows[9]["idempotency_key"] = "k9"
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, error = log("import", path, "--skip")
    assert code == 1
    assert "skipped line 10: its idempotency key 'k9' saved another event before" in error
    assert "imported 98 events" in error and "repeated 1, skipped 1" in error
    log("export", tmp_path / "copy.jsonl", "--type", "K")
    copied = [json.loads(line) for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
    stored = {one["data"]["n"]: (one["created_at"], one.get("idempotency_key")) for one in copied}
    for row in rows:
        if row["data"]["n"] not in (7, 9):
            assert stored[row["data"]["n"]] == (row["created_at"], row.get("idempotency_key"))


def test_an_import_that_was_killed_goes_on(log: Command, database: str, tmp_path: Path) -> None:
    """Killed in the middle, again and again: in the end each line is saved once, in order."""
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"type": "N", "data": {{"n": {n}}}}}\n' for n in range(5_000)))
    environment = {**os.environ, "PGEVENTS_DATABASE_URL": database}
    command = [sys.executable, "-c", "from pgevents.cli import main; main()", "import", str(path)]
    with psycopg2.connect(database) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        killed = 0
        for least in (1, 2_000):
            with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    cursor.execute("SELECT count(*) FROM my_app.events WHERE type = 'N'")
                    if cursor.fetchone()[0] >= least:
                        process.kill()
                        killed += 1
                        break
                    time.sleep(0.01)
        assert killed
        assert log("import", path)[0] == 0
        cursor.execute("SELECT array_agg((data->>'n')::int ORDER BY id) FROM my_app.events WHERE type = 'N'")
        assert cursor.fetchone()[0] == list(range(5_000))
    connection.close()


POISON = [
    *(
        f'{{"type": "P", "data": {{"a": {value}}}}}'
        for value in (
            r'"\u0000"', r'"\ud800"', "1e400", "NaN", "-0.0", "-Infinity",
            "9" * 5_000, "[" * 5_000 + "]" * 5_000,
        )
    ),
    *(f'{{"type": {name}, "data": {{}}}}' for name in ('""', f'"{"P" * 201}"', r'"P\n"', r'"P\u0000"', "1")),
    *(
        f'{{"type": "P", "data": {{}}, "metadata": {{"$version": {version}}}}}'
        for version in ("0", "-1e18", "null", '"2"', "[]", "1e5", "true", "100000000")
    ),
    *(
        f'{{"type": "P", "data": {{}}, "created_at": {at}}}'
        for at in ('"infinity"', "17", '"0001-01-01T00:00:00+00:00"', '"2026-01-01"', '"20000-01-01T00:00Z"')
    ),
    *(f'{{"type": "P", "data": {{}}, "idempotency_key": {key}}}' for key in ('""', "1", r'"\u0000"')),
    '{"type": "P", "data": {}} x', '{"type": "P", "type": "Q", "data": {}}', '{"type": "P" "data": {}}',
    '{"type"', "{", '"x"', "[]",
]  # fmt: skip


def test_skip_skips_whatever_cannot_be_read_back(log: Command, tmp_path: Path) -> None:
    """NUL, surrogates, huge numbers, versions and times that are none: each line alone, and no other."""
    path = tmp_path / "poison.jsonl"
    good = '{"type": "GOOD", "data": {}}'
    path.write_text("".join(f"{good}\n{line}\n" for line in POISON))
    code, _, error = log("import", path, "--skip")
    assert code == 1
    assert error.count("skipped line") == len(POISON)
    assert f"imported {len(POISON)} events" in error
    assert len(log("stream", "--type", "GOOD")[1].splitlines()) == len(POISON)
    assert log("stream", "--type", "P")[1] == ""


def test_numbers_are_imported_as_the_file_has_them(log: Command, tmp_path: Path, database: str) -> None:
    """No digit is lost on the way, though Python's floats could not hold them."""
    path = tmp_path / "numbers.jsonl"
    path.write_text('{"type": "N", "data": {"a": 1.10, "b": 12345678901234567890.123456789}}\n')
    assert log("import", path)[0] == 0
    with psycopg2.connect(database) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT data::text FROM my_app.events WHERE type = 'N'")
        assert cursor.fetchone() == ('{"a": 1.10, "b": 12345678901234567890.123456789}',)
    connection.close()


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv"])
def test_idempotency_keys_come_along(log: Command, tmp_path: Path, name: str, database: str) -> None:
    """A key that saved events in one log is known in the other; an event that is there is not doubled."""
    log("export", tmp_path / name)
    log("init", "--events", "copy.events", "--index", "cart_id")
    copy = ["--events", "copy.events"]
    assert "imported 3 events" in log("import", tmp_path / name, *copy)[2]
    with psycopg2.connect(database) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT id, idempotency_key FROM copy.events ORDER BY id")
        assert cursor.fetchall() == [(1, None), (2, None), (3, "k")]
    connection.close()
    assert log("append", "CART_CREATED", '{"cart_id": "c2"}', "--key", "k", *copy)[0] == 0
    assert "imported 2 events" in log("import", tmp_path / name, "--key", "again", *copy)[2]
    assert len(log("stream", *copy)[1].splitlines()) == 5
