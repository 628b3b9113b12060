"""The last piece: eight processes buy it at the same moment, and one gets it."""

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
"""Seconds for all buyers together."""


@frozen
class Race:
    """How it ended.

    Attributes:
        product_id: What was for sale.
        description: What it is called.
        buyers: How many processes.
        winners: The carts that say they have it.
        sold_out: How many were told that it is gone.
        failures: What else happened, one line each.
        sold: How many the log says were sold.
        left: How many are left by the product's projection.
        seconds: From the shot to the last answer.
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
        """Whether exactly one got it, the others know, and the log agrees."""
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
    """Count the stock of a product as one piece, and let several processes buy it at once.

    Args:
        client: The shop's client.
        url: How the buyers connect, each by itself.
        schema: Where the shop's tables are.
        product_id: What they buy.
        buyers: How many.
        progress: Told after each answer.
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
        seconds, said = _listen(start, answers, buyers, progress)
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    answer = {cart: said.get(cart, "gave no answer") for cart in carts}
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
    with suppress(threading.BrokenBarrierError):  # somebody could not come; the answers say why
        start.wait(PATIENCE)
    begun = time.perf_counter()
    said: dict[str, str] = {}
    with suppress(queue.Empty):
        while len(said) < buyers:
            cart, text = answers.get(timeout=max(0.0, begun + PATIENCE - time.perf_counter()))
            said[cart] = text
            progress(1)
    return time.perf_counter() - begun, said


def _buy(url: str, schema: str, cart: str, product_id: str, start: Any, answers: Any) -> None:
    """One buyer, in a process and with a connection of its own."""
    try:
        client = shop_client(url, schema)
        client.check_installed()
        start.wait(PATIENCE)
        seen = (CartProjection(cart, client), ProductProjection(product_id, client))
        client.decide(seen, lambda cart, product: buy_one(cart, product, datetime.now(timezone.utc)))
        answer = "bought"
    except SoldOut:
        answer = "sold out"
    except threading.BrokenBarrierError:
        answer = "waited for the others in vain"
    except Exception as error:
        start.abort()  # nobody waits for this one
        answer = f"{type(error).__name__}: {' '.join(str(error).split())}"
    answers.put((cart, answer))
