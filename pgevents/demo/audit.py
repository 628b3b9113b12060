"""Adds up a CSV file of order lines with csv and Decimal alone, without the demo and without pgevents."""

from __future__ import annotations

import csv
import gzip
from decimal import Decimal
from os import PathLike

from attrs import define, field

__all__ = ["Audit", "audit_csv"]


@define
class Side:
    """The sums of the sales, or of the cancellations.

    Attributes:
        invoices: The numbers of the invoices.
        lines: The number of lines.
        pieces: The sum of the quantities.
        money: The sum of quantity times price, in pounds.
    """

    invoices: set[str] = field(factory=set[str])
    lines: int = 0
    pieces: Decimal = Decimal(0)
    money: Decimal = Decimal(0)


@define
class Audit:
    """The sums; a line without an invoice number counts as a sale.

    Attributes:
        sales: The sums of invoices whose number does not begin with C.
        cancellations: The sums of the others.
    """

    sales: Side = field(factory=Side)
    cancellations: Side = field(factory=Side)


def audit_csv(path: str | PathLike[str]) -> Audit:
    """Add up the file; cells without a number count as 0."""
    with open(path, "rb") as file:
        data = file.read()
    if data.startswith(b"\x1f\x8b"):
        data = gzip.decompress(data)
    lines = data.decode("utf-8-sig", "replace").replace("\0", "").removesuffix("\n").split("\n")
    audit, header = Audit(), [name.strip() for name in next(csv.reader(lines[:1]))]
    for line in lines[1:]:
        try:
            cells = next(csv.reader([line], strict=True), list[str]())
        except csv.Error:
            cells = []
        row = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else {}
        invoice = row.get("InvoiceNo", "").strip()
        side = audit.cancellations if invoice[:1] == "C" else audit.sales
        quantity = _decimal(row.get("Quantity", ""))
        side.lines += 1
        side.pieces += quantity
        side.money += quantity * _decimal(row.get("UnitPrice", ""))
        if invoice:
            side.invoices.add(invoice)
    return audit


def _decimal(text: str) -> Decimal:
    try:
        value = Decimal(text.strip())
    except ArithmeticError:
        return Decimal(0)
    return value if value.is_finite() and abs(value) < 10**12 else Decimal(0)
