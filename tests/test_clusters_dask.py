"""Rebuilds on Dask clusters of processes, of which any is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pgevents import ConfigurationError, EventClient, RetryableError
from pgevents.clusters import Dask, engine, running
from pgevents.exchange import export_parquet
from pgevents.subscriptions import keep, rebuild
from pgevents.testing import drain

from .shop import CartProjection
from .slow_shop import SlowCartProjection
from .test_clusters import IDS, URL, differing, shopping

distributed: Any = pytest.importorskip("distributed", reason="the extra dask is not installed")
ROOT = str(Path(__file__).parent.parent)
MANY = [f"m{n}" for n in range(200)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, pgevents_url: str) -> None:
    monkeypatch.setenv(URL, pgevents_url)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.setattr(engine, "WORKERS_WAIT", 120.0)


@contextmanager
def program(module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of Dask, which is killed in the end."""
    command = [sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def scheduler(port: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")
    with program("distributed.cli.dask_scheduler", *arguments) as process:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.05)
        yield process


@contextmanager
def worker(port: int) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "60")
    with program("distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", *arguments) as process:
        yield process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def done_ranges(client: EventClient) -> int:
    sql = "SELECT count(done_at) FROM my_app.events_ranges"
    return int(client.db.execute_sql(sql).fetchone()[0])


def until(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def test_two_processes_fold_and_keeping_goes_on(client: EventClient) -> None:
    """Each of them in a process of its own; progress is reported, and the views grow afterwards."""
    client.save_events(shopping(*IDS))
    port, reached = free_port(), list[int]()
    with scheduler(port), worker(port), worker(port):
        dask = Dask(f"dask://127.0.0.1:{port}", credentials=URL)
        report = rebuild(
            client, CartProjection, engine=dask, progress=lambda now: reached.append(now.position)
        )
        with pytest.raises(Exception, match="no environment variable NOBODYS_URL"):
            rebuild(client, SlowCartProjection, engine=Dask(dask.address, credentials="NOBODYS_URL"))
    assert (report.position, report.complete_at is not None) == (2 * len(IDS), True)
    assert reached == sorted(reached) and len(reached) > 3
    assert not differing(client)
    client.save_events(shopping(*IDS))
    drain(client, [keep(CartProjection)])
    assert not differing(client)


def test_a_cluster_that_is_not_there_is_named(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler, or one without workers: nothing is folded."""
    client.save_events(shopping(*IDS))
    monkeypatch.setattr(engine, "AWAY", 0.3)
    monkeypatch.setattr(engine, "WORKERS_WAIT", 0.3)
    port = free_port()
    with pytest.raises(ConfigurationError, match="no scheduler at tcp://127.0.0.1"):
        rebuild(client, CartProjection, engine=Dask(f"dask://127.0.0.1:{port}"))
    monkeypatch.setattr(engine, "AWAY", 10.0)
    with scheduler(port), pytest.raises(ConfigurationError, match="has no workers"):
        rebuild(client, CartProjection, engine=Dask(f"dask://127.0.0.1:{port}"))
    assert client.db.execute_sql("SELECT count(*) FROM my_app.events_ranges").fetchone() == (0,)


@pytest.mark.long
def test_killed_workers_lose_nothing(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their ranges are folded by others."""
    monkeypatch.setenv("SECONDS_AN_EVENT", "0.02")
    client.save_events(shopping(*MANY))
    port = free_port()
    with scheduler(port), worker(port) as first, worker(port) as second, worker(port):

        def kill() -> None:
            for process, done in ((first, 1), (second, 3)):
                until(lambda done=done: done_ranges(other) >= done)
                killed_at.append(done_ranges(other))
                process.send_signal(signal.SIGKILL)

        other, killed_at = client_beside(client), list[int]()
        killer = threading.Thread(target=kill)
        killer.start()
        rebuild(
            client, SlowCartProjection, engine=Dask(f"dask://127.0.0.1:{port}", credentials=URL, ranges=16)
        )
        killer.join()
        other.db.close()
    assert killed_at[0] >= 1 and killed_at[1] >= 3
    assert (first.poll(), second.poll()) == (-signal.SIGKILL, -signal.SIGKILL)
    monkeypatch.setenv("SECONDS_AN_EVENT", "0")
    assert not differing(client, SlowCartProjection, MANY)


@pytest.mark.long
def test_a_killed_scheduler_loses_nothing(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call ends with an error that says so; called again, it folds what is left, up to the same bound."""
    monkeypatch.setattr(running, "AWAY", 2.0)
    monkeypatch.setenv("SECONDS_AN_EVENT", "0.02")
    client.save_events(shopping(*MANY))
    port = free_port()
    other = client_beside(client)
    with scheduler(port) as process, worker(port), worker(port):

        def kill() -> None:
            until(lambda: done_ranges(other) >= 2)
            process.send_signal(signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(RetryableError, match="does not answer any more"):
            rebuild(
                client,
                SlowCartProjection,
                engine=Dask(f"dask://127.0.0.1:{port}", credentials=URL, ranges=16),
            )
        killer.join()
    assert 2 <= done_ranges(other) < 16
    rows = other.db.execute_sql("SELECT DISTINCT bound, fold FROM my_app.events_ranges").fetchall()
    client.save_events(shopping(*MANY))
    monkeypatch.setenv("SECONDS_AN_EVENT", "0")
    port = free_port()
    with scheduler(port), worker(port):
        report = rebuild(client, SlowCartProjection, engine=Dask(f"dask://127.0.0.1:{port}", credentials=URL))
    assert rows[0][0] == 2 * len(MANY) == report.position and len(rows) == 1
    drain(client, [keep(SlowCartProjection)])
    assert not differing(client, SlowCartProjection, MANY)
    other.db.close()


@pytest.mark.long
def test_processes_fold_an_export(client: EventClient, tmp_path: Path) -> None:
    """Its files are dealt out on the way, and only they are left; what was saved since comes from the log."""
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    client.save_events(shopping(*MANY))
    files = export_parquet(client, tmp_path, rows=40).files
    client.save_events(shopping(*MANY))
    port, dealt = free_port(), list[bool]()
    with scheduler(port), worker(port), worker(port):
        dask = Dask(f"dask://127.0.0.1:{port}", credentials=URL, parquet=str(tmp_path), ranges=16)
        report = rebuild(
            client,
            CartProjection,
            engine=dask,
            progress=lambda now: dealt.append(any(tmp_path.glob("_dealt*/*"))),
            every=0.01,
        )
    assert any(dealt)
    assert sorted(tmp_path.glob("[!_]*")) == sorted(files) and not any(tmp_path.glob("_dealt*"))
    assert report.position == 4 * len(MANY)
    assert not differing(client, CartProjection, MANY)


PROGRAM = """
import os
from tests.conftest import database, shop_client
from tests.slow_shop import SlowCartProjection

def make_client():
    return shop_client(database(os.environ["SHOP_DATABASE_URL"]))
"""


@pytest.mark.long
@pytest.mark.parametrize("source", ["the log", "an export"])
def test_the_command_lets_a_cluster_fold(client: EventClient, tmp_path: Path, source: str) -> None:
    """`pgevents rebuild --engine`: progress on standard error, the end on standard output."""
    client.save_events(shopping(*MANY))
    (tmp_path / "cluster_app.py").write_text(PROGRAM)
    port, more = free_port(), []
    if source == "an export":
        pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
        export_parquet(client, tmp_path / "log", rows=40)
        more = ["--parquet", str(tmp_path / "log")]
    with scheduler(port), worker(port), worker(port):
        arguments = ["rebuild", "SLOW_CART", "--app", "cluster_app:make_client", "--credentials", URL]
        command = [sys.executable, "-c", "from pgevents.cli import main; main()", *arguments]
        done = subprocess.run(
            [*command, "--engine", f"dask://127.0.0.1:{port}", *more],
            cwd=tmp_path,
            env={**os.environ, "SECONDS_AN_EVENT": "only workers fold"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"SLOW_CART version 1 is complete up to event {2 * len(MANY)}.\n"
    assert f"of {2 * len(MANY)} (" in done.stderr
    assert not differing(client, SlowCartProjection, MANY)


def client_beside(client: EventClient) -> EventClient:
    """Another connection, for another thread."""
    from .conftest import shop_client

    return shop_client(os.environ[URL])
