"""Round trips: what a call costs on the wire, counted on the wire."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents import ConcurrencyError, EventClient, hookimpl, stream
from pgevents.subscriptions import Inline

from .conftest import database, shop_client
from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart


class Wire:
    """A proxy in front of the server that keeps the type of each message of the client: `Q` is a query."""

    def __init__(self, url: str) -> None:
        self.params = parse_dsn(url)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.messages: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self.listener.getsockname()[1]
        return make_dsn(
            **{
                **self.params,
                "host": "127.0.0.1",
                "port": str(port),
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        )

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.params.get("host", "localhost"), int(self.params.get("port", "5432"))
            if host.startswith("/"):
                theirs = socket.socket(socket.AF_UNIX)
                theirs.connect(os.path.join(host, f".s.PGSQL.{port}"))
            else:
                theirs = socket.create_connection((host, port))
            threading.Thread(target=self._copy, args=(theirs, ours, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(ours, theirs, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, is_client: bool) -> None:
        buffer, started = b"", False
        while True:
            try:
                piece = source.recv(65536)
            except OSError:
                piece = b""
            if is_client:  # noted before it is sent on, so before anybody can have the answer
                buffer += piece
                while len(buffer) >= 5:
                    start = 1 if started else 0  # the first message has no type
                    size = start + int.from_bytes(buffer[start : start + 4], "big")
                    if len(buffer) < size:
                        break
                    if started:
                        self.messages.append(chr(buffer[0]))
                    started, buffer = True, buffer[size:]
            try:
                target.sendall(piece)
            except OSError:
                piece = b""
            if not piece:
                target.close()
                return

    def count(self, call: Callable[[], Any]) -> str:
        """The messages of one call."""
        before = len(self.messages)
        call()
        return "".join(self.messages[before:])


@pytest.fixture
def wire(client: EventClient, url: str) -> Iterator[Wire]:
    made = Wire(url)
    yield made
    made.listener.close()


@pytest.fixture
def wired(wire: Wire) -> Iterator[EventClient]:
    """A client behind the proxy, past its first-use check."""
    db = database(wire.url)
    made = shop_client(db)
    made.check_installed()
    yield made
    db.close()


def test_each_call_is_one_message(wire: Wire, wired: EventClient) -> None:
    """A save, a batch, a validated save, a read of any kind and a projection's load are one round trip
    each."""
    created = CartCreated("c1", "u1")
    batch = [ItemAddedToCart("c1", f"p{n}", 1, 5) for n in range(500)]
    streams = [stream(CartEvent, cart_id="c1"), stream(product_id="p1"), stream(user_id="u1", cart_id="c1")]
    calls: dict[str, Callable[[], Any]] = {
        "save": lambda: wired.save_event(created, metadata={"a": 1}),
        "save with key": lambda: wired.save_event(created, idempotency_key="k"),
        "batch": lambda: wired.save_events(batch),
        "read": lambda: wired.get_event_stream(CartEvent, cart_id="c1"),
        "read of several streams": lambda: wired.get_event_streams(streams),
        "read as of": lambda: wired.get_event_stream(as_of=1),
        "final read": lambda: wired.get_event_stream(CartEvent, cart_id="c1", final=True),
        "final read of several streams": lambda: wired.get_event_streams(streams, final=True),
        "latest": lambda: wired.get_latest_event(cart_id="c1"),
        "latest for display": lambda: wired.get_latest_event(cart_id="c1", final=False),
        "load": lambda: CartProjection("c1", wired).view,
        "snapshot": lambda: wired.get_projection(CartProjection, "c1"),
        "query": lambda: wired.query_projections(CartProjection, user_id="u1"),
        "page": lambda: list(wired.iter_event_stream()),
    }
    calls["query"]()  # the first of a class looks whether snapshots of another shape stand
    assert {name: wire.count(call) for name, call in calls.items()} == dict.fromkeys(calls, "Q")


def test_a_validated_save_is_one_message_whatever_comes_of_it(wire: Wire, wired: EventClient) -> None:
    """Saved or refused, on one stream or on many: one round trip."""
    event = CartCreated("c1", "u1")
    streams = [stream(cart_id="c1"), stream(CartEvent, user_id="u1"), stream("X", cart_id="c1", user_id="u1")]
    read = wired.get_event_streams(streams)
    assert wire.count(lambda: wired.save_event_with_stream_validation(event, read)) == "Q"

    def refused() -> None:
        with pytest.raises(ConcurrencyError):
            wired.save_event_with_stream_validation(event, read)

    assert wire.count(refused) == "Q"


def test_a_load_from_a_snapshot_is_one_message(wire: Wire, wired: EventClient) -> None:
    """Snapshot and the events after it come in one answer; view, JSON and position cost nothing more."""
    wired.save_event(CartCreated("c1", "u1"))
    CartProjection("c1", wired).save_projection()
    wired.save_event(ItemAddedToCart("c1", "p1", 1, 5))

    def look() -> None:
        cart = CartProjection("c1", wired)
        assert (cart.view.total, cart.as_json()["user_id"], cart.position.last_id) == (5, "u1", 2)
        assert cart.saved_projection is not None and len(cart.projection_events) == 1

    assert wire.count(look) == "Q"


def test_a_decision_is_two_messages(wire: Wire, wired: EventClient) -> None:
    """Read and save: a decision that meets no conflict costs two round trips."""
    cart = CartProjection("c1", wired)
    assert wire.count(lambda: wired.decide(cart, lambda view: CartCreated("c1", "u1"))) == "QQ"


def test_a_locked_decision_is_four_messages(
    wire: Wire, wired: EventClient, make_client: Callable[..., EventClient]
) -> None:
    """After two tries in vain, and for a while from the first try on: begin, lock and read, save, commit."""
    other, cart, tries = make_client(), CartProjection("c1", wired), []

    def decider(view: Any) -> CartCreated:
        tries.append(view)
        if len(tries) < 3:
            other.save_event(CartCreated("c1", "intruder"))
        return CartCreated("c1", "u1")

    assert wire.count(lambda: wired.decide(cart, decider)) == "QQ" + "QQ" + "QQQQ"
    assert wire.count(lambda: wired.decide(cart, decider)) == "QQQQ"
    assert len(tries) == 4
    wired.decider.busy.clear()
    assert wire.count(lambda: wired.decide(cart, decider)) == "QQ"


def test_a_save_in_a_transaction_of_its_own_is_two_messages(wire: Wire) -> None:
    """BEGIN goes with the append, and what folds a view goes with COMMIT; in the caller's transaction each
    is one message."""

    class Follower:
        @hookimpl
        def pgevents_after_save(self, events: Any) -> None:
            pass

    event = CartCreated("c1", "u1")
    for plugins, own_transaction, callers in (
        ([Inline(CartProjection)], "QQ", "QQQQ"),
        ([Follower()], "QQ", "QQQ"),
        ([Inline(CartProjection), Follower()], "QQQ", "QQQQ"),
    ):
        own = shop_client(database(wire.url), plugins=plugins)
        own.save_event(event)
        assert wire.count(lambda own=own: own.save_event(event)) == own_transaction
        with own.db.atomic():
            assert wire.count(lambda own=own: own.save_event(event)) == callers
        own.db.close()


def test_the_first_use_check_is_made_once(wire: Wire) -> None:
    """A client asks once whether its tables are sound."""
    own = shop_client(database(wire.url))
    own.db.connect()
    first = wire.count(lambda: own.save_event(CartCreated("c1", "u1")))
    assert first == "QQQ"
    assert wire.count(lambda: own.save_event(CartCreated("c1", "u1"))) == "Q"
    own.db.close()


def test_a_plugin_that_only_looks_before_costs_no_round_trip(wire: Wire) -> None:
    """A save with `pgevents_before_save` and `pgevents_after_commit` plugins is still one message."""

    class Quiet:
        @hookimpl
        def pgevents_before_save(self, events: Any) -> None:
            pass

        @hookimpl
        def pgevents_after_commit(self, events: Any) -> None:
            pass

    own = shop_client(database(wire.url), plugins=[Quiet()])
    own.check_installed()
    assert wire.count(lambda: own.save_event(CartCreated("c1", "u1"))) == "Q"
    own.db.close()
