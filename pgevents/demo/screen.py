"""Shows the demo in a terminal: its progress, then tables that a shop owner understands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from decimal import Decimal

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import ATTRIBUTION
from .keeping import Kept
from .orders import Orders
from .race import Race
from .report import Report

__all__ = ["Screen"]

PLAIN_STEPS = 4
"""How many lines a stage prints if the output is not a terminal."""


class Screen:
    """Prints to the standard output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=80)

    def head(self, name: str, orders: Orders) -> None:
        """Print what will be replayed."""
        first, last = (f"{at.day} {at:%B %Y}" for at in orders.days)
        days = first if first == last else f"{first} to {last}"
        self.console.print(
            f"[bold]{escape(name)}[/]: {orders.lines:,} order lines of a shop, {days}", soft_wrap=True
        )

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(escape(text), soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Generator[Callable[[int], object], None, None]:
        """A stage of the work; yields a function to call with the number of steps done."""
        if not self.console.is_terminal:
            yield self._plain(name, total, unit)
            return
        columns = (
            TextColumn("{task.description:<10}"),
            BarColumn(None),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda steps: progress.advance(task, steps)

    def _plain(self, name: str, total: int, unit: str) -> Callable[[int], object]:
        done, printed = 0, 0

        def advance(steps: int) -> None:
            nonlocal done, printed
            done += steps
            step = done * PLAIN_STEPS // total
            if step > printed:
                printed = step
                self.say(f"{name:<10} {done:>9,} of {total:,} {unit}")

        return advance

    def show(self, report: Report) -> None:
        """Print the report as tables."""
        console = self.console
        for table in (_day(report), _best_sellers(report), _oddities(report), _speed(report)):
            console.print()
            console.print(table)
        console.print(Padding(_lag(report.kept), (0, 2)))
        if report.race is not None:
            console.print("\n[bold]The last piece[/]")
            console.print(Padding(escape(_race(report.race)), (0, 2)))
        console.print()
        console.print(_verdict(report))
        console.print(f"\n[dim]{escape(ATTRIBUTION)}[/]")


def _table(title: str, *headings: str) -> Table:
    """A table over the whole width: text on the left, figures on the right."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, show_edge=False, padding=(0, 1))
    table.add_column(title, ratio=1, overflow="fold", header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, header_style="dim")
    return table


def _day(report: Report) -> Table:
    table = _table("The shop", "in the views", "+ skipped", "= the CSV", "")
    for check in report.checks:
        show = _money if check.is_money else _count
        figures = [show(figure) for figure in (check.views, check.skipped, check.csv)]
        what = check.what if check.is_head else f"  {check.what}"
        style = "bold" if check.is_money else ""
        table.add_row(what, *figures, "[green]✓[/]" if check.holds else "[red]✗[/]", style=style)
    return table


def _best_sellers(report: Report) -> Table:
    table = _table("Best sellers", "pieces", "turnover")
    for product in report.best_sellers:
        name = escape(f"  {product.id:<8} {product.description}")
        table.add_row(name, f"{product.pieces:,}", _money(Decimal(product.turnover) / 100))
    return table


def _oddities(report: Report) -> Table:
    table = _table("Order lines that are not as they should be", "lines", "first")
    for what, tallies in (
        ("Skipped, as they cannot be events:", report.skipped),
        ("Kept all the same:", report.noticed),
    ):
        table.add_row(what if tallies else f"{what} none", "", "")
        for name, tally in sorted(tallies.items(), key=lambda item: -item[1].lines):
            table.add_row(f"  {escape(name)}", f"{tally.lines:,}", f"line {tally.first}", style="dim")
    return table


def _speed(report: Report) -> Table:
    table = _table("Speed", "events", "seconds", "in a second")
    done = report.replayed
    for what, pace in (
        ("Line by line, each one decided on its cart", done.decisions),
        (f"In {done.batches} batches, each one transaction", done.batched),
    ):
        table.add_row(f"  {what}", f"{pace.count:,}", f"{pace.seconds:,.2f}", f"{pace.per_second:,.0f}")
    kept = report.kept
    what = f"Folded into {kept.views:,} views by a runner"
    table.add_row(f"  {what}", f"{kept.events:,}", f"{kept.seconds:,.2f}", f"{kept.per_second:,.0f}")
    return table


def _lag(kept: Kept) -> str:
    middle, most = (f"{1000 * kept.lag(share):,.0f} ms" for share in (0.5, 0.99))
    return (
        f"The views had a cart's last event {middle} after its save (median; {most} for 99 of 100), and the "
        f"whole day {1000 * kept.behind:,.0f} ms after the last save."
    )


def _race(race: Race) -> str:
    name = race.description or race.product_id
    refused = f"{race.sold_out} {'was' if race.sold_out == 1 else 'were'} told that it is sold out"
    text = (
        f"{race.buyers} processes bought the last {name} at the same moment: "
        f"{len(race.winners)} got it, {refused}. The log agrees: {race.sold} sold, {race.left} left."
    )
    alike = Counter(failure.partition(": ")[2] for failure in race.failures)
    return "\n".join([text, *(f"{count} failed: {failure}" for failure, count in alike.items())])


def _verdict(report: Report) -> str:
    wrong = [check.what for check in report.checks if not check.holds]
    if report.is_right:
        return "[bold green]✓[/] [bold]Every figure equals what the CSV itself adds up to, to the penny.[/]"
    if wrong:
        return f"[bold red]✗ Not what the CSV adds up to: {', '.join(wrong)}.[/]"
    return "[bold red]✗ The last piece was not sold exactly once.[/]"


def _count(number: Decimal) -> str:
    return f"{number:,f}" if number else "–"


def _money(pounds: Decimal) -> str:
    sign = "-" if pounds < 0 else ""
    return f"{sign}£{abs(pounds):,.2f}"
