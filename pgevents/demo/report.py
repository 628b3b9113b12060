"""The figures of the day, queried from the views and compared with the sums of the CSV itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import count
from typing import Any, TypeVar

import peewee
from attrs import define, frozen

from pgevents import EventClient, MultiStreamProjectionBase, ProjectionBase

from .audit import Audit, Side
from .keeping import Kept
from .orders import Orders, Tally, is_cancellation
from .race import Race
from .replay import Replayed
from .shop import CartProjection, ProductProjection, ProductView

__all__ = ["Check", "Report", "Sums", "make_report"]

V = TypeVar("V")
PAGE = 500
EXACT = Decimal("0.000001")
"""Sums may differ by less than this, because Decimal rounds beyond 28 digits."""


@define
class Sums:
    """The sums of carts: of the sales, or of the cancellations (then below zero)."""

    carts: int = 0
    lines: int = 0
    pieces: int = 0
    pence: int = 0


@frozen
class Check:
    """A figure from three sources: the views and the skipped lines together must give that of the CSV."""

    what: str
    views: Decimal
    skipped: Decimal
    csv: Decimal
    is_money: bool = False
    is_head: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure adds up."""
        return abs(self.views + self.skipped - self.csv) < EXACT


@frozen
class Report:
    """Everything that the demo shows at its end.

    Attributes:
        sales: The sums of the carts that were sold.
        cancellations: The sums of the carts that were cancelled.
        best_sellers: The products with the highest turnover.
        skipped: The reasons why lines were skipped, and how often.
        noticed: Oddities of lines that were kept, and how often.
        checks: The comparison with the CSV.
        replayed: What was saved, and how fast.
        kept: What the runner that kept the views did.
        race: The result of the race.
    """

    sales: Sums
    cancellations: Sums
    best_sellers: Sequence[ProductView]
    skipped: Mapping[str, Tally]
    noticed: Mapping[str, Tally]
    checks: Sequence[Check]
    replayed: Replayed
    kept: Kept
    race: Race | None = None

    @property
    def turnover(self) -> int:
        """Sales less cancellations, in pence."""
        return self.sales.pence + self.cancellations.pence

    @property
    def is_right(self) -> bool:
        """Whether all figures equal the CSV's and the race was fair."""
        return all(check.holds for check in self.checks) and (self.race is None or self.race.is_fair)


def make_report(client: EventClient, orders: Orders, audit: Audit, replayed: Replayed, kept: Kept) -> Report:
    """Query the views.

    Args:
        client: The shop's client; all views are kept.
        orders: The order lines.
        audit: The sums of the CSV.
        replayed: What the replay did.
        kept: What the runner that kept the views did.
    """
    sales, cancellations = _sums(client, cancels=False), _sums(client, cancels=True)
    by_turnover = peewee.SQL("(data->>'turnover')::numeric DESC")
    best = client.query_projections(ProductProjection, order_by=[by_turnover, client.projections.id], limit=5)
    by_product = sum(product.turnover for product in _all(client, ProductProjection))
    checks = [
        *_checks("Sales", sales, audit.sales, orders, cancels=False),
        *_checks("Cancellations", cancellations, audit.cancellations, orders, cancels=True),
        Check(
            "Turnover, by products",
            _pounds(by_product),
            sum((line.money for line in orders.skipped), Decimal(0)),
            audit.sales.money + audit.cancellations.money,
            is_money=True,
            is_head=True,
        ),
    ]
    return Report(
        sales,
        cancellations,
        [saved.data for saved in best],
        orders.reasons,
        orders.noticed,
        checks,
        replayed,
        kept,
    )


def _all(
    client: EventClient,
    projection: type[ProjectionBase[V, Any]] | type[MultiStreamProjectionBase[V, Any]],
    **match: Any,
) -> Iterator[V]:
    """The views of all snapshots, a page at a time."""
    for offset in count(0, PAGE):
        page = client.query_projections(projection, limit=PAGE, offset=offset, data=match)
        yield from (saved.data for saved in page)
        if len(page) < PAGE:
            return


def _sums(client: EventClient, *, cancels: bool) -> Sums:
    sums = Sums()
    for cart in _all(client, CartProjection, is_checked_out=True, is_cancellation=cancels):
        sums.carts += 1
        sums.lines += len(cart.lines)
        sums.pieces += cart.pieces
        sums.pence += cart.total
    return sums


def _checks(what: str, sums: Sums, side: Side, orders: Orders, *, cancels: bool) -> list[Check]:
    skipped = [line for line in orders.skipped if is_cancellation(line.invoice) == cancels]
    lost = {line.invoice for line in skipped if line.invoice} - set(orders.invoices)
    pieces = sum((line.pieces for line in skipped), Decimal(0))
    money = sum((line.money for line in skipped), Decimal(0))
    return [
        Check(
            f"{what}: carts",
            Decimal(sums.carts),
            Decimal(len(lost)),
            Decimal(len(side.invoices)),
            is_head=True,
        ),
        Check("lines", Decimal(sums.lines), Decimal(len(skipped)), Decimal(side.lines)),
        Check("pieces", Decimal(sums.pieces), pieces, side.pieces),
        Check("money", _pounds(sums.pence), money, side.money, is_money=True),
    ]


def _pounds(pence: int) -> Decimal:
    return Decimal(pence) / 100
