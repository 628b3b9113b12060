"""A runner in the processes of Celery's prefork pool; skipped where Celery is not installed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgevents import EventClient
from pgevents.subscriptions import overview

from ..shop import CartCreated
from ..test_subscriptions_runner import until
from .test_operating import HANDLED_SQL

APP = """
import os, threading
from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from tests.processing.test_operating import Runner, database, shop_client, writer

app = Celery("app", broker="memory://")
client = shop_client(database(os.environ["URL"]), ())
client.get_event_stream()  # connected before the fork
runner = Runner(client, [writer(client)])
threads = []

@worker_process_init.connect
def begin(**options):
    threads.append(threading.Thread(target=runner.run))
    threads[0].start()

@worker_process_shutdown.connect
def end(**options):
    runner.stop()
    threads[0].join()
"""


def test_a_runner_works_in_celerys_prefork_pool(client: EventClient, url: str, tmp_path: Path) -> None:
    """Begun in each process after the fork, it shares the work, and ends with its pool."""
    pytest.importorskip("celery", reason="celery is not installed")
    client.db.execute_sql(HANDLED_SQL)
    (tmp_path / "app.py").write_text(APP)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent.parent.parent)])
    place: dict[str, Any] = {"env": {**os.environ, "URL": url, "PYTHONPATH": path}, "cwd": tmp_path}
    options = ["--pool", "prefork", "--concurrency", "2", "--without-gossip", "--without-mingle"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "app", "worker", *options], stdout=log, stderr=log, **place
        )
    try:
        until(lambda: sum(one.workers for one in overview(client)) == 2, 60)
        client.save_events([CartCreated(f"c{n}", "u1") for n in range(20)])
        client.wait("writer", 20, timeout=10)
        pids = {row[0] for row in client.db.execute_sql("SELECT pid FROM handled").fetchall()}
        assert process.pid not in pids
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    except subprocess.TimeoutExpired:
        pytest.fail(f"the pool did not end: {(tmp_path / 'log').read_text()}")
    finally:
        process.kill()
        process.wait()
    assert client.db.execute_sql("SELECT count(*) FROM handled").fetchone() == (20,)
    assert overview(client)[0].workers == 0
