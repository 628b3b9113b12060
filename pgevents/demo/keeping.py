"""A runner keeps the views of carts and products up to date while the day is replayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from attrs import define, field

from pgevents.subscriptions import Runner, keep, kept_views

from .shop import CartProjection, ProductProjection, shop_client

__all__ = ["Kept", "Keeping", "kept_by_runner"]

LOOK = 0.01
"""Seconds between two looks at how far the views are."""
PATIENCE = 600.0
"""Seconds for the runner to come as far as the replay."""


@define
class Kept:
    """What the runner did.

    Attributes:
        views: How many views stand at the end.
        events: How many events were folded into them; one counts for its cart and for its product.
        seconds: From the first save until the last event was folded.
        behind: Seconds from the last save until then.
        lags: Seconds from a save until both views had it, for each save that was looked at, in order of
            length.
    """

    views: int = 0
    events: int = 0
    seconds: float = 0.0
    behind: float = 0.0
    lags: list[float] = field(factory=list[float])

    @property
    def per_second(self) -> float:
        """The rate."""
        return self.events / self.seconds if self.seconds else 0.0

    def lag(self, share: float) -> float:
        """The lag that this share of the saves stayed below; 0 if none was looked at."""
        return self.lags[int(share * (len(self.lags) - 1))] if self.lags else 0.0


class Keeping:
    """Looks at how far a runner is behind the saves.

    Args:
        url: The database.
        schema: The schema of the shop's tables.
    """

    def __init__(self, url: str, schema: str) -> None:
        self._client = shop_client(url, schema)
        self._saved: list[tuple[int, float]] = []
        self._lags: list[float] = []
        self._began = time.perf_counter()
        self._stop = threading.Event()
        self._position = 0
        self._thread = threading.Thread(target=self._look, name="pgevents-demo-lag")
        self._thread.start()

    def saved(self, event_id: int) -> None:
        """Note that an event was saved just now."""
        self._saved.append((event_id, time.perf_counter()))

    def _look(self) -> None:
        while not self._stop.wait(LOOK):
            self._position = min((view.position for view in kept_views(self._client)), default=0)
            now = time.perf_counter()
            while self._saved and self._saved[0][0] <= self._position:
                self._lags.append(now - self._saved.pop(0)[1])
        self._client.db.close()

    def finish(self, last: int, events: int, progress: Callable[[int], object]) -> Kept:
        """Wait until the views have come as far as the log.

        Args:
            last: The id of the last event.
            events: How many events were replayed.
            progress: Called with the number of ids that were folded since.

        Raises:
            TimeoutError: They do not.
        """
        ended, shown = time.perf_counter(), 0
        while shown < last:
            if time.perf_counter() - ended > PATIENCE:
                raise TimeoutError(f"the views stand at event {self._position} of {last}")
            time.sleep(LOOK)
            reached = min(self._position, last)
            progress(reached - shown)
            shown = reached
        now = time.perf_counter()
        self.end()
        return Kept(0, 2 * events, now - self._began, now - ended, sorted(self._lags))

    def end(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()


@contextmanager
def kept_by_runner(url: str, schema: str) -> Generator[Keeping, None, None]:
    """A runner at work for the time of the block, and what looks at it."""
    client = shop_client(url, schema)
    runner = Runner(client, [keep(CartProjection), keep(ProductProjection)])
    thread = threading.Thread(target=runner.run, kwargs={"workers": 2}, name="pgevents-demo-views")
    thread.start()
    runner.wait_until_ready(30)
    keeping = Keeping(url, schema)
    try:
        yield keeping
    finally:
        keeping.end()
        runner.stop()
        thread.join()
