"""What a person sees in chromium, page by page, and what their console, keyboard and screen reader get.

    PGEVENTS_SCREENSHOTS=docs/screenshots pytest tests/browser/test_seen.py

replays the whole day of the demo first, and writes the pictures of the documentation.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from psycopg2.extensions import parse_dsn

from pgevents import EventClient
from pgevents.demo import ORDERS
from pgevents.demo.orders import read_orders
from pgevents.demo.replay import replay
from pgevents.demo.shop import shop_client
from pgevents.demo.tour import PUZZLE, VIEWS, check_receipt, save_puzzle
from pgevents.plugins.metadata import event_context
from pgevents.subscriptions import keep, parked
from pgevents.testing import drain

from ..chromium import Browser
from ..conftest import database
from ..shop import CartCreated, CartProjection
from .sites import SCRIPT, served

PICTURES = os.environ.get("PGEVENTS_SCREENSHOTS")
TAB, ENTER, LEFT = "\ue004", "\ue007", "\ue012"
PAGES = {
    "log": "/log",
    "event": "/events/{puzzle}",
    "identifier": f"/identifier?where=cart_id={PUZZLE}&at={{puzzle}}",
    "projections": "/projections",
    "query": "/views?type=CART&order=-total",
    "view": f"/view?type=CART&id={PUZZLE}",
    "subscriptions": "/subscriptions",
    "subscription": "/subscription?name=receipts",
    "types": "/types",
    "health": "/health",
    "find": "/find?q=nothing",
}


@pytest.fixture(scope="module")
def shop(pgevents_server: str) -> Iterator[EventClient]:
    """The demo's shop: some of its carts, or the whole day; the cart whose total is wrong; what followed."""
    name = f"pgevents_seen_{os.getpid()}"
    server = database(pgevents_server)
    server.execute_sql(f"CREATE DATABASE {name}")
    url = "postgresql:///?" + urlencode({**parse_dsn(pgevents_server), "dbname": name}, quote_via=quote)
    client = shop_client(url, "demo")
    client.create_tables()
    orders = read_orders(ORDERS)
    if PICTURES is None:
        some = list(orders.invoices)[:6]
        orders.invoices = {invoice: orders.invoices[invoice][:12] for invoice in some}
        orders.products = {line.product_id for lines in orders.invoices.values() for line in lines}
    replay(client, orders)
    save_puzzle(client)
    drain(client, [check_receipt, *map(keep, VIEWS)])
    yield client
    client.db.close()
    server.execute_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.close()


@pytest.fixture(scope="module")
def puzzle(shop: EventClient) -> int:
    """The event that made the total wrong: the second of one request."""
    history = shop.get_event_stream(cart_id=PUZZLE)
    twice = [one.id for one in history if one.metadata["correlation_id"] == "request-3"]
    return twice[1]


@pytest.fixture(scope="module")
def address(shop: EventClient) -> Iterator[str]:
    with served(shop, VIEWS, writer="Ada") as found:
        yield found


@pytest.fixture
def seen(chromium: Browser, address: str) -> Iterator[Browser]:
    """The browser, admitted; the console must be silent at the end."""
    chromium.show()
    chromium.go(f"{address}/?token=secret")
    chromium.complaints()
    yield chromium
    assert chromium.complaints() == []


def test_the_main_pages_are_photographed(seen: Browser, address: str, puzzle: int) -> None:
    """For the documentation, light and dark, of the same pages that are tested here."""
    if PICTURES is None:
        pytest.skip("PGEVENTS_SCREENSHOTS names the folder for the pictures")
    folder = Path(PICTURES)
    folder.mkdir(exist_ok=True)
    for name in ("log", "event", "identifier", "subscription", "health"):
        for look in ("light", "dark"):
            seen.show(dark=look == "dark", width=1040, height=700)
            seen.go(address + PAGES[name].format(puzzle=puzzle))
            seen.screenshot(folder / f"{name}-{look}.png")
    for picture in folder.glob("*.png"):
        assert picture.stat().st_size < 150_000, picture


def test_why_a_cart_s_total_is_wrong_is_found_by_clicking_alone(seen: Browser, puzzle: int) -> None:
    """From the front page to the request that was carried out twice, in four clicks."""
    seen.click("header nav a[href='/projections']")
    seen.click("a[href='/views?type=CART']")
    seen.click(f"a[href='/view?type=CART&id={PUZZLE}']") if PICTURES is None else seen.go(
        seen.run("return location.origin") + f"/view?type=CART&id={PUZZLE}"
    )
    seen.click("a.thing")
    assert seen.sees("h1", f"cart_id {PUZZLE}")
    # The time line says it without a click: the same line twice, and the total with it.
    first, second = (seen.text(f".timeline li[data-id='{event}']").split() for event in (puzzle - 1, puzzle))
    assert '"22086",' in first and ["750", "to", "1930"] == first[-3:]
    assert '"22086",' in second and ["1930", "to", "3110"] == second[-3:]
    seen.click(f".timeline li[data-id='{puzzle}'] a")
    assert seen.sees("#travel-title", f"CART at event {puzzle}") and seen.sees(".changes", "3110")
    seen.click("#moment a")
    assert seen.sees("#related", "Causes and effects")
    graph = seen.text(".graph")
    assert str(puzzle) in graph and str(puzzle - 1) in graph
    assert "request-3" in seen.text("section[aria-labelledby=metadata]")


def test_the_slider_travels_by_mouse_and_by_keyboard(seen: Browser, address: str, puzzle: int) -> None:
    """Each step shows the view then; the address follows, so that it can be sent to somebody."""
    seen.go(f"{address}/identifier?where=cart_id={PUZZLE}")
    seen.click(".slider a[rel=prev]")
    assert seen.sees("#travel-title", f"at event {puzzle + 2}") and f"at={puzzle + 2}" in seen.run(
        "return location.search"
    )
    seen.run("document.querySelector('#travel input[type=range]').focus()")
    seen.press(LEFT)
    assert seen.sees("#travel-title", f"at event {puzzle + 1}")
    seen.press(LEFT)
    assert seen.sees("#travel-title", f"at event {puzzle}")
    assert (
        seen.run("return document.activeElement.getAttribute('aria-valuetext')")
        == f"event {puzzle}, ItemAdded"
    )
    assert seen.run("return document.querySelector('.timeline [aria-current]').dataset.id") == str(puzzle)


def test_everything_works_without_scripts(seen: Browser, address: str, puzzle: int) -> None:
    """Links and forms do what the script does more smoothly."""
    seen.devtools("Emulation.setScriptExecutionDisabled", value=True)
    try:
        seen.go(f"{address}/identifier?where=cart_id={PUZZLE}&at={puzzle}")
        seen.click(".slider a[rel=next]")
        assert seen.sees("#travel-title", f"at event {puzzle + 1}")
        seen.write(".find input", str(puzzle) + ENTER)
        assert seen.sees("h1", f"Event {puzzle}")
    finally:
        seen.devtools("Emulation.setScriptExecutionDisabled", value=False)


def test_a_parked_event_is_discarded_with_a_reason(seen: Browser, shop: EventClient) -> None:
    """From the list of subscriptions to the error, its stack, and the note that stays."""
    (failed,) = parked(shop, "receipts")
    seen.click("header nav a[href='/subscriptions']")
    assert seen.sees(".cards", "receipts") and seen.sees(".cards", "1 event of 1 key is parked")
    seen.click(".cards a[href$='#parked']")
    assert seen.sees(".parked", "request-3 was carried out twice")
    seen.click(".parked details summary")
    assert seen.sees(".parked pre", "in check_receipt")
    seen.click(".parked button.danger")  # no reason: the browser asks for one
    assert parked(shop, "receipts") == [failed]
    seen.write(".parked input[name=reason]", "one parcel was sent")
    if PICTURES is None:
        seen.click(".parked button.danger")
        assert seen.sees(".done", f"Event {failed.event_id} is discarded.")
        seen.click(".views a[href*=discarded]")
        assert seen.sees(".parked", "Ada: one parcel was sent")
        assert seen.sees("section[aria-labelledby=done-by]", "one parcel was sent")


def test_the_log_is_followed_live(seen: Browser, shop: EventClient) -> None:
    """An event that is saved meanwhile comes up by itself once the box is ticked."""
    seen.click("#live")
    shop.save_event({"type": "TELEPHONE_RANG", "data": {"cart_id": PUZZLE}})
    assert seen.sees("#log tbody", "TELEPHONE_RANG")


def test_times_stand_in_the_reader_s_zone_with_utc_beside(
    seen: Browser, address: str, shop: EventClient
) -> None:
    """The page says UTC; the script puts the reader's own time in front."""
    seen.show(zone="Asia/Tokyo")
    seen.go(f"{address}/events/1")
    saved = shop.get_event_stream(limit=1)[0].created_at
    utc = f"{saved:%H:%M:%S} UTC"
    tokyo = f"{(saved.hour + 9) % 24:02}:{saved:%M:%S}"
    text = seen.text("time")
    assert text.endswith(utc) and f" {tokyo} " in text
    seen.show()
    seen.go(f"{address}/events/1")
    assert seen.text("time") == f"{saved:%Y-%m-%d} {utc}"


CONTRAST = """
const colour = (text) => {
  const [r, g, b, a] = text.match(/[\\d.]+/g).map(Number);
  return {r, g, b, a: a === undefined ? 1 : a};
};
const part = (c) => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
const light = ({r, g, b}) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
const poor = [];
for (const one of document.querySelectorAll("main *, header *, footer *")) {
  const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !one.getClientRects().length || one.closest("svg, .hidden, [aria-disabled]")) continue;
  let back = one;
  while (back && colour(getComputedStyle(back).backgroundColor).a < 1) back = back.parentElement;
  const x = light(colour(getComputedStyle(one).color));
  const y = light(colour(getComputedStyle(back || document.body).backgroundColor));
  const ratio = (Math.max(x, y) + .05) / (Math.min(x, y) + .05);
  if (ratio < 4.5) poor.push(one.tagName + " " + one.textContent.slice(0, 30) + " " + ratio.toFixed(1));
}
return poor;
"""
ROLES = {
    "button",
    "link",
    "textbox",
    "searchbox",
    "combobox",
    "checkbox",
    "slider",
    "img",
    "progressbar",
    "heading",
}


def test_each_page_can_be_read_and_used_by_everybody(seen: Browser, address: str, puzzle: int) -> None:
    """Every control has a name for screen readers, headings come in order, and text stands out."""
    for name, page in PAGES.items():
        seen.go(address + page.format(puzzle=puzzle))
        tree = seen.devtools("Accessibility.getFullAXTree")["nodes"]
        nameless = [
            node["role"]["value"]
            for node in tree
            if not node["ignored"] and node["role"]["value"] in ROLES and not node["name"]["value"].strip()
        ]
        assert nameless == [], name
        levels = seen.run(
            "return [...document.querySelectorAll('h1,h2,h3')].map((one) => Number(one.tagName[1]))"
        )
        assert levels[0] == 1 and levels.count(1) == 1, name
        assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False)), name
        for dark in (False, True):
            seen.show(dark=dark)
            assert seen.run(CONTRAST) == [], (name, dark)


def test_the_keyboard_reaches_everything(seen: Browser, address: str) -> None:
    """First comes the way past the menu; what has the focus shows it."""
    seen.go(f"{address}/log")
    seen.press(TAB)
    assert seen.run("return document.activeElement.textContent") == "Skip to the content"
    seen.press(ENTER)
    assert seen.run("return location.hash") == "#main"
    seen.press(TAB)
    assert seen.run("return document.activeElement.name") == "type"
    assert seen.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("width", [360, pytest.param(390, marks=pytest.mark.long), 1200])
def test_no_page_is_wider_than_the_window(seen: Browser, address: str, puzzle: int, width: int) -> None:
    """A phone's width is enough for every page; long tables scroll in themselves."""
    seen.show(width=width)
    for page in PAGES.values():
        seen.go(address + page.format(puzzle=puzzle))
        assert seen.run("return document.documentElement.scrollWidth") <= width, page


def test_what_events_hold_is_never_run(store: EventClient, chromium: Browser) -> None:
    """A script as type, field, value, metadata and identifier is text on every page."""
    data = {"cart_id": SCRIPT, SCRIPT: {SCRIPT: [SCRIPT]}}
    with event_context(actor=SCRIPT, correlation_id=SCRIPT):
        cause = store.save_event({"type": SCRIPT, "data": data})
        store.save_event(CartCreated(SCRIPT, SCRIPT))
    CartProjection(SCRIPT, store).save_projection()
    chromium.show()
    with served(store) as address:
        chromium.go(f"{address}/?token=secret")
        chromium.complaints()
        value = "%3Cscript%3Edocument.title%3D'taken'%3C/script%3E"
        for page in (
            "log", f"log?text={value}", f"events/{cause.id}", f"identifier?where=cart_id%3D{value}",
            "types", "views?type=SHOPPING_CART", f"view?type=SHOPPING_CART&id={value}", f"find?q={value}x",
        ):  # fmt: skip
            chromium.go(f"{address}/{page}")
            assert chromium.run("return document.title").endswith("· pgevents"), page
            assert SCRIPT in chromium.text("main") or page == "types", page
        assert chromium.complaints() == []
