"""Jobs for the workers of a Dask cluster: tried again where a worker or a connection is lost."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from pgevents.clusters.worker import Outcome
from pgevents.distribution import require
from pgevents.errors import PgEventsError, RetryableError

__all__ = ["AWAY", "Job", "Run", "dask_module"]

log = logging.getLogger("pgevents")

Job = tuple[Any, ...]
"""A function that gives an `Outcome`, and what it takes."""
AWAY = 15.0
"""Seconds to wait for a scheduler that does not answer."""
LOOK_EVERY = 0.05
ATTEMPTS = 10
"""How often a range is tried again after errors of the database, or of the connection to it."""
GONE = (
    "the scheduler at {address} does not answer any more. What is folded is noted in the database: call "
    "rebuild again to go on"
)
KEPT = "What is done is kept: call rebuild again to go on"


def dask_module() -> Any:
    """The module distributed, which has no types.

    Raises:
        ConfigurationError: It is not installed.
    """
    return require("distributed", "dask")


@attrs.define(eq=False)
class Run:
    """Some jobs for the workers.

    Attributes:
        cluster: The client of Dask.
        address: The scheduler's, for messages.
        jobs: Functions of `worker`, and what each takes.
        tell: Called with how many are done.
    """

    cluster: Any
    address: str
    jobs: Sequence[Job]
    tell: Callable[[int], object]
    _is_over: bool = False
    _futures: dict[Any, int] = attrs.field(factory=dict[Any, int])
    _attempts: dict[int, int] = attrs.field(factory=dict[int, int])
    _done: int = 0
    _lost_at: float | None = None

    def go(self) -> bool:
        """Do them all; whether the fold is still the one that was begun.

        Raises:
            PgEventsError: A job was refused, or ended its workers.
            RetryableError: The scheduler is gone, or a job was tried too often.
        """
        self.tell(0)
        for number in range(len(self.jobs)):
            self._submit(number)
        try:
            while self._futures and not self._is_over:
                self._look()
        finally:
            self._give_up()
        return not self._is_over

    def _submit(self, number: int) -> None:
        function, *arguments = self.jobs[number]
        self._futures[self.cluster.submit(function, *arguments, pure=False)] = number

    def _look(self) -> None:
        ended = [future for future in self._futures if future.status != "pending"]
        for future in ended:
            number = self._futures[future]
            if future.status == "error":
                error = future.exception()
                raise PgEventsError(
                    f"part {number} of {len(self.jobs)} cannot be done: {type(error).__name__}: "
                    f"{error}. {KEPT}"
                ) from error
            if future.status != "finished":  # cancelled or lost: the scheduler has forgotten it
                raise RetryableError(GONE.format(address=self.address))
            outcome = self._result(future)
            if outcome is not None:
                del self._futures[future]
                self._take(number, outcome)
        if ended:
            self.tell(self._done)
        else:
            self._check_scheduler()
            time.sleep(LOOK_EVERY)

    def _result(self, future: Any) -> Outcome | None:
        """What a worker returned; None if it has died since, and another one folds the range again."""
        distributed = dask_module()
        try:
            outcome: Outcome = future.result(timeout=AWAY)
        except distributed.TimeoutError:
            return None
        except (distributed.CancelledError, OSError) as error:
            raise RetryableError(GONE.format(address=self.address)) from error
        return outcome

    def _take(self, number: int, outcome: Outcome) -> None:
        if outcome.kind == "changed":
            self._is_over = True
        elif outcome.kind == "refused":
            raise PgEventsError(outcome.error)
        elif outcome.kind == "done":
            self._done += 1
        else:
            self._attempts[number] = attempts = self._attempts.get(number, 0) + 1
            if attempts >= ATTEMPTS:
                raise RetryableError(
                    f"part {number} was tried {attempts} times; last: {outcome.error}. {KEPT}"
                )
            log.warning("part %d is done again: %s", number, outcome.error)
            self._submit(number)

    def _check_scheduler(self) -> None:
        if self.cluster.status == "running":
            self._lost_at = None
            return
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now - self._lost_at > AWAY or self.cluster.status == "closed":
            raise RetryableError(GONE.format(address=self.address))

    def _give_up(self) -> None:
        for future in self._futures:
            future.release()
        self._futures.clear()
