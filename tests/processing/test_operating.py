"""Where runners live, and what an operator sees."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgevents import ConfigurationError, Event, EventClient, diagnosis, stream
from pgevents.diagnosis import diagnose
from pgevents.subscriptions import Runner, overview, polling, subscription

from ..conftest import database, shop_client
from ..consistency.servers import pgbouncer
from ..shop import CartCreated
from ..test_subscriptions_cli import Command, command  # noqa: F401
from ..test_subscriptions_runner import running, until

Make = Callable[..., EventClient]
HANDLED_SQL = "CREATE TABLE handled (event_id bigint, pid int)"


def writer(client: EventClient) -> Any:
    @subscription("writer", stream("CART_CREATED"), key="cart_id", lanes=4)
    def write(event: Event[Any]) -> None:
        client.db.execute_sql("INSERT INTO handled VALUES (%s, %s)", [event.id, os.getpid()])

    return write


def work(url: str) -> None:
    """A process of its own, until SIGTERM."""
    client = shop_client(database(url), ())
    Runner(client, [writer(client)]).run(2, signals=True)


@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.long), "fork", "forkserver"])
def test_a_runner_works_in_a_process_of_multiprocessing(client: EventClient, url: str, method: str) -> None:
    """However it is started; SIGTERM ends it."""
    client.db.execute_sql(HANDLED_SQL)
    client.save_events([CartCreated(f"c{n}", "u1") for n in range(20)])
    context: Any = multiprocessing.get_context(method)
    processes = [context.Process(target=work, args=(url,)) for _ in range(2)]
    for process in processes:
        process.start()
    until(lambda: client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0] == 20, 30)
    until(lambda: overview(client)[0].workers == 4, 30)
    for process in processes:
        process.terminate()
        process.join(15)
        assert process.exitcode == 0
    pids = {row[0] for row in client.db.execute_sql("SELECT pid FROM handled").fetchall()}
    assert pids <= {process.pid for process in processes}


def test_a_runner_that_was_at_work_before_a_fork_works_in_the_child(
    client: EventClient, make_client: Make
) -> None:
    """Its threads stay with the parent; the child begins its own, on connections of its own."""
    client.db.execute_sql(HANDLED_SQL)
    worker = make_client(event_types=())
    runner = Runner(worker, [writer(worker)])
    with running(worker, writer(worker)):
        client.save_event(CartCreated("c1", "u1"))
        client.wait("writer", 1, timeout=10)
        context: Any = multiprocessing.get_context("fork")
        child = context.Process(target=runner.run, kwargs={"signals": True})
        child.start()
        until(lambda: overview(client)[0].workers == 3)
        client.save_event(CartCreated("c1", "u1"))
        client.wait("writer", 2, timeout=10)
        child.terminate()
        child.join(15)
        assert child.exitcode == 0
    assert client.db.execute_sql("SELECT count(*) FROM handled").fetchone() == (2,)


GUNICORN = """
import os, threading
from tests.processing.test_operating import Runner, database, shop_client, writer

bind = "unix:{folder}/socket"
workers = 2
graceful_timeout = 10

def post_worker_init(worker):
    client = shop_client(database(os.environ["URL"]), ())
    worker.runner = Runner(client, [writer(client)])
    worker.thread = threading.Thread(target=worker.runner.run)
    worker.thread.start()

def worker_exit(server, worker):
    worker.runner.stop()
    worker.thread.join()
"""


@pytest.mark.long
def test_a_runner_works_in_gunicorns_workers(client: EventClient, url: str, tmp_path: Path) -> None:
    """Begun after the fork, each shares the work, and ends with its worker."""
    pytest.importorskip("gunicorn")
    client.db.execute_sql(HANDLED_SQL)
    settings = tmp_path / "settings.py"
    settings.write_text(GUNICORN.format(folder=tmp_path))
    root = Path(__file__).parent.parent.parent
    (tmp_path / "app.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return []\n")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "gunicorn",
            "-c",
            str(settings),
            "--pythonpath",
            f"{tmp_path},{root}",
            "app:app",
        ],
        env={**os.environ, "URL": url, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: sum(one.workers for one in overview(client)) == 2, 30)
        client.save_events([CartCreated(f"c{n}", "u1") for n in range(20)])
        client.wait("writer", 20, timeout=10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        assert process.stderr is not None
        process.stderr.close()
    assert client.db.execute_sql("SELECT count(*) FROM handled").fetchone() == (20,)
    assert overview(client)[0].workers == 0


def test_signals_need_the_main_thread(client: EventClient) -> None:
    """Python allows no other, so it is refused in words."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            Runner(client, [writer(client)]).run(signals=True)
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert "main thread" in str(errors[0])


def test_the_duration_of_a_batch_is_shown(client: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the report, and so in the gauges."""
    monkeypatch.setattr(polling, "SEEN_EVERY", 0.05)

    @subscription("slow", stream("CART_CREATED"))
    def slow(event: Event[Any]) -> None:
        time.sleep(0.02)

    client.save_event(CartCreated("c1", "u1"))
    with running(client, slow):
        until(lambda: overview(client)[0].batch_seconds >= 0.02)
    assert overview(client)[0].as_json()["batch_seconds"] == 0.0  # the runner is gone


def test_stats_has_a_line_for_each_subscription(client: EventClient, command: Command) -> None:  # noqa: F811
    """How far behind, what is parked, who works."""
    client.db.execute_sql(HANDLED_SQL)
    client.save_event(CartCreated("c1", "u1"))
    with running(client, writer(client)):
        client.wait("writer", 1, timeout=10)
        assert "writer" in command("stats") and "subscriptions" in command("stats")
        (found,) = json.loads(command("stats", "--json"))["subscriptions"]
    assert (found["name"], found["state"], found["lag"], found["workers"]) == ("writer", "active", 0, 2)


def test_doctor_names_old_snapshots(client: EventClient, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places grow as long as somebody may still want to see their old versions."""
    monkeypatch.setattr(diagnosis, "LONG", 0.0)
    reader = psycopg2.connect(url, application_name="report")
    reader.set_session(isolation_level="REPEATABLE READ")
    reader.cursor().execute("SELECT 1")
    texts = [f"{one.what} {one.advice}" for one in diagnose(client)]
    reader.close()
    assert any("report keeps a snapshot" in text and "pg_terminate_backend" in text for text in texts)


def test_doctor_names_the_time_outs_of_a_pooler(client: EventClient, url: str) -> None:
    """They end a handler's transaction, and nobody but PgBouncer can change them."""
    assert not any("pooler" in one.what for one in diagnose(client))
    with pgbouncer(url) as through:
        pooled = shop_client(database(through))
        (found,) = [one for one in diagnose(pooled) if "pooler" in one.what]
        pooled.db.close()
    assert "idle_transaction_timeout" in found.advice and "query_timeout" in found.advice
