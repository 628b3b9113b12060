"""The Flask example: its pages and its API, several workers that race, and a real browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pgevents import EventTypes
from pgevents.flask import current_events

from .chromium import Browser, driver_port, open_browser
from .test_flask import as_url

__all__ = ["driver_port", "open_browser"]

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "flask_shop"
WORKERS = 4
JSON = "application/json"
CUSTOMERS = 8


@pytest.fixture(scope="module")
def create_app() -> Iterator[Callable[..., Flask]]:
    """The example's factory; its event types stay among themselves."""
    kept, EventTypes.everything = EventTypes.everything, EventTypes()
    sys.path.insert(0, str(EXAMPLE))
    try:
        import shop

        yield shop.create_app
    finally:
        sys.path.remove(str(EXAMPLE))
        EventTypes.everything = kept
        for name in [name for name in sys.modules if name.split(".")[0] == "shop"]:
            del sys.modules[name]


@pytest.fixture
def app(create_app: Callable[..., Flask], url: str) -> Iterator[Flask]:
    """The shop on the test's database, with tea on the shelf."""
    made = create_app(TESTING=True, PGEVENTS_DATABASE_URL=as_url(url))
    result = made.test_cli_runner().invoke(args=["pgevents", "demo"])
    assert result.exit_code == 0, result.output
    yield made
    made.extensions["pgevents"].client.db.close_all()


def put_on_the_shelf(app: Flask, tea_id: str, tins: int) -> None:
    from shop.domain import TeaDelivered, TeaListed

    with app.app_context():
        current_events.save_events([TeaListed(tea_id, tea_id, "", "#000", 100), TeaDelivered(tea_id, tins)])


# -- pages ------------------------------------------------------------


def test_from_the_shelf_to_the_order(app: Flask) -> None:
    """Add two teas, put one back, buy the other."""
    browser = app.test_client()
    assert "the last tin" in browser.get("/").text
    for tea_id in ("puerh", "assam"):
        answer = send(browser, "/cart/add", {"tea_id": tea_id}, follow_redirects=True)
        assert "A tin was put into your cart." in answer.text
    send(browser, "/cart/remove", {"tea_id": "assam"})
    page = browser.get("/cart").text
    assert "Buy for £42.00" in page and "Assam" not in page
    for _ in ("a click", "another one"):
        order = send(browser, "/cart/checkout", form_of(page), follow_redirects=True)
        assert "Thank you" in order.text and "1 tin is on the way" in order.text
    assert "nothing in it yet" in browser.get("/cart").text
    with app.app_context():
        assert [row.type for row in current_events.projections.select()] == ["CART", "SHELF"]
        latest = current_events.get_latest_event("CART_CHECKED_OUT")
        assert latest is not None and set(latest.metadata) == {"request_id", "user"}


def send(browser: FlaskClient, path: str, data: dict[str, str], **options: Any) -> Any:
    """Post a form as the shop's page has it, with its token."""
    with browser.session_transaction() as session:
        token = session.setdefault("form_token", "token")
    return browser.post(path, data={**data, "form_token": token}, **options)


def form_of(page: str) -> dict[str, str]:
    """The checkout form of a cart's page."""
    return {name: page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("seen", "cart_id")}


def test_the_last_tin_is_gone_for_the_second_customer_and_back_when_the_first_puts_it_back(
    app: Flask,
) -> None:
    """A friendly page, with the code that belongs to it."""
    first, second = app.test_client(), app.test_client()
    send(first, "/cart/add", {"tea_id": "puerh"})
    refused = send(second, "/cart/add", {"tea_id": "puerh"})
    assert refused.status_code == 409
    assert "Somebody else has just taken the last tin of Pu-erh 2009." in refused.text
    send(first, "/cart/remove", {"tea_id": "puerh"})
    assert send(second, "/cart/add", {"tea_id": "puerh"}).status_code == 303


def test_a_cart_that_changed_in_another_tab_is_not_bought(app: Flask) -> None:
    """The customer pays what he saw: otherwise 409, and nothing happens to the cart."""
    browser = app.test_client()
    send(browser, "/cart/add", {"tea_id": "assam"})
    form = form_of(browser.get("/cart").text)
    send(browser, "/cart/add", {"tea_id": "sencha"})
    answer = send(browser, "/cart/checkout", form)
    assert answer.status_code == 409
    assert f"(events {int(form['seen']) + 1})" in answer.text
    form = form_of(browser.get("/cart").text)
    assert send(browser, "/cart/checkout", form).status_code == 303


@pytest.mark.parametrize(
    ("method", "path", "data", "code"),
    [
        ("GET", "/nowhere", {}, 404),
        ("GET", "/orders/nobody", {}, 404),
        ("GET", "/orders/%00", {}, 404),
        ("POST", "/cart/add", {"tea_id": "coffee"}, 404),
        ("POST", "/cart/add", {"tea_id": "\0"}, 404),
        ("POST", "/cart/add", {}, 400),
        ("POST", "/cart/remove", {"tea_id": "assam"}, 303),
        ("POST", "/cart/checkout", {"seen": "1", "cart_id": "nobody"}, 404),
        ("POST", "/cart/checkout", {"seen": "-1"}, 400),
        ("POST", "/cart/checkout", {"seen": "9" * 5_000, "cart_id": "nobody"}, 400),
        ("POST", "/cart/checkout", {"seen": "\u0661", "cart_id": "nobody"}, 400),
        ("POST", "/cart/add", {"tea_id": "x" * 20_000}, 413),
    ],
)
def test_odd_requests_get_a_page_too(
    app: Flask, method: str, path: str, data: dict[str, str], code: int
) -> None:
    """Nothing that comes from outside is an error of the server."""
    browser = app.test_client()
    answer = send(browser, path, data) if method == "POST" else browser.get(path)
    assert answer.status_code == code


def test_a_form_of_another_site_is_refused(app: Flask) -> None:
    """Without the token of the customer's own pages nothing is done."""
    browser = app.test_client()
    token = browser.get("/").text.split('name="form_token" value="')[1].split('"')[0]
    for forged in ({}, {"form_token": ""}, {"form_token": "x"}, {"form_token": "ÿ"}):
        assert browser.post("/cart/add", data={"tea_id": "assam", **forged}).status_code == 400
    assert "Cart</a>" in browser.get("/").text
    assert browser.post("/cart/add", data={"tea_id": "assam", "form_token": token}).status_code == 303


def test_the_secret_is_that_of_the_environment_or_one_of_its_own(
    create_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """Never one that stands in the source; what is drawn is kept, and nobody else can read it."""
    import shop.security

    kept = [shop.security.kept_secret(str(tmp_path / "instance")) for _ in range(2)]
    assert kept[0] == kept[1] and len(kept[0]) == 64
    assert (tmp_path / "instance" / "secret_key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in (tmp_path / "instance").iterdir()] == ["secret_key"]
    monkeypatch.setenv("FLASK_SECRET_KEY", "of the environment")
    app = create_app(PGEVENTS_DATABASE_URL=as_url(url))
    assert app.config["SECRET_KEY"] == "of the environment"


@pytest.mark.parametrize("seen", ["999999999", "9" * 18])
def test_a_forged_position_buys_what_is_there_and_no_more(app: Flask, seen: str) -> None:
    """Who claims to have seen the future has only seen the present."""
    browser = app.test_client()
    send(browser, "/cart/add", {"tea_id": "assam"})
    form = form_of(browser.get("/cart").text)
    assert send(browser, "/cart/checkout", {**form, "seen": seen}).status_code == 303


def test_without_a_database_there_is_a_page_too(create_app: Callable[..., Flask]) -> None:
    """It asks the customer to come again in a moment."""
    answer = (
        create_app(PGEVENTS_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nowhere").test_client().get("/")
    )
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "Just a moment" in answer.text


# -- API ------------------------------------------------------------


def test_the_same_by_program(app: Flask) -> None:
    """JSON in, JSON out; errors as well."""
    program = app.test_client()
    assert program.get("/api/teas").json["teas"]["puerh"]["left"] == 1  # type: ignore[index]
    cart = opened(program)
    added = program.post(f"{cart}/items", json={"tea_id": "puerh"})
    assert added.status_code == 201
    assert added.json is not None and (added.json["total"], added.json["tins"]) == (4200, 1)
    assert program.post(f"{cart}/items", json={"tea_id": "sencha"}).status_code == 201
    late = program.post(f"{cart}/checkout", json={"seen": added.json["seen"]})
    assert late.status_code == 409
    assert late.json is not None and late.json["conflicting_ids"] == [added.json["seen"] + 1]
    left = program.delete(f"{cart}/items/sencha").json
    assert left is not None
    assert program.post(f"{cart}/checkout", json={"seen": left["seen"]}).json["is_checked_out"] is True  # type: ignore[index]


def opened(program: FlaskClient) -> str:
    answer = program.post("/api/carts").json
    assert answer is not None
    return f"/api/carts/{answer['id']}"


def test_errors_of_the_api_are_json(app: Flask) -> None:
    """Whatever the program says it accepts."""
    program = app.test_client()
    cart = opened(program)
    program.post(f"{cart}/items", json={"tea_id": "puerh"})
    assert program.post(f"{opened(program)}/items", json={"tea_id": "puerh"}).json == {
        "error": "Conflict",
        "message": "Somebody else has just taken the last tin of Pu-erh 2009.",
    }
    for answer, code in (
        (program.get("/api/carts/nobody"), 404),
        (program.post("/api/carts/nobody/items", json={"tea_id": "assam"}), 404),
        (program.post(f"{cart}/items", json={"tea_id": "coffee"}), 404),
        (program.post(f"{cart}/items", json={"tea_id": "\ud800"}), 404),
        (program.post(f"{cart}/items", json={"tea_id": 5}), 400),
        (program.post(f"{cart}/items", json=["tea_id"]), 400),
        (program.post(f"{cart}/items", data="tea_id=assam"), 415),
        (program.post(f"{cart}/checkout", json={"seen": True}), 400),
        (program.post(f"{cart}/checkout", json={"seen": -1}), 400),
        (program.post(f"{cart}/checkout", json={"seen": 2**63}), 400),
        (program.post(f"{cart}/checkout", json={"seen": float("nan")}), 400),
        (program.post(f"{cart}/checkout", data='{"seen": %s}' % ("9" * 5_000), content_type=JSON), 400),  # noqa: UP031
        (program.post(f"{cart}/checkout", data="[" * 8_000, content_type=JSON), 400),
        (program.post(f"{cart}/items", data="\xff".encode("latin-1"), content_type=JSON), 400),
    ):
        assert answer.status_code == code
        assert answer.json is not None and set(answer.json) == {"error", "message"}


# -- several workers ------------------------------------------------------------


@contextmanager
def gunicorn(url: str, *options: str) -> Iterator[int]:
    """The shop under gunicorn with several workers; its port."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        options = ("-b", f"fd://{fd}", "-w", str(WORKERS), "--graceful-timeout", "5", *options)
        command = [sys.executable, "-m", "gunicorn", *options, "shop:create_app()"]
        environment = {**os.environ, "FLASK_PGEVENTS_DATABASE_URL": as_url(url)}
        server = subprocess.Popen(
            command, cwd=EXAMPLE, env=environment, pass_fds=[fd], stderr=subprocess.PIPE, text=True
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                if ask(port, "GET", "/api/teas")[0] == 200:
                    break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    server.kill()
                    raise RuntimeError(f"gunicorn did not start: {server.communicate()[1]}") from None
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        said = server.communicate(timeout=30)[1]
    assert "Traceback" not in said, said


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection of its own, so that any worker may serve it."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def at_once(calls: int, call: Callable[[int], Any]) -> list[Any]:
    barrier = threading.Barrier(calls)

    def start(number: int) -> Any:
        barrier.wait(30)
        return call(number)

    with ThreadPoolExecutor(calls) as pool:
        return list(pool.map(start, range(calls)))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="processes"),
        pytest.param(("--preload", "--threads", "2"), id="preloaded, with threads", marks=pytest.mark.long),
    ],
)
def test_of_all_workers_customers_exactly_one_gets_the_last_tin(
    app: Flask, url: str, options: tuple[str, ...]
) -> None:
    """Round after round; the others get 409. And what is bought is what was seen, once, however often it is
    clicked."""
    rounds = 6
    for number in range(rounds):
        put_on_the_shelf(app, f"rare{number}", 1)
    with gunicorn(url, *options) as port:
        carts = [ask(port, "POST", "/api/carts")[1]["id"] for _ in range(CUSTOMERS)]
        for number in range(rounds):
            wish = {"tea_id": f"rare{number}"}
            got = at_once(CUSTOMERS, lambda n: ask(port, "POST", f"/api/carts/{carts[n]}/items", wish)[0])  # noqa: B023
            assert Counter(got) == {201: 1, 409: CUSTOMERS - 1}
        views = [ask(port, "GET", f"/api/carts/{cart}")[1] for cart in carts]
        assert sum(view["tins"] for view in views) == rounds

        def check_out_or_add(number: int) -> int:
            view, adds = views[number // 2], number % 2
            path, body = ("items", {"tea_id": "hibiscus"}) if adds else ("checkout", {"seen": view["seen"]})
            return ask(port, "POST", f"/api/carts/{view['id']}/{path}", body)[0]

        got = at_once(2 * CUSTOMERS, check_out_or_add)
        assert [sorted(pair) for pair in zip(got[::2], got[1::2], strict=True)] == [[201, 409]] * CUSTOMERS
        views = [ask(port, "GET", f"/api/carts/{cart}")[1] for cart in carts]
        got = at_once(2 * CUSTOMERS, lambda n: check_out_or_add(n // 2 * 2))
        assert got == [201] * 2 * CUSTOMERS
    with app.app_context():
        assert len(current_events.get_event_stream("CART_CHECKED_OUT")) == CUSTOMERS
        for event in current_events.get_event_stream("CART_CHECKED_OUT"):
            cart = event.data.cart_id
            added = current_events.get_event_stream("ITEM_ADDED", cart_id=cart)
            assert event.data.total == sum(item.data.price for item in added)
        backends = current_events.db.execute_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = "
            "'shop'"
        ).fetchone()[0]
        assert backends == 1  # this one: the workers' have ended with them


# -- a browser ------------------------------------------------------------


def test_a_customer_buys_the_last_tin_in_a_browser(
    app: Flask, url: str, open_browser: Callable[[], Browser]
) -> None:
    """From the shelf to the order, under gunicorn; another customer is late, and told so in a friendly
    page."""
    with gunicorn(
        url, "--threads", "4"
    ) as port:  # a browser also connects in advance, and keeps a thread waiting
        shop = f"http://127.0.0.1:{port}"
        customer, other = open_browser(), open_browser()
        for browser in (customer, other):
            browser.go(shop)
            assert browser.sees("#puerh .left", "the last tin")
        assert not customer.is_enabled("#darjeeling button")
        customer.click("#puerh button")
        assert customer.sees("[role=status]", "A tin was put into your cart.")
        other.click("#puerh button")
        assert other.sees("h1", "Too late")
        assert other.sees("main", "the last tin of Pu-erh 2009")
        other.click("main a")
        assert other.sees("#puerh .left", "sold out")
        customer.click("#assam button")
        assert customer.sees("nav", "Cart 2")
        customer.click("nav a")
        assert customer.sees(".total", "£54.50")
        customer.click("tr:nth-child(2) button")
        assert customer.sees(".checkout button", "Buy for £42.00")
        customer.click(".checkout button")
        assert customer.sees("h1", "Thank you")
        assert customer.sees("table", "Pu-erh 2009")
