"""`Dask`: the engine that lets the workers of a Dask cluster fold a projection's views."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import attrs

from pgevents.client import EventClient
from pgevents.clusters.ranges import Plan, begin, finish
from pgevents.clusters.recipe import Recipe, recipe_of
from pgevents.clusters.sources import Standby
from pgevents.clusters.worker import Outcome, Task, fold_range
from pgevents.distribution import install_hint
from pgevents.errors import ConfigurationError, PgEventsError, RetryableError, shown
from pgevents.subscriptions.definition import Work

__all__ = ["Dask"]

log = logging.getLogger("pgevents")

LOOK_EVERY = 0.05
RANGES_A_THREAD = 4
MOST_RANGES = 1024
AWAY = 15.0
"""Seconds to wait for a scheduler that does not answer."""
WORKERS_WAIT = 30.0
ATTEMPTS = 10
"""How often a range is tried again after errors of the database, or of the connection to it."""
FINISHES = 12
"""How often the end is tried again while keepers are in the middle of batches, for ten seconds each."""
GONE = (
    "the scheduler at {address} does not answer any more. What is folded is noted in the database: call "
    "rebuild again to go on"
)
KEPT = "What is done is kept: call rebuild again to go on"


class Dask:
    """Folds views on the workers of a Dask cluster, by ranges of the hashes of their ids.

    The workers read the log for themselves, from the database or from a standby, and write the rows of their
    views. All is folded up to one final id, which is noted before in the database with the ranges that are
    done. So a killed worker's range is folded by another one; after the death of the scheduler, or of the
    process that called `rebuild`, calling it again goes on. Live keeping, and a second `rebuild`, do no harm.

    Workers are told names alone: of the projection's class, and of an environment variable of theirs that
    holds the database's URL. They need the program's modules, in the same version.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: str = "PGEVENTS_DATABASE_URL",
        maker: str | None = None,
        standby: str | None = None,
        ranges: int | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            address: The scheduler's, `dask://host:port`; `tls://host:port` with Dask's own settings.
            credentials: The name of the workers' environment variable that holds the database's URL.
            maker: A function that takes a URL and makes the client, `module:function`; needed for a client
                with plugins.
            standby: The name of a variable with the URL of a physical standby, to read the log from.
            ranges: Into how many ranges a new fold divides the ids; by default four for each thread of the
                workers. Each is a task that reads the log once, and its views fit into a worker's memory at
                best.

        Raises:
            ConfigurationError: An address or a name of another form.

        Example:
            ```python
            from pgevents.clusters import Dask
            from pgevents.subscriptions import rebuild

            engine = Dask("dask://scheduler:8786", credentials="SHOP_DATABASE_URL")
            rebuild(client, CartProjection, engine=engine)
            ```
        """
        scheme, mark, rest = address.partition("://")
        if not mark or scheme not in ("dask", "tcp", "tls") or ":" not in rest:
            raise ConfigurationError(f"a scheduler's address is dask://host:port, not {shown(address)}")
        for name in filter(None, (credentials, standby)):
            if not name.isidentifier():
                raise ConfigurationError(
                    "credentials and standby are names of environment variables that the workers have, and "
                    "no URLs: these would travel through the scheduler"
                )
        if maker is not None and not all(maker.partition(":")):
            raise ConfigurationError(f"maker is module:function, not {shown(maker)}")
        if ranges is not None and (type(ranges) is not int or not 1 <= ranges <= MOST_RANGES):
            raise ConfigurationError(f"ranges are a number from 1 to {MOST_RANGES}, not {shown(ranges)}")
        self.address = f"{'tls' if scheme == 'tls' else 'tcp'}://{rest}"
        self.credentials = credentials
        self.maker = maker
        self.standby = standby
        self.ranges = ranges

    def fold(self, client: EventClient, work: Work, progress: Callable[[int, int], object]) -> None:
        """Fold all views up to one final id, and move all lanes there; called by `rebuild`.

        Raises:
            ConfigurationError: No scheduler, no workers, or workers with another program.
            PgEventsError: A range that cannot be folded.
            RetryableError: The scheduler is gone, or the database was not to be had. Calling again goes on.
        """
        recipe = recipe_of(client, work.keeper.rule.projection, self.credentials, self.maker)
        with self._cluster() as cluster:
            while True:
                plan = begin(work, self.ranges or _ranges_for(cluster))
                standby = None if self.standby is None else Standby(self.standby, client.bookmark())
                run = _Run(cluster, self.address, recipe, plan, standby, progress)
                if not run.fold():
                    log.warning("the fold of %r begins anew, or is over: %s", work.name, run.change)
                if _finished(work, plan):
                    return

    @contextmanager
    def _cluster(self) -> Generator[Any, None, None]:
        """A connection to the scheduler, which has workers."""
        distributed = _distributed()
        try:
            cluster = distributed.Client(self.address, set_as_default=False, timeout=AWAY)
        except (OSError, TimeoutError) as error:
            raise ConfigurationError(f"there is no scheduler at {self.address}: {error}") from error
        try:
            cluster.wait_for_workers(1, timeout=WORKERS_WAIT)
            yield cluster
        except distributed.TimeoutError as error:
            raise ConfigurationError(
                f"the scheduler at {self.address} has no workers: start some, dask worker {self.address}"
            ) from error
        finally:
            cluster.close(timeout=1)


def _distributed() -> Any:
    try:
        return import_module("distributed")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"distributed is missing; it is an extra: {install_hint('dask')}") from error


def _ranges_for(cluster: Any) -> int:
    threads: dict[str, int] = cluster.nthreads()
    return min(RANGES_A_THREAD * max(sum(threads.values()), 1), MOST_RANGES)


def _finished(work: Work, plan: Plan) -> bool:
    """Whether the lanes stand at the bound; tried again while keepers are in the middle of their batches."""
    attempt = 1
    while True:
        try:
            return finish(work, plan)
        except RetryableError:
            if attempt == FINISHES:
                raise
            attempt += 1
            time.sleep(0.2)


@attrs.define(eq=False)
class _Run:
    """One run of the ranges that are to do through the cluster."""

    cluster: Any
    address: str
    recipe: Recipe
    plan: Plan
    standby: Standby | None
    progress: Callable[[int, int], object]
    change: str = ""
    _futures: dict[Any, int] = attrs.field(factory=dict[Any, int])
    _attempts: dict[int, int] = attrs.field(factory=dict[int, int])
    _done: int = 0
    _lost_at: float | None = None

    def fold(self) -> bool:
        """Fold them; whether the fold is still the one that was begun."""
        self._tell()
        for number in self.plan.todo:
            self._submit(number)
        try:
            while self._futures and not self.change:
                self._look()
        finally:
            self._give_up()
        return not self.change

    def _submit(self, number: int) -> None:
        task = Task(self.recipe, self.plan, number, self.standby)
        future = self.cluster.submit(fold_range, task, pure=False)
        self._futures[future] = number

    def _look(self) -> None:
        ended = [future for future in self._futures if future.status != "pending"]
        for future in ended:
            number = self._futures[future]
            if future.status == "error":
                error = future.exception()
                raise PgEventsError(
                    f"range {number} of {self.plan.ranges} cannot be folded: {type(error).__name__}: "
                    f"{error}. {KEPT}"
                ) from error
            if future.status != "finished":  # cancelled or lost: the scheduler has forgotten it
                raise RetryableError(GONE.format(address=self.address))
            outcome = self._result(future)
            if outcome is not None:
                del self._futures[future]
                self._take(number, outcome)
        if ended:
            self._tell()
        else:
            self._check_scheduler()
            time.sleep(LOOK_EVERY)

    def _result(self, future: Any) -> Outcome | None:
        """What a worker returned; None if it has died since, and another one folds the range again."""
        distributed = _distributed()
        try:
            outcome: Outcome = future.result(timeout=AWAY)
        except distributed.TimeoutError:
            return None
        except (distributed.CancelledError, OSError) as error:
            raise RetryableError(GONE.format(address=self.address)) from error
        return outcome

    def _take(self, number: int, outcome: Outcome) -> None:
        if outcome.kind == "changed":
            self.change = outcome.error
        elif outcome.kind == "refused":
            raise PgEventsError(outcome.error)
        elif outcome.kind == "done":
            self._done += 1
        else:
            self._attempts[number] = attempts = self._attempts.get(number, 0) + 1
            if attempts >= ATTEMPTS:
                raise RetryableError(
                    f"range {number} was tried {attempts} times; last: {outcome.error}. {KEPT}"
                )
            log.warning("range %d is folded again: %s", number, outcome.error)
            self._submit(number)

    def _check_scheduler(self) -> None:
        if self.cluster.status == "running":
            self._lost_at = None
            return
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        if now - self._lost_at > AWAY or self.cluster.status == "closed":
            raise RetryableError(GONE.format(address=self.address))

    def _tell(self) -> None:
        """Say how far it is: each range is as large as another."""
        plan = self.plan
        done = plan.ranges - len(plan.todo) + self._done
        self.progress(plan.bound * done // plan.ranges, plan.bound)

    def _give_up(self) -> None:
        for future in self._futures:
            future.release()
        self._futures.clear()
