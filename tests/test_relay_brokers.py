"""Relays to real brokers that are killed and restarted meanwhile: nothing is missing, and in order."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgevents import EventClient
from pgevents.exchange import from_cloudevent
from pgevents.relays import relay
from pgevents.subscriptions import Runner, retry
from pgevents.testing import drain

from .shop import ItemAddedToCart

pytestmark = pytest.mark.long
RABBITMQ = "/usr/lib/rabbitmq/bin/rabbitmq-server"
"""The program itself: Debian's command changes to a user of its own."""
KEYS, EVENTS = 6, 240
Read = Callable[[], list[tuple[str, bytes]]]


class Broker:
    """A server of the operating system's package, in a folder of its own."""

    def __init__(self, command: list[str], port: int, **environment: str) -> None:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
        self.command, self.port, self.environment = command, port, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + 90
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, f"{self.command[0]} did not start"
                time.sleep(0.05)

    def pause(self) -> None:
        """Let it accept bytes, and read none of them."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP)

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start() -> Iterator[Callable[..., Broker]]:
    started: list[Broker] = []

    def make(command: list[str], port: int, **environment: str) -> Broker:
        started.append(Broker(command, port, **environment))
        return started[-1]

    yield make
    for broker in started:
        broker.kill()


def check(client: EventClient, publisher: Any, read: Read, broker: Broker) -> None:
    """Publish while the broker is killed and started again; what it has then is the log, in order."""
    added = [ItemAddedToCart(f"c{number % KEYS}", "p", number + 1, 1) for number in range(EVENTS)]
    ids = [str(one.id) for one in client.save_events(added)]
    subscription = relay(
        "out", None, publisher, source="/shop", key="cart_id", on_error=retry(1000, delay=0.1, longest=0.5)
    )
    published, once = [0], publisher.publish

    def counted(message: Any) -> None:
        once(message)
        published[0] += 1

    publisher.publish = counted
    runner = Runner(client, [subscription])
    thread = threading.Thread(target=runner.run, kwargs={"workers": 3})
    thread.start()
    try:
        end = time.monotonic() + 60
        while published[0] < EVENTS // 5:
            assert time.monotonic() < end
            time.sleep(0.005)
        broker.pause()
        time.sleep(0.3)  # what is sent now, and not confirmed, is lost with the broker
        broker.kill()
        at = published[0]
        time.sleep(0.5)
        assert at <= published[0] < EVENTS, "killed in the middle"
        broker.start()
        client.wait("out", int(ids[-1]), timeout=120)
    finally:
        runner.stop()
        thread.join()
        client.db.close()
    received = read()
    seen = list(dict.fromkeys(event_id for event_id, _ in received))
    assert set(seen) == set(ids), "nothing is missing"
    carts = {event_id: from_cloudevent(body).event["data"]["cart_id"] for event_id, body in received}
    for key in range(KEYS):
        assert [one for one in seen if carts[one] == f"c{key}"] == ids[key::KEYS], "in order within a key"


def test_redis_streams(client: EventClient, tmp_path: Path, start: Callable[..., Broker]) -> None:
    """With `appendfsync always`, what Redis confirms survives a kill."""
    redis = pytest.importorskip("redis")
    from pgevents.relays.redis import RedisPublisher

    port = free_port()
    options = ["--port", str(port), "--dir", str(tmp_path), "--save", "", "--appendonly", "yes"]
    broker = start(["redis-server", *options, "--appendfsync", "always"], port)
    url = f"redis://127.0.0.1:{port}"

    def read() -> list[tuple[str, bytes]]:
        with redis.Redis.from_url(url) as connected:
            return [(row[b"id"].decode(), row[b"event"]) for _, row in connected.xrange("carts")]

    check(client, RedisPublisher(url, "carts", timeout=3), read, broker)


def test_rabbitmq(client: EventClient, tmp_path: Path, start: Callable[..., Broker]) -> None:
    """A durable queue keeps what RabbitMQ confirms."""
    pika = pytest.importorskip("pika")
    from pgevents.relays.rabbitmq import RabbitPublisher

    port, other, names = free_port(), free_port(), free_port()
    start(["epmd", "-port", str(names)], names)  # else RabbitMQ would leave one behind
    broker = start(
        [RABBITMQ],
        port,
        ERL_EPMD_PORT=str(names),
        RABBITMQ_NODE_PORT=str(port),
        RABBITMQ_DIST_PORT=str(other),
        RABBITMQ_NODENAME=f"pgevents{port}@localhost",
        RABBITMQ_MNESIA_BASE=str(tmp_path / "mnesia"),
        RABBITMQ_CONF_ENV_FILE=os.devnull,
        RABBITMQ_LOG_BASE=str(tmp_path / "log"),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(tmp_path / "plugins"),
        HOME=str(tmp_path),
    )
    url = f"amqp://guest:guest@127.0.0.1:{port}/%2F?connection_attempts=20&retry_delay=0.5"
    connection = pika.BlockingConnection(pika.URLParameters(url))
    connection.channel().queue_declare("carts", durable=True)
    connection.close()

    def read() -> list[tuple[str, bytes]]:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel, received = connection.channel(), []
        while (got := channel.basic_get("carts", auto_ack=True))[0] is not None:
            received.append((got[1].message_id, got[2]))
        connection.close()
        return received

    plain = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
    publisher = RabbitPublisher(plain, "", routing_key="carts", timeout=5)
    check(client, publisher, read, broker)
    with pytest.raises(pika.exceptions.UnroutableError):
        from .test_relays import MESSAGE

        RabbitPublisher(plain, "", routing_key="nowhere").publish(MESSAGE)


def test_nats_jetstream(client: EventClient, tmp_path: Path, start: Callable[..., Broker]) -> None:
    """A stream in files keeps what JetStream confirms, and drops repeats by their id."""
    nats = pytest.importorskip("nats")
    from pgevents.relays.nats import NatsPublisher

    port = free_port()
    broker = start(["nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path)], port)
    url = f"nats://127.0.0.1:{port}"

    async def make() -> None:
        connected = await nats.connect(url)
        await connected.jetstream().add_stream(name="carts", subjects=["shop.>"])
        await connected.close()

    async def received() -> list[tuple[str, bytes]]:
        connected = await nats.connect(url)
        jetstream = connected.jetstream()
        stored = (await jetstream.stream_info("carts")).state.messages
        subscribed = await jetstream.subscribe("shop.>", ordered_consumer=True)
        messages = [await subscribed.next_msg(timeout=5) for _ in range(stored)]
        await connected.close()
        return [(message.headers["Nats-Msg-Id"], message.data) for message in messages]

    asyncio.run(make())
    publisher = NatsPublisher(url, "shop.{type}", timeout=3)
    check(client, publisher, lambda: asyncio.run(received()), broker)
    publisher.close()


def test_celery_gets_a_task_for_each_event(
    client: EventClient, tmp_path: Path, start: Callable[..., Broker]
) -> None:
    """The recipe of the guide, with a worker on a real broker; the task's id tells repeats."""
    celery = pytest.importorskip("celery")
    pytest.importorskip("redis")
    from celery.contrib.testing.worker import start_worker

    port = free_port()
    start(["redis-server", "--port", str(port), "--dir", str(tmp_path), "--save", ""], port)
    app = celery.Celery("shop", broker=f"redis://127.0.0.1:{port}", set_as_current=False)
    app.conf.broker_transport_options = {"confirm_publish": True}
    done: list[tuple[str, Any]] = []

    @app.task(name="shop.on_event", bind=True)
    def on_event(self: Any, cloudevent: str) -> None:
        done.append((self.request.id, from_cloudevent(cloudevent).event["data"]))

    class CeleryPublisher:
        def publish(self, message: Any) -> None:
            app.send_task("shop.on_event", [message.body.decode()], task_id=f"event-{message.id}")

        def close(self) -> None:
            app.pool.force_close_all()

    saved = client.save_events([ItemAddedToCart("c1", "p", 1, 1), ItemAddedToCart("c2", "p", 2, 1)])
    with start_worker(app, pool="solo", perform_ping_check=False):
        drain(client, [relay("tasks", None, CeleryPublisher(), source="/shop", key="cart_id")])
        end = time.monotonic() + 20
        while len(done) < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert {task for task, _ in done} == {f"event-{one.id}" for one in saved}
    assert sorted(data["quantity"] for _, data in done) == [1, 2]
