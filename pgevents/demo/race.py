"""The last piece: eight processes try to buy it at the same moment, and one gets it."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from attrs import frozen

from pgevents import EventClient

from .shop import CartProjection, ItemAdded, ProductProjection, SoldOut, StockCounted, buy_one, shop_client

__all__ = ["Race", "race"]

PATIENCE = 60.0
"""Seconds that all buyers together may take."""


@frozen
class Race:
    """The result of the race.

    Attributes:
        product_id: The product for sale.
        description: The product's name.
        buyers: The number of processes.
        winners: The carts whose buyers report a purchase.
        sold_out: How many buyers were refused because the product is sold out.
        failures: Other results, one line each.
        sold: How many pieces were sold by the log.
        left: How many pieces are left by the product's projection.
        seconds: From the start to the last answer.
    """

    product_id: str
    description: str
    buyers: int
    winners: tuple[str, ...]
    sold_out: int
    failures: tuple[str, ...]
    sold: int
    left: int | None
    seconds: float

    @property
    def is_fair(self) -> bool:
        """Whether exactly one buyer got it, all others were refused, and the log agrees."""
        one_winner = len(self.winners) == 1 and self.sold_out == self.buyers - 1
        return one_winner and not self.failures and self.sold == 1 and self.left == 0


def race(
    client: EventClient,
    url: str,
    schema: str,
    product_id: str,
    buyers: int = 8,
    progress: Callable[[int], object] = lambda answers: None,
) -> Race:
    """Set the stock of a product to one piece, and let several processes buy it at the same time.

    Args:
        client: The shop's client.
        url: The URL by which each buyer connects.
        schema: The schema of the shop's tables.
        product_id: The product that they buy.
        buyers: The number of processes.
        progress: Called after each answer.
    """
    counted = client.save_event(StockCounted(product_id, pieces=1))
    context = multiprocessing.get_context("spawn")  # a forked child would share this process's connection
    start: Any = context.Barrier(buyers + 1)
    answers: Any = context.Queue()
    carts = [f"last-piece-{number}" for number in range(1, buyers + 1)]
    processes = [
        context.Process(target=_buy, args=(url, schema, cart, product_id, start, answers), daemon=True)
        for cart in carts
    ]
    for process in processes:
        process.start()
    try:
        seconds, results = _listen(start, answers, buyers, progress)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    answer = {cart: results.get(cart, "gave no answer") for cart in carts}
    product = ProductProjection(product_id, client)
    return Race(
        product_id,
        product.view.description,
        buyers,
        winners=tuple(cart for cart, text in answer.items() if text == "bought"),
        sold_out=sum(text == "sold out" for text in answer.values()),
        failures=tuple(
            f"{cart}: {text}" for cart, text in answer.items() if text not in ("bought", "sold out")
        ),
        sold=len(client.get_event_stream(ItemAdded, after=counted.id, product_id=product_id)),
        left=product.view.left,
        seconds=seconds,
    )


def _listen(
    start: Any, answers: Any, buyers: int, progress: Callable[[int], object]
) -> tuple[float, dict[str, str]]:
    with suppress(threading.BrokenBarrierError):  # a buyer could not start; the answers say why
        start.wait(PATIENCE)
    begun = time.perf_counter()
    results: dict[str, str] = {}
    with suppress(queue.Empty):
        while len(results) < buyers:
            cart, text = answers.get(timeout=max(0.0, begun + PATIENCE - time.perf_counter()))
            results[cart] = text
            progress(1)
    return time.perf_counter() - begun, results


def _buy(url: str, schema: str, cart: str, product_id: str, start: Any, answers: Any) -> None:
    """A buyer, in a process and with a connection of its own."""
    try:
        client = shop_client(url, schema)
        client.check_installed()
        start.wait(PATIENCE)
        projections = (CartProjection(cart, client), ProductProjection(product_id, client))
        client.decide(projections, lambda cart, product: buy_one(cart, product, datetime.now(timezone.utc)))
        answer = "bought"
    except SoldOut:
        answer = "sold out"
    except threading.BrokenBarrierError:
        answer = "the other buyers did not start"
    except Exception as error:
        start.abort()  # so that nobody waits for this buyer
        answer = f"{type(error).__name__}: {' '.join(str(error).split())}"
    answers.put((cart, answer))
