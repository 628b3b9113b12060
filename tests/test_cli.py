"""The command line: what it prints, to whom, and with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg2
import pytest
from psycopg2.extensions import parse_dsn

from pgevents.demo.orders import FIELDS

HEADER = ",".join(FIELDS)
ORDERS = (
    "1,22423,CAKESTAND [RED],2,2010-12-09 08:30:00,12.75,17850.0,Eire",
    "1,DOT,POSTAGE,1,2010-12-09 08:30:00,99.00,17850.0,Eire",
    "C2,22423,CAKESTAND [RED],-1,2010-12-10 09:00:00,12.75,,Eire",
    "3,22423,,-5,2010-12-10 09:00:00,0.0,,Eire",
)


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
    """Turnover, best sellers, what was skipped, the race and the source fit 80 columns; one schema of its own is left."""
    done = pgevents("demo", "--csv", orders, "--database", database)
    assert (done.returncode, done.stderr) == (0, "")
    for told in (
        "4 order lines of a shop, 9 December 2010 to 10 December 2010",
        "£124.50",
        "-£12.75",
        "£111.75",
        "22423    CAKESTAND [RED]",
        "negative quantity, yet no cancellation (stock correction)",
        "7 were told that it is sold out",
        "Every figure equals what the CSV itself adds up to, to the penny.",
        "CC BY 4.0",
        "DROP SCHEMA pgevents_demo_",
    ):
        assert told in " ".join(done.stdout.split()) or told in done.stdout
    tables = done.stdout[done.stdout.index("The shop") : done.stdout.index("Order lines: Chen")]
    assert max(map(len, tables.splitlines())) <= 80
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_(catalog|toast|temp)|information|public)'")
    assert [name[:14] for (name,) in cursor.fetchall()] == ["pgevents_demo_"]
    connection.close()


SPOILED = """
import pgevents.demo.race as race_module
import pgevents.demo.replay as replay_module
from pgevents.demo.shop import CartView
honest = replay_module.add_item
from attrs import evolve
replay_module.add_item = lambda cart, item: evolve(honest(cart, item), price=item.price + 1)
"""


def test_a_penny_too_much_fails_the_demo(database: str, orders: Path) -> None:
    """If the views do not add up to the CSV, the command says what does not, and its exit code is 1."""
    done = pgevents("demo", "--csv", orders, "--database", database, before=SPOILED)
    assert done.returncode == 1
    assert "✗ Not what the CSV adds up to: money, money, Turnover, by products." in " ".join(done.stdout.split())


def test_errors_are_one_line_on_the_standard_error(tmp_path: Path, orders: Path) -> None:
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
        done = pgevents(*arguments)
        assert done.returncode == code
        assert done.stderr.startswith("pgevents: ")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert "geheim" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["click", "rich"])
def test_a_missing_extra_says_what_to_install(orders: Path, name: str) -> None:
    """Without click or rich the command ends in one line with the pip command that helps."""
    done = pgevents("demo", "--csv", orders, before=f"import sys; sys.modules[{name!r}] = None")
    assert done.returncode == 1
    assert 'pip install "pgevents[cli]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_embedded_server_says_what_to_install(orders: Path) -> None:
    """Without the wheel of the embedded server the demo says which extra has it."""
    hide = (
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if 'pgserver' in name else find(name, *rest)"
    )
    done = pgevents("demo", "--csv", orders, before=hide)
    assert done.returncode == 1
    assert 'pip install "pgevents[embedded]"' in done.stderr


def test_help_names_the_exit_codes() -> None:
    """Every help page says what the exit codes mean."""
    for arguments in (["--help"], ["demo", "--help"]):
        done = pgevents(*arguments)
        assert done.returncode == 0
        assert "Exit codes: 0" in done.stdout
