"""The commands that open the browser: `pgevents ui`, and `pgevents demo --ui` on the day's replay."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from psycopg2.extensions import parse_dsn

from pgevents import ConfigurationError, EventClient
from pgevents.demo.shop import CartProjection
from pgevents.demo.tour import PUZZLE, newest_shop

ORDERS = """\
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,22423,CAKESTAND,2,2010-12-09 09:00:00,12.75,17850.0,United Kingdom
"""
COMMAND = """\
import pgevents.demo.run
pgevents.demo.run.BUYERS = 1
from pgevents.cli import main
if __name__ == "__main__":
    raise SystemExit(main())
"""


@pytest.fixture
def database(url: str) -> str:
    """The test's database as a person would give it to the command."""
    return "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote)


class Visitor:
    """Whoever opened the address that the command printed."""

    def __init__(self, address: str) -> None:
        self._site, _, token = address.partition("/?token=")
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.page(f"/?token={token}")

    def page(self, path: str) -> str:
        with self._opener.open(self._site + path, timeout=30) as answer:
            return str(answer.read().decode())

    def data(self, path: str) -> Any:
        return json.loads(self.page(path))


@contextmanager
def running(*arguments: str, database: str) -> Iterator[tuple[Visitor, list[str]]]:
    """The command until it is interrupted; whoever opened its address, and the lines it printed."""
    environment = {**os.environ, "PGEVENTS_DATABASE_URL": database, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"}
    command = [sys.executable, "-c", COMMAND, *arguments]
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"The log is at (\S+)", line):
                yield Visitor(found[1]), lines
                break
        process.send_signal(signal.SIGINT)
        lines += process.stdout.readlines()
        errors = process.stderr.read()
    assert process.returncode == 0, errors


@pytest.mark.long
def test_the_demo_opens_the_day_and_says_how_to_come_back(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cart whose total is wrong, and subscriptions at work; `pgevents ui` shows the same again."""
    orders = tmp_path / "orders.csv"
    orders.write_text(ORDERS)
    demo = ("demo", "--ui", "--no-open", "--csv", str(orders), "--database", database)
    with running(*demo, database=database) as (visitor, lines):
        assert any(f"why is the total of my cart {PUZZLE} wrong?" in line for line in lines)
        cart = visitor.data(f"/identifier.json?where=cart_id={PUZZLE}")
        assert cart["view"] == "CART" and cart["travel"]["after"]["total"] == 3110
        names = {one["name"] for one in visitor.data("/subscriptions.json")["subscriptions"]}
        assert names == {"receipts", "view CART 1 in views", "view PRODUCT 1 in views"}
        assert "You may change things here" in visitor.page("/log")
    end = "".join(lines)
    assert "Look at it: pgevents ui --app pgevents.demo.tour:newest_shop" in end
    monkeypatch.setenv("PGEVENTS_DATABASE_URL", database)
    shop = newest_shop()
    assert CartProjection(PUZZLE, shop).view.total == 3110
    shop.db.close()


def test_without_a_demo_there_is_no_shop_to_show(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to do first."""
    monkeypatch.setenv("PGEVENTS_DATABASE_URL", database)
    with pytest.raises(ConfigurationError, match="no demo has run"):
        newest_shop()
    monkeypatch.delenv("PGEVENTS_DATABASE_URL")
    with pytest.raises(ConfigurationError, match="set PGEVENTS_DATABASE_URL"):
        newest_shop()


def test_a_database_alone_is_shown_as_dicts(database: str, store: EventClient) -> None:
    """Without the program's classes; with --write parked events may be retried by whoever started it."""
    with running("ui", "--write", database=database) as (visitor, _):
        types = {one["type"]: one["class"] for one in visitor.data("/types.json")["types"]}
        assert types["CART_CREATED"] is None and "as <b>" in visitor.page("/health")
