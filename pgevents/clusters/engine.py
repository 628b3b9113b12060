"""`Dask`: the engine that lets the workers of a Dask cluster fold a projection's views."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs

from pgevents.client import EventClient
from pgevents.clusters.dealing import clear, to_deal
from pgevents.clusters.ranges import begin, finish
from pgevents.clusters.recipe import recipe_of
from pgevents.clusters.running import AWAY, Job, Run, dask_module
from pgevents.clusters.sources import Standby
from pgevents.clusters.worker import Task, deal_file, fold_range
from pgevents.errors import ConfigurationError, RetryableError, shown
from pgevents.exchange.parquet import exported
from pgevents.subscriptions.definition import Work

__all__ = ["Dask"]

log = logging.getLogger("pgevents")

RANGES_A_THREAD = 2
MOST_RANGES = 1024
WORKERS_WAIT = 30.0
ATTEMPTS = 15
"""How often beginning and end are tried again; the end waits ten seconds each time for keepers' batches."""
R = TypeVar("R")


class Dask:
    """Folds views on the workers of a Dask cluster, by ranges of the hashes of their ids.

    The workers read the log for themselves, from the database or from a standby, and write the rows of their
    views. All is folded up to one final id, which is noted before in the database with the ranges that are
    done. So a killed worker's range is folded by another one; after the death of the scheduler, or of the
    process that called `rebuild`, calling it again goes on. Live keeping, and a second `rebuild`, do no harm.

    Workers get names alone: of the projection's class, and of an environment variable of theirs that
    holds the database's URL. They need the program's modules, in the same version.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: str = "PGEVENTS_DATABASE_URL",
        maker: str | None = None,
        standby: str | None = None,
        parquet: str | None = None,
        ranges: int | None = None,
    ) -> None:
        """Nothing is connected yet.

        Args:
            address: The scheduler's, `dask://host:port`; `tls://host:port` with Dask's own settings.
            credentials: The name of the workers' environment variable that holds the database's URL.
            maker: A function that takes a URL and makes the client, `module:function`; needed for a client
                with plugins.
            standby: The name of a variable with the URL of a physical standby, to read the log from.
            parquet: A folder of `export_parquet`, to read the log from: under the same path for all workers
                and this process, and writable. It is read once, rather than once for each range.
            ranges: Into how many ranges a new fold divides the ids; by default two for each thread of the
                workers. Each is a task for which the log is gone through once. From an export, or with
                `ids_of`, the views of a range fit into a worker's memory at best.

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
        if parquet is not None and (standby is not None or not os.path.isabs(parquet)):
            raise ConfigurationError("parquet is the full path of a folder, and goes without standby")
        self.address = f"{'tls' if scheme == 'tls' else 'tcp'}://{rest}"
        self.credentials = credentials
        self.maker = maker
        self.standby = standby
        self.parquet = parquet
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
                files, last = self._export(client)
                plan = _patiently(partial(begin, work, self.ranges or _ranges_for(cluster), last))
                if last is not None and last < plan.bound:
                    raise ConfigurationError(
                        f"the fold was begun up to event {plan.bound}, and {self.parquet} ends at {last}: "
                        "export again, or go on without parquet"
                    )
                standby = None if self.standby is None else Standby(self.standby, client.bookmark())
                task = Task(recipe, plan, 0, standby, self.parquet)
                if not self._run(cluster, task, files, progress):
                    log.warning("the fold of %r begins anew, or is over", work.name)
                if _patiently(partial(finish, work, plan)):
                    if self.parquet is not None:
                        clear(self.parquet, plan)
                    return

    def _export(self, client: EventClient) -> tuple[list[Path], int | None]:
        """The files to read, and up to which id they hold the log."""
        if self.parquet is None:
            return [], None
        files, last, _ = exported(client, self.parquet)
        return files, last

    def _run(
        self, cluster: Any, task: Task, files: list[Path], progress: Callable[[int, int], object]
    ) -> bool:
        """Deal out the files, and fold what is to do; whether the fold is still the one that was begun."""
        plan = task.plan
        if self.parquet is not None:
            dealing: list[Job] = [(deal_file, task, name) for name in to_deal(self.parquet, plan, files)]
            if not Run(cluster, self.address, dealing, lambda done: progress(0, plan.bound)).go():
                return False
        before = plan.ranges - len(plan.todo)  # each range is as large as another
        folding: list[Job] = [(fold_range, attrs.evolve(task, number=number)) for number in plan.todo]

        def tell(done: int) -> None:
            progress(plan.bound * (before + done) // plan.ranges, plan.bound)

        return Run(cluster, self.address, folding, tell).go()

    @contextmanager
    def _cluster(self) -> Generator[Any, None, None]:
        """A connection to the scheduler, which has workers."""
        distributed = dask_module()
        try:
            cluster = distributed.Client(self.address, set_as_default=False, timeout=AWAY)
        except (OSError, TimeoutError) as error:
            raise ConfigurationError(f"there is no scheduler at {self.address}: {error}") from error
        try:
            self._await_workers(cluster)
            yield cluster
        finally:
            cluster.close(timeout=1)

    def _await_workers(self, cluster: Any) -> None:
        try:
            cluster.wait_for_workers(1, timeout=WORKERS_WAIT)
        except dask_module().TimeoutError as error:
            raise ConfigurationError(
                f"the scheduler at {self.address} has no workers: start some, dask worker {self.address}"
            ) from error


def _ranges_for(cluster: Any) -> int:
    threads: dict[str, int] = cluster.nthreads()
    return min(RANGES_A_THREAD * max(sum(threads.values()), 1), MOST_RANGES)


def _patiently(call: Callable[[], R]) -> R:
    """Call again while keepers are in the middle of batches, or the log is changed under maintenance."""
    attempt = 1
    while True:
        try:
            return call()
        except RetryableError:
            if attempt == ATTEMPTS:
                raise
            attempt += 1
            time.sleep(1.0)
