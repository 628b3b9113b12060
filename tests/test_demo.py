"""The demo: real order lines, dirty ones too, become carts that add up to what their file says."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from pgevents import EventClient
from pgevents.demo import ATTRIBUTION, ORDERS
from pgevents.demo.audit import audit_csv
from pgevents.demo.keeping import Kept
from pgevents.demo.orders import FIELDS, NoOrders, read_orders
from pgevents.demo.race import race
from pgevents.demo.replay import LINES_TO_DECIDE, replay
from pgevents.demo.report import Report, make_report
from pgevents.demo.run import run
from pgevents.demo.shop import (
    CartCheckedOut,
    CartClosed,
    CartLine,
    CartOpened,
    CartProjection,
    CartView,
    ItemAdded,
    ItemRemoved,
    ProductProjection,
    ProductView,
    SoldOut,
    add_item,
    buy_one,
    check_out,
    open_cart,
    shop_client,
)
from pgevents.subscriptions import keep
from pgevents.testing import drain

HEADER = ",".join(FIELDS)
NOON = datetime(2010, 12, 9, 12, tzinfo=timezone.utc)


class Silence:
    """A screen that shows nothing, and remembers how far each stage came."""

    def __init__(self) -> None:
        self.stages: dict[str, list[int]] = {}

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Generator[Callable[[int], object], None, None]:
        steps: list[int] = []
        yield steps.append
        self.stages[name] = [sum(steps), total]


def write(path: Path, *lines: str | bytes) -> Path:
    """A CSV file with the header and these lines."""
    rows = [line if isinstance(line, bytes) else line.encode() for line in (HEADER, *lines)]
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path


def order(invoice: str = "1", **fields: str) -> str:
    """A line as it should be, but for the given fields."""
    row = dict(
        zip(
            FIELDS,
            (invoice, "P", "A MUG", "2", "2010-12-09 12:00:00", "1.25", "17850.0", "Eire"),
            strict=True,
        )
    )
    return ",".join({**row, **fields}.values())


def replayed(client: EventClient, path: Path) -> Report:
    """The report on a file, without a race."""
    client.create_tables()
    orders = read_orders(path)
    done = replay(client, orders)
    drain(client, [keep(CartProjection), keep(ProductProjection)])
    return make_report(client, orders, audit_csv(path), done, Kept())


@pytest.fixture
def database(url: str) -> str:
    """The test's database as a person would give it to the command."""
    return "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote)


@pytest.fixture
def shop(database: str) -> Generator[EventClient, None, None]:
    """A client for an empty demo shop."""
    client = shop_client(database, "demo")
    yield client
    client.db.close()


@pytest.mark.long
def test_the_shipped_day_adds_up(database: str) -> None:
    """Every figure of the day equals the CSV's, and of eight who want the last piece one gets it."""
    screen = Silence()
    report = run(read_orders(ORDERS), ORDERS, database, "demo", screen)
    assert report.is_right
    assert (report.sales.carts, report.cancellations.carts) == (132, 34)
    assert (report.sales.lines, report.cancellations.lines) == (2_801, 73)
    assert (report.sales.pence, report.cancellations.pence, report.turnover) == (
        5_358_618,
        -105_405,
        5_253_213,
    )
    assert [tally.lines for tally in report.skipped.values()] == [17]
    assert report.best_sellers[0].turnover == 382_391
    assert report.race is not None
    assert (len(report.race.winners), report.race.sold_out, report.race.left) == (1, 7, 0)
    assert report.kept.views == 1_459
    assert report.kept.lags and report.kept.lag(0.5) <= report.kept.lag(0.99)
    last = report.replayed.last_id
    assert screen.stages == {"Replay": [2_874, 2_874], "Views": [last, last], "Last piece": [8, 8]}


def test_small_invoices_are_decided_and_large_ones_are_batches(shop: EventClient, tmp_path: Path) -> None:
    """Up to twenty lines each line is a decision of its own; one line more, and the cart is one batch."""
    small = [order("1") for _ in range(LINES_TO_DECIDE)]
    large = [order("2") for _ in range(LINES_TO_DECIDE + 1)]
    report = replayed(shop, write(tmp_path / "orders.csv", *small, *large))
    assert report.is_right
    assert (report.replayed.decisions.count, report.replayed.batched.count, report.replayed.batches) == (
        22,
        23,
        1,
    )
    assert CartProjection("1", shop).view.total == 20 * 250
    assert CartProjection("2", shop).view.is_checked_out


def test_cancellations_take_items_back(shop: EventClient, tmp_path: Path) -> None:
    """An invoice that begins with C holds what was removed, and lowers the turnover."""
    report = replayed(shop, write(tmp_path / "orders.csv", order("1"), order("C2", Quantity="-1")))
    assert report.is_right
    assert (report.sales.pence, report.cancellations.pence, report.turnover) == (250, -125, 125)
    assert shop.get_event_stream(ItemRemoved, cart_id="C2")[0].data.quantity == 1


BAD_LINES = {
    "an empty line": "",
    "7 fields where the header has 8": "1,P,A MUG,2,2010-12-09 12:00:00,1.25,17850.0",
    "the quotes are not closed, or the line is too long": (
        '1,P,"A MUG,2,2010-12-09 12:00:00,1.25,17850.0,Eire'
    ),
    "no invoice number": order(""),
    "no product code": order(StockCode=" "),
    "product code of more than 100 characters": order(StockCode="P" * 5_000),
    "the quantity is not a whole number": order(Quantity="1.5"),
    "quantity zero": order(Quantity="0"),
    "negative quantity, but not a cancellation (stock correction)": order(Quantity="-3", UnitPrice="0.10"),
    "positive quantity in a cancellation": order("C9"),
    "the price is not a number": order(UnitPrice="NaN"),
    "negative price": order("A5", UnitPrice="-11062.06"),
    "the price is not a whole number of pence": order(UnitPrice="0.001"),
    "the date cannot be read (2010-12-31 08:30:00 is the form)": order(InvoiceDate="31/12/2010"),
}


def test_what_cannot_be_an_event_is_counted_with_its_reason(shop: EventClient, tmp_path: Path) -> None:
    """Each kind of unusable line is reported, the good lines around it are kept, and all of it still adds
    up."""
    path = write(tmp_path / "orders.csv", order(), *BAD_LINES.values(), order())
    report = replayed(shop, path)
    assert {reason: (tally.lines, tally.first) for reason, tally in report.skipped.items()} == {
        reason: (1, number) for number, reason in enumerate(BAD_LINES, 3)
    }
    assert report.sales.lines == 2
    assert report.is_right


@pytest.mark.parametrize("number", ["", "two", "1e99", "inf", "9" * 5_000, "--1", "1,5"])
def test_no_number_is_no_number(tmp_path: Path, number: str) -> None:
    """What no person would read as a quantity is not taken for one, however long it is."""
    orders = read_orders(write(tmp_path / "orders.csv", order(Quantity=f'"{number}"')))
    assert list(orders.reasons) == ["the quantity is not a whole number"]


def test_odd_but_usable_lines_are_kept_and_noticed(tmp_path: Path) -> None:
    """A line without customer or description, free of charge or doubled becomes an event, and is told of."""
    lines = [
        order("1", CustomerID="", Description=""),
        order("2", UnitPrice="0.0"),
        order("2", CustomerID="13047.0"),
        order("3", Quantity="2.0"),
    ]
    orders = read_orders(write(tmp_path / "orders.csv", *lines))
    assert orders.usable == 4
    assert {name: tally.first for name, tally in orders.noticed.items()} == {
        "without a customer (a guest's cart)": 2,
        "without a description": 2,
        "free of charge": 3,
        "of a product that is in the cart already": 4,
        "of another customer than the invoice's first": 4,
    }
    assert orders.invoices["1"][0].customer_id is None
    assert orders.invoices["3"][0].customer_id == "17850"


def test_an_unclosed_quote_costs_only_its_own_line(tmp_path: Path) -> None:
    """The lines after a quote that is never closed are read as if nothing had happened."""
    orders = read_orders(write(tmp_path / "orders.csv", order(Description='"A MUG'), order("2"), order("3")))
    assert list(orders.invoices) == ["2", "3"]


def test_any_bytes_are_text(tmp_path: Path) -> None:
    """A byte order mark, Windows-1252, NUL characters, CRLF and quoted commas are read as they were meant."""
    lines = [
        order(Description="CAFÉ £5").encode("cp1252"),
        order("2", Description="A \0MUG") + "\r",
        order("3", Description='"MUG, BLUE"'),
    ]
    path = write(tmp_path / "orders.csv", *lines)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    invoices = read_orders(path).invoices
    assert [invoices[number][0].description for number in "123"] == ["CAFÉ £5", "A MUG", "MUG, BLUE"]
    assert sorted(read_orders(path).noticed) == [
        "not in UTF-8 (read as Windows-1252)",
        "with NUL characters (left out)",
    ]


def test_the_invoice_date_is_british_time(tmp_path: Path) -> None:
    """Summer time is an hour ahead; a date with a zone of its own keeps it."""
    lines = [
        order("1", InvoiceDate="2011-07-01 12:00:00"),
        order("2", InvoiceDate="2011-07-01 12:00:00+02:00"),
    ]
    invoices = read_orders(write(tmp_path / "orders.csv", *lines)).invoices
    assert [invoices[number][0].at.astimezone(timezone.utc).hour for number in "12"] == [11, 10]


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    """Columns are found by name, and others beside them do not matter."""
    path = tmp_path / "orders.csv"
    path.write_text("Note,Country,CustomerID,UnitPrice,InvoiceDate,Quantity,Description,StockCode,InvoiceNo\n"
                    "x,Eire,1,1.25,2010-12-09,2,MUG,P,7\n")  # fmt: skip
    assert read_orders(path).invoices["7"][0].price == 125


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a,b\n1,2\n", b'"InvoiceNo\n', gzip.compress(b"x" * 9_000)[:30]]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file without the columns, or a gzipped one that is cut off, is an error that says so."""
    path = tmp_path / "orders.csv"
    path.write_bytes(content)
    with pytest.raises(NoOrders):
        read_orders(path)


CELLS = st.sampled_from(
    ["", "1", "-1", "0", "2.50", "-3.999", "1e3", "NaN", "x", '"', '"a"', "17850.0", "C1", "\u2028"]
)
ROWS = st.lists(st.lists(CELLS, min_size=7, max_size=9).map(",".join) | st.text(max_size=20), max_size=8)


@given(rows=ROWS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_reading_and_audit_agree_on_any_dirt(tmp_path: Path, rows: Sequence[str]) -> None:
    """Whatever stands in the file, usable and skipped lines together are all that csv and Decimal find in
    it."""
    path = write(
        tmp_path / "orders.csv",
        *(row.encode("utf-8", "surrogatepass") for row in rows),
        order("C1", Quantity="-2"),
    )
    orders, audit = read_orders(path), audit_csv(path)
    kept = sum(
        Decimal(line.quantity * line.price * (-1 if invoice.startswith("C") else 1)) / 100
        for invoice, lines in orders.invoices.items()
        for line in lines
    )
    assert orders.lines == audit.sales.lines + audit.cancellations.lines
    assert kept + sum(line.money for line in orders.skipped) == audit.sales.money + audit.cancellations.money
    invoices = set(orders.invoices) | {line.invoice for line in orders.skipped if line.invoice}
    assert invoices == audit.sales.invoices | audit.cancellations.invoices


def test_a_turnover_that_is_not_the_csvs_is_found(shop: EventClient, tmp_path: Path) -> None:
    """One penny more in the log than in the file, and the report is not right."""
    path = write(tmp_path / "orders.csv", order("1"), order("2"))
    shop.create_tables()
    shop.save_event(ItemAdded("2", "P", "A MUG", quantity=1, price=1))
    report = replayed(shop, path)
    assert not report.is_right
    assert [check.what for check in report.checks if not check.holds] == [
        "lines",
        "pieces",
        "money",
        "Turnover, by products",
    ]


def test_a_buyer_who_cannot_come_spoils_the_race(shop: EventClient, database: str) -> None:
    """If a process fails, the race says which and why, and is no success."""
    shop.create_tables()
    ended = race(shop, database, "no_such_schema", "P", buyers=2)
    assert not ended.is_fair
    assert ended.winners == ()
    assert any("create_tables" in failure for failure in ended.failures)


def test_the_rules_of_the_shop() -> None:
    """A cart opens once, takes items only while open, is not checked out empty; nothing is sold that is not
    there."""
    new, is_open = CartView("1"), CartView("1", is_open=True)
    opened = CartOpened("1", None, "Eire", is_cancellation=False, opened_at=NOON)
    item = ItemAdded("1", "P", "A MUG", quantity=1, price=125)
    assert open_cart(new, opened) == opened
    assert add_item(is_open, item) == item
    assert check_out(CartView("1", is_open=True, lines=(CartLine("P", 1, 125),)), NOON) == CartCheckedOut(
        "1", NOON
    )
    assert len(buy_one(new, ProductView("P", left=1), NOON)) == 3
    for refused in (
        lambda: open_cart(is_open, opened),
        lambda: add_item(new, item),
        lambda: add_item(CartView("1", is_checked_out=True), item),
        lambda: check_out(is_open, NOON),
    ):
        with pytest.raises(CartClosed):
            refused()
    for left in (0, None):
        with pytest.raises(SoldOut):
            buy_one(new, ProductView("P", left=left), NOON)


def test_the_attribution_is_shipped() -> None:
    """Source and licence of the order lines stand beside them and are shown at the end."""
    beside = (ORDERS.parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for owed in ("Chen, D. (2015)", "Online Retail", "https://doi.org/10.24432/C5BW33", "CC BY 4.0"):
        assert owed in ATTRIBUTION
        assert owed in beside
