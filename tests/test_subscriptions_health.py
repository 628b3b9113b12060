"""A stuck subscription never looks healthy, and what is wrong is said in words."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pgevents import ConfigurationError, Event, EventClient, stream
from pgevents.subscriptions import (
    Runner,
    Subscription,
    check,
    discard,
    overview,
    parked,
    pause,
    replay,
    retry,
    subscription,
)
from pgevents.testing import drain

from .processing.lab import in_thread
from .shop import CartCreated, CartProjection
from .test_subscriptions_cli import pg_url
from .test_subscriptions_runner import until

Make = Callable[..., EventClient]


def age(client: EventClient, seconds: float) -> None:
    """Let everything have happened so much earlier."""
    back = f"interval '{seconds} s'"
    client.db.execute_sql(f"UPDATE my_app.events_seen SET at = at - {back}")
    client.db.execute_sql(f"UPDATE my_app.events_checkpoints SET moved_at = moved_at - {back}")


def test_a_stuck_subscription_does_not_look_healthy(client: EventClient) -> None:
    """Events that nobody deals with are noticed when they are older than the limit, whatever created_at
    says."""
    Subscription(client, "writer", [stream(CartCreated)]).process(lambda event: None)
    assert check(client) == []
    client.save_event(CartCreated("c1", "u1"))
    assert check(client) == ["writer: no runner, and 1 events are to be dealt with"]
    age(client, 60)
    assert "stuck: event 1 came 6" in " ".join(check(client))
    assert not any("stuck" in problem for problem in check(client, max_lag=100))
    (report,) = overview(client)
    assert (report.lag, report.position) == (1, 0) and 60 <= report.lag_seconds < 70


def test_what_was_declared_and_never_ran_is_missing(client: EventClient) -> None:
    """By its name."""
    assert check(client, ["mails"]) == ["mails: it was declared, but has never run"]


def test_a_stuck_writer_is_named(client: EventClient, make_client: Make) -> None:
    """Who holds the horizon holds followers back."""
    slow = make_client()
    with slow.db.atomic():
        slow.save_event(CartCreated("c1", "u1"))
        time.sleep(0.2)
        assert any("holds the horizon at 0" in problem for problem in check(client, max_lag=0.1))


def test_a_runner_that_is_gone_is_missed(client: EventClient) -> None:
    """After 30 seconds; one that ended well signs off."""

    @subscription("writer", CartCreated)
    def write(event: Event[CartCreated]) -> None:
        return None

    with in_thread(Runner(client, [write])):
        until(lambda: overview(client)[0].workers == 1)
        client.db.execute_sql(
            "INSERT INTO my_app.events_runners (id, host, pid, workers, names, seen_at) "
            "VALUES ('x', 'far', 1, 1, '{other}', clock_timestamp() - interval '60 s')"
        )
        assert check(client) == []
    assert overview(client)[0].workers == 0
    client.db.execute_sql("UPDATE my_app.events_runners SET names = '{writer}'")
    assert "its runner on far was not seen for 60 s" in check(client)[0]


def test_redaction_forgets_what_error_texts_quote(client: EventClient) -> None:
    """An error's text may hold the value that is to be forgotten."""

    @subscription("writer", CartCreated, key="cart_id", on_error=retry(1))
    def write(event: Event[CartCreated]) -> None:
        raise ValueError(f"no mail to {event.data.user_id}")

    client.save_event(CartCreated("c1", "ann@example.com"))
    drain(client, [write])
    (failed,) = parked(client, "writer")
    assert failed.error == "ValueError: no mail to ann@example.com"
    assert failed.stack and "in write" in failed.stack and "raise ValueError" in failed.stack
    assert "worker.py" not in failed.stack
    with client.maintenance("erasure request 17"):
        client.db.execute_sql(
            """UPDATE my_app.events SET data = data || '{"user_id": "erased"}' WHERE id = 1"""
        )
    (forgotten,) = parked(client, "writer")
    assert (forgotten.error, forgotten.stack) == (None, None)


def test_what_is_done_to_a_parked_event_is_noted_with_name_and_reason(client: EventClient) -> None:
    """Who tried again, and why, stands beside the event; who discarded it, for good."""

    @subscription("writer", CartCreated, key="cart_id", on_error=retry(1))
    def write(event: Event[CartCreated]) -> None:
        raise ValueError("no paper")

    client.save_events([CartCreated(f"c{n}", "u1") for n in range(3)])
    drain(client, [write])
    first = parked(client, "writer", limit=2)
    rest = parked(client, "writer", after=(first[-1].key, first[-1].event_id))
    assert [one.event_id for one in (*first, *rest)] == [1, 2, 3]
    assert replay(client, "writer", event_id=1, reason="paper came", by="Ada") == 1
    discard(client, "writer", 2, "paid by hand", by="Grace")
    notes = [one.note for one in parked(client, "writer", discarded=True)]
    assert notes == ["tried again by Ada: paper came", "Grace: paid by hand", None]


def test_it_can_be_asked_where_nothing_may_be_written(client: EventClient) -> None:
    """A standby, or a transaction that only reads, answers too."""
    client.save_event(CartCreated("c1", "u1"))
    with client.db.atomic():
        client.db.execute_sql("SET TRANSACTION READ ONLY")
        assert check(client) == []


def test_a_lost_server_connection_is_made_anew(client: EventClient, url: str) -> None:
    """A runner and a script go on when all their backends were cut off."""
    seen: list[int] = []

    @subscription("writer", CartCreated)
    def write(event: Event[CartCreated]) -> None:
        seen.append(event.id)

    script: list[int] = []
    stop = threading.Event()
    mine = Subscription(client, "script", [stream(CartCreated)])

    def run() -> None:
        mine.run(lambda event: script.append(event.id), stop=stop)
        client.db.close()

    thread = threading.Thread(target=run)
    thread.start()
    with in_thread(Runner(client, [write])):
        for n in range(1, 4):
            client.save_event(CartCreated(f"c{n}", "u1"))
            until(lambda n=n: n in seen and n in script)  # type: ignore[misc]
            client.db.execute_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
    stop.set()
    thread.join(10)
    assert not thread.is_alive() and set(seen) == set(script) == {1, 2, 3}


def test_a_runner_in_a_transaction_is_refused(client: EventClient) -> None:
    """Its batches are transactions of its own."""

    @subscription("writer", CartCreated)
    def write(event: Event[CartCreated]) -> None:
        return None

    with client.db.atomic(), pytest.raises(ConfigurationError, match="outside of db.atomic"):
        Runner(client, [write]).run()


FORKED = """
import os, sys, threading
from pgevents import *
from pgevents.subscriptions import Runner, subscription
from tests.conftest import database, shop_client

client = shop_client(database(sys.argv[1]), ())
client.get_event_stream()  # connected before the fork

@subscription("writer", "CART_CREATED")
def write(event):
    client.db.execute_sql("INSERT INTO handled VALUES (%s, %s)", [event.id, os.getpid()])
    runner.stop()

runner = Runner(client, [write])
pid = os.fork()
if pid == 0:
    runner.run()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_runner_works_in_a_forked_process(client: EventClient, url: str) -> None:
    """As in Celery's prefork or gunicorn: with connections of its own."""
    client.db.execute_sql("CREATE TABLE handled (event_id bigint, pid int)")
    client.save_event(CartCreated("c1", "u1"))
    done = subprocess.run(
        [sys.executable, "-c", FORKED, url], timeout=30, capture_output=True, text=True, cwd=os.getcwd()
    )
    assert done.returncode == 0, done.stderr
    assert client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0] == 1


def test_gauges_show_lag_and_what_is_parked(make_client: Make) -> None:
    """OpenTelemetry asks the database whenever metrics are read."""
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    export = pytest.importorskip("opentelemetry.sdk.metrics.export")
    from pgevents.plugins.opentelemetry import OpenTelemetry

    reader = export.InMemoryMetricReader()
    provider = metrics.MeterProvider(metric_readers=[reader])
    client = make_client(plugins=[OpenTelemetry(meter_provider=provider)])
    client.create_tables()

    @subscription("writer", CartCreated, key="cart_id", on_error=retry(1))
    def write(event: Event[CartCreated]) -> None:
        raise ValueError

    client.save_event(CartCreated("c1", "u1"))
    drain(client, [write])
    client.save_events([CartCreated("c2", "u1"), CartCreated("c3", "u1")])
    client.schedule(CartCreated("c4", "u1"), at=datetime.now(timezone.utc) - timedelta(minutes=1))
    found = {
        metric.name: [point.value for point in metric.data.data_points]
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith(("pgevents.subscription", "pgevents.timers"))
    }
    assert found["pgevents.subscription.lag"] == [2]
    assert found["pgevents.subscription.parked"] == [1]
    assert found["pgevents.subscription.attempts"] == [1]
    assert found["pgevents.timers.scheduled"] == [1]
    assert found["pgevents.timers.parked"] == [0]
    assert 59 < found["pgevents.timers.late.time"][0] < 90


FLASK = """
from flask import Flask
from pgevents.flask import PgEvents, current_events, health_blueprint
from pgevents.subscriptions import subscription

def create_app():
    app = Flask(__name__)
    app.config.update(
        PGEVENTS_DATABASE_URL=URL, PGEVENTS_SCHEMA="my_app", PGEVENTS_PROJECTIONS_TABLE="views",
        PGEVENTS_DATA_INDEXES=["cart_id", "product_id"], PGEVENTS_PROJECTION_INDEXES=["id", "user_id"],
    )
    PgEvents(app)
    app.register_blueprint(health_blueprint(names=["writer"], max_lag=60, url="/ready"))
    return app

@subscription("writer", "CART_CREATED", key="cart_id")
def write(event):
    current_events.db.execute_sql("INSERT INTO handled VALUES (%s)", [event.id])
"""


def test_flask_runs_subscriptions_and_answers_probes(client: EventClient, url: str, tmp_path: Path) -> None:
    """`flask pgevents run` works in app contexts; the blueprint says 200 or 503."""
    client.db.execute_sql("CREATE TABLE handled (event_id bigint PRIMARY KEY)")
    (tmp_path / "health_app.py").write_text(FLASK.replace("URL=URL", f"URL={pg_url(url)!r}"))
    start = [sys.executable, "-m", "flask", "--app", "health_app", "pgevents", "run", "--workers", "2"]
    process = subprocess.Popen(start, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        client.save_events([CartCreated(f"c{n}", "u1") for n in range(10)])
        end = time.monotonic() + 30
        while client.db.execute_sql("SELECT count(*) FROM handled").fetchone()[0] < 10:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    probe = "import health_app; r = health_app.create_app().test_client().get('/ready'); print(r.status_code)"
    for expected in ("200", "503"):
        done = subprocess.run([sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
        client.save_event(CartCreated("c1", "u1"))
        pause(client, "writer")


FLASK_RUNNER = """
from flask import Flask
from tests.shop import CartCreated, CartProjection
from pgevents.flask import PgEvents, current_events
from pgevents.subscriptions import Runner, keep, subscription

app = Flask(__name__)
app.config.update(
    PGEVENTS_DATABASE_URL=URL, PGEVENTS_SCHEMA="my_app", PGEVENTS_PROJECTIONS_TABLE="views",
    PGEVENTS_DATA_INDEXES=["cart_id", "product_id"], PGEVENTS_PROJECTION_INDEXES=["id", "user_id"],
)
PgEvents(app)

@subscription("writer", CartCreated)
def write(event):
    current_events.db.execute_sql("INSERT INTO handled VALUES (%s)", [event.id])

with app.app_context():
    runner = Runner(current_events, [write, keep(CartProjection)], context=app.app_context)
"""


def test_a_runner_of_a_flask_app_keeps_views(client: EventClient, url: str, tmp_path: Path) -> None:
    """`pgevents run app:runner` works in the runner's context; `flask pgevents run` names that command."""
    client.db.execute_sql("CREATE TABLE handled (event_id bigint PRIMARY KEY)")
    (tmp_path / "runner_app.py").write_text(FLASK_RUNNER.replace("URL=URL", f"URL={pg_url(url)!r}"))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    flask = [sys.executable, "-m", "flask", "--app", "runner_app", "pgevents", "run", "runner_app:runner"]
    done = subprocess.run(flask, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "a Runner is run by: pgevents run runner_app:runner" in done.stderr
    client.save_event(CartCreated("c1", "u1"))
    start = [sys.executable, "-c", "from pgevents.cli import main; main()", "run", "runner_app:runner"]
    process = subprocess.Popen(start, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 30
        handled = "SELECT (SELECT count(*) FROM handled) + (SELECT count(*) FROM my_app.views)"
        while client.db.execute_sql(handled).fetchone()[0] < 2:
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
    assert client.query_projections(CartProjection).is_whole
