"""Relays: each event is published at least once, in order within its key, also while a receiver fails."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pgevents import ConfigurationError, EventClient
from pgevents.exchange import from_cloudevent
from pgevents.relays import Message, PublishError, WebhookPublisher, relay, verify_webhook
from pgevents.subscriptions import Runner, parked, retry
from pgevents.testing import drain

from .shop import CartCreated, ItemAddedToCart

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
MESSAGE = Message("7", "T", "c1", 1, b"{}")
SOON = retry(50, delay=0.01, longest=0.05)


class Receiver:
    """A receiver of webhooks: verifies, keeps what is new, and fails as it is told to."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.ids: list[str] = []
        self.answer: Callable[[str, int], int] = lambda _id, _times: 204
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                event_id = verify_webhook(dict(self.headers), body, secret=SECRET)
                receiver.ids.append(event_id)
                receiver.requests.append((dict(self.headers), body))
                self.send_response(receiver.answer(event_id, receiver.ids.count(event_id)))
                self.send_header("location", "http://127.0.0.1:9/")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hooks?shop=1"
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.server.shutdown()
    made.server.server_close()


def published(client: EventClient, receiver: Receiver, **options: Any) -> Any:
    hook = WebhookPublisher(receiver.url, secret=SECRET, timeout=5)
    return relay("partner", None, hook, source="/shop/events", key="cart_id", **options)


def test_a_webhook_carries_the_event_signed(client: EventClient, receiver: Receiver) -> None:
    """The body is a CloudEvent that another store can save; id, key and fence come along."""
    saved = client.save_event(CartCreated("c1", "ü"), metadata={"ip": "::1"})
    assert drain(client, [published(client, receiver)]) == 1
    ((headers, body),) = receiver.requests
    assert headers["webhook-id"] == str(saved.id) and int(headers["webhook-fence"]) > 0
    cloudevent = json.loads(body)
    assert cloudevent["subject"] == "c1" and cloudevent["source"] == "/shop/events"
    received = from_cloudevent(body)
    assert received.event["data"] == {"cart_id": "c1", "user_id": "ü"}
    assert received.event["metadata"]["ip"] == "::1"
    for change in ({"webhook-id": "8"}, {"webhook-timestamp": "1"}, {"webhook-signature": "v1,x"}):
        with pytest.raises(ValueError):
            verify_webhook({**headers, **change}, body, secret=SECRET)
    with pytest.raises(ValueError, match="signature"):
        verify_webhook(headers, body + b" ", secret=SECRET)
    with pytest.raises(ValueError, match="too old"):
        verify_webhook(headers, body, secret=SECRET, tolerance=-1)


def test_repeats_carry_the_id_and_keep_the_order(client: EventClient, receiver: Receiver) -> None:
    """Every third id fails three times; nothing is missing, and a key's events stay in order."""
    keys = [f"c{number % 4}" for number in range(24)]
    ids = [str(one.id) for one in client.save_events([ItemAddedToCart(key, "p", 1, 1) for key in keys])]
    receiver.answer = lambda event_id, times: 503 if int(event_id) % 3 == 0 and times < 4 else 200
    runner = Runner(client, [published(client, receiver, on_error=SOON)])
    thread = threading.Thread(target=runner.run, kwargs={"workers": 3})
    thread.start()
    try:
        assert runner.wait_until_ready(10)
        client.wait("partner", int(ids[-1]), timeout=30)
    finally:
        runner.stop()
        thread.join()
        client.db.close()
    assert set(receiver.ids) == set(ids)
    assert receiver.ids.count(next(one for one in ids if int(one) % 3 == 0)) == 4
    done = [one for place, one in enumerate(receiver.ids) if one not in receiver.ids[place + 1 :]]
    for key in set(keys):
        assert [one for one in done if keys[ids.index(one)] == key] == [
            one for one, of in zip(ids, keys, strict=True) if of == key
        ]


def test_whatever_does_not_confirm_is_an_error(client: EventClient, receiver: Receiver) -> None:
    """Redirects, refusals and silence; the event is parked with the answer in the end."""
    hook = WebhookPublisher(receiver.url, secret=SECRET)
    for status in (302, 404, 500):
        receiver.answer = lambda _id, _times, status=status: status
        with pytest.raises(PublishError, match=f"answered {status} to event 7"):
            hook.publish(MESSAGE)
    receiver.answer = lambda _id, _times: 410
    client.save_event(CartCreated("c1", "u1"))
    drain(client, [published(client, receiver, on_error=retry(1))])
    (row,) = parked(client, "partner")
    assert row.state == "parked" and "answered 410" in str(row)
    receiver.server.shutdown()
    receiver.server.server_close()
    with pytest.raises(PublishError, match="no answer"):
        hook.publish(MESSAGE)


def test_what_cannot_work_is_refused_at_once() -> None:
    """URLs, secrets, publishers and sources; a secret is not repeated."""
    for url in ("ftp://x/", "x", "http://user:pw@x/"):
        with pytest.raises(ConfigurationError, match="URL"):
            WebhookPublisher(url, secret=SECRET)
    for secret in ("", "whsec_c2hvcnQ=", "whsec_?"):
        with pytest.raises(ConfigurationError, match="made once by") as refused:
            WebhookPublisher("https://x/", secret=secret)
        assert not secret or secret not in str(refused.value)
    hook = WebhookPublisher("https://x/", secret=SECRET)
    for arguments, match in (
        (("r", CartCreated, WebhookPublisher), "publisher is an object"),
        (("r", [], hook), "whole log"),
        (("", None, hook), "name"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            relay(*arguments, source="/shop")
    with pytest.raises(ConfigurationError, match="source"):
        relay("r", None, hook, source="")


def test_kafka_confirms_or_raises() -> None:
    """Against the broker that librdkafka brings for tests, and against none."""
    pytest.importorskip("confluent_kafka")
    from pgevents.relays.kafka import KafkaPublisher

    KafkaPublisher("ignored:1", "carts", settings={"test.mock.num.brokers": 1}).publish(MESSAGE)
    with pytest.raises(PublishError, match="Kafka did not take event 7"):
        KafkaPublisher("127.0.0.1:1", "carts", timeout=0.5, settings={"log_level": 0}).publish(MESSAGE)
    with pytest.raises(ConfigurationError, match="acks is set"):
        KafkaPublisher("127.0.0.1:1", "carts", settings={"acks": 0})
