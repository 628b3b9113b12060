"""Reads order lines from a CSV file with real-world faults: no line is lost silently, and no line stops the
reading."""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from os import PathLike
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from attrs import define, field, frozen

__all__ = ["FIELDS", "Line", "NoOrders", "Orders", "Skipped", "Tally", "is_cancellation", "read_orders"]

FIELDS = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
CODE_LIMIT = 100
BOUND = Decimal(10**12)
"""Quantities and prices from this number on are taken for errors."""


class NoOrders(ValueError):
    """The file does not hold order lines."""


class _Unusable(Exception):
    """A line that cannot be an event; its text is the reason."""


@frozen
class Line:
    """An order line. In a cancellation the quantity is the number of returned pieces, also above zero.

    Attributes:
        product_id: The product's code.
        description: The product's name; may be empty.
        quantity: Pieces, at least 1.
        price: Pence per piece, 0 or more.
        at: The time of the invoice, with time zone.
        customer_id: The customer, or None.
        country: The customer's country.
    """

    product_id: str
    description: str
    quantity: int
    price: int
    at: datetime
    customer_id: str | None
    country: str


@frozen
class Skipped:
    """A line that cannot be an event.

    Attributes:
        number: The line's number in the file; the header is line 1.
        invoice: The invoice's number; empty if the line has none.
        reason: Why the line cannot be an event.
        pieces: The quantity in the file; 0 if there is none.
        money: What it would have added to the turnover, in pounds; 0 if that cannot be computed.
    """

    number: int
    invoice: str
    reason: str
    pieces: Decimal
    money: Decimal


@define
class Tally:
    """How many lines have a property, and which is the first."""

    lines: int = 0
    first: int = 0

    def add(self, number: int) -> None:
        """Count a line."""
        self.first = self.first or number
        self.lines += 1


@define
class Orders:
    """The content of a file.

    Attributes:
        invoices: The usable lines by invoice number, in order of appearance.
        skipped: The other lines.
        noticed: Oddities of usable lines, and how often they occur.
        lines: All lines after the header.
        places: The pairs of invoice and product that were read.
        products: The products of usable lines.
    """

    invoices: dict[str, list[Line]] = field(factory=dict[str, list[Line]])
    skipped: list[Skipped] = field(factory=list[Skipped])
    noticed: dict[str, Tally] = field(factory=lambda: defaultdict[str, Tally](Tally))
    lines: int = 0
    places: set[tuple[str, str]] = field(factory=set[tuple[str, str]])
    products: dict[str, None] = field(factory=dict[str, None])

    @property
    def days(self) -> tuple[datetime, datetime]:
        """The first and the last time; takes at least one usable line."""
        times = [line.at for lines in self.invoices.values() for line in lines]
        return min(times), max(times)

    @property
    def usable(self) -> int:
        """How many lines became `Line`s."""
        return self.lines - len(self.skipped)

    @property
    def reasons(self) -> dict[str, Tally]:
        """Why lines were skipped, and how often."""
        tallies = defaultdict[str, Tally](Tally)
        for line in self.skipped:
            tallies[line.reason].add(line.number)
        return tallies


def is_cancellation(invoice: str) -> bool:
    """Whether an invoice cancels what another invoice sold."""
    return invoice.startswith("C")


def read_orders(path: str | PathLike[str]) -> Orders:
    """Read a CSV file, gzipped or not, one line at a time.

    Args:
        path: The file.

    Raises:
        NoOrders: The header lacks columns of `FIELDS`, or a gzipped file is cut off.
        OSError: The file cannot be read.
    """
    orders = Orders()
    lines = _lines(path, orders.noticed)
    try:
        header = [name.strip() for name in _split(next(lines, (1, ""))[1])]
    except _Unusable:
        header = []
    missing = [name for name in FIELDS if name not in header]
    if missing:
        raise NoOrders(f"no order lines: its first line names no column {' and no '.join(missing[:2])}")
    zone = _uk_time()
    for number, text in lines:
        orders.lines += 1
        row: dict[str, str] = {}
        try:
            values = _split(text)
            if len(values) != len(header):
                raise _Unusable(
                    f"{len(values)} fields where the header has {len(header)}" if values else "an empty line"
                )
            row = {name: value.strip() for name, value in zip(header, values, strict=True)}
            _keep(orders, number, row["InvoiceNo"], _line(row, zone))
        except _Unusable as unusable:
            pieces = _number(row.get("Quantity", "")) or Decimal(0)
            money = pieces * (_number(row.get("UnitPrice", "")) or Decimal(0))
            orders.skipped.append(Skipped(number, row.get("InvoiceNo", ""), str(unusable), pieces, money))
    return orders


def _keep(orders: Orders, number: int, invoice: str, line: Line) -> None:
    kept = orders.invoices.setdefault(invoice, [])
    place = (invoice, line.product_id)
    odd = {
        "without a customer (a guest's cart)": line.customer_id is None,
        "without a description": not line.description,
        "free of charge": line.price == 0,
        "of a product that is in the cart already": place in orders.places,
        "of another customer than the invoice's first": bool(kept)
        and line.customer_id != kept[0].customer_id,
    }
    for name in (name for name, is_so in odd.items() if is_so):
        orders.noticed[name].add(number)
    kept.append(line)
    orders.places.add(place)
    orders.products[line.product_id] = None


def _line(row: dict[str, str], zone: tzinfo) -> Line:
    invoice, product = row["InvoiceNo"], row["StockCode"]
    for name, code in (("invoice number", invoice), ("product code", product)):
        if not code or len(code) > CODE_LIMIT:
            raise _Unusable(f"no {name}" if not code else f"{name} of more than {CODE_LIMIT} characters")
    quantity, price = _quantity(row["Quantity"], invoice), _pence(row["UnitPrice"])
    try:
        at = datetime.fromisoformat(row["InvoiceDate"])
    except ValueError:
        raise _Unusable("the date cannot be read (2010-12-31 08:30:00 is the form)") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=zone)
    customer = re.sub(r"\.0$", "", row["CustomerID"]) or None
    return Line(product, row["Description"], quantity, price, at, customer, row["Country"])


def _quantity(text: str, invoice: str) -> int:
    value = _number(text)
    if value is None or value != int(value):
        raise _Unusable("the quantity is not a whole number")
    if value == 0:
        raise _Unusable("quantity zero")
    if value < 0 and not is_cancellation(invoice):
        raise _Unusable("negative quantity, but not a cancellation (stock correction)")
    if value > 0 and is_cancellation(invoice):
        raise _Unusable("positive quantity in a cancellation")
    return abs(int(value))


def _pence(text: str) -> int:
    pounds = _number(text)
    if pounds is None:
        raise _Unusable("the price is not a number")
    if pounds < 0:
        raise _Unusable("negative price")
    pence = pounds * 100
    if pence != int(pence):
        raise _Unusable("the price is not a whole number of pence")
    return int(pence)


def _number(text: str) -> Decimal | None:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < BOUND else None


def _split(line: str) -> list[str]:
    """Split a line by itself, so that a quote that is not closed spoils this line only, not the rest."""
    try:
        return next(csv.reader([line], strict=True), list[str]())
    except csv.Error:
        raise _Unusable("the quotes are not closed, or the line is too long") from None


def _lines(path: str | PathLike[str], noticed: dict[str, Tally]) -> Iterator[tuple[int, str]]:
    """Numbered lines of text, decoded as UTF-8, or as Windows-1252 where a line is not UTF-8."""
    with open(path, "rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            for number, line in enumerate(gzip.open(raw) if is_gzip else raw, 1):
                yield (
                    number,
                    _text(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, number, noticed),
                )
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise NoOrders(f"the gzipped file is damaged or cut off ({error})") from error


def _text(line: bytes, number: int, noticed: dict[str, Tally]) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("cp1252", "replace")
        noticed["not in UTF-8 (read as Windows-1252)"].add(number)
    if "\0" in text:
        text = text.replace("\0", "")
        noticed["with NUL characters (left out)"].add(number)
    return text


def _uk_time() -> tzinfo:
    try:
        return ZoneInfo("Europe/London")
    except ZoneInfoNotFoundError:  # a system without time zones; in winter London has UTC
        return timezone.utc
