"""What plugins add to the browser: links on events and identifiers, and pages of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pgevents import BrowserLink, BrowserPage, EventClient, StoredEvent, hookimpl
from pgevents.plugins.encryption import Encryption, Personal

from ..shop import CartCreated
from .sites import SCRIPT, Tags, site_of

Show = Callable[[Mapping[str, str]], dict[str, Any] | None]


class Desk:
    """Leads to a customer desk, and has pages."""

    def __init__(self, *pages: BrowserPage) -> None:
        self.pages = pages
        self.seen: list[StoredEvent] = []

    @hookimpl
    def pgevents_browser_event_links(self, event: StoredEvent) -> list[BrowserLink]:
        self.seen.append(event)
        return [BrowserLink(f"Cart {SCRIPT}", f"https://desk.example/{event.data['cart_id']}")]

    @hookimpl
    def pgevents_browser_identifier_links(self, field: str, value: str) -> list[BrowserLink] | None:
        return [BrowserLink("On the desk", f"/desk/{value}")] if field == "cart_id" else None

    @hookimpl
    def pgevents_browser_pages(self) -> tuple[BrowserPage, ...]:
        return self.pages


def test_links_stand_on_events_and_identifiers(store: EventClient) -> None:
    """With the event as it is stored; what a label holds is text."""
    desk = Desk()
    store.plugins.register(desk)
    site = site_of(store)
    page = site.get("/events/1").get_data(as_text=True)
    assert 'href="https://desk.example/c1"' in page and Tags(page).scripts == ["/assets/browser.js"]
    assert (desk.seen[0].id, desk.seen[0].type, desk.seen[0].version) == (1, "CART_CREATED", 1)
    found = site.get("/identifier.json?where=cart_id=c1").json
    assert found and found["plugged"] == [{"label": "On the desk", "url": "/desk/c1"}]
    other = site.get("/identifier.json?where=product_id=tea").json
    assert other and other["plugged"] == []


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "/\\evil.example", "x"]
)
def test_a_link_leads_to_a_page_or_is_left_out(
    store: EventClient, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that would run a script, or that looks like another, is not shown."""

    class Bad:
        @hookimpl
        def pgevents_browser_event_links(self) -> list[BrowserLink]:
            return [BrowserLink("bad", address)]

    store.plugins.register(Bad())
    with caplog.at_level(logging.WARNING, "pgevents"):
        page = site_of(store).get("/events/1.json").json
    assert page and page["plugged"] == [] and "does not open" in caplog.text


def test_a_plugin_that_fails_hides_no_page(store: EventClient, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, and the other plugins are asked; what is no link is left out."""

    class Broken:
        @hookimpl
        def pgevents_browser_event_links(self, client: EventClient) -> list[BrowserLink]:
            client.db.execute_sql("SELECT 1 / 0")
            return []

        @hookimpl
        def pgevents_browser_pages(self) -> list[BrowserPage]:
            raise KeyError("pages")

    class Odd:
        @hookimpl
        def pgevents_browser_event_links(self) -> Any:
            return ["https://desk.example"]

    for plugin in (Desk(), Broken(), Odd()):
        store.plugins.register(plugin)
    page = site_of(store).get("/events/1.json").json
    assert page and [one["url"] for one in page["plugged"]] == ["https://desk.example/c1"]
    assert "division by zero" in caplog.text and "BrowserLinks" in caplog.text
    assert site_of(store).get("/log").status_code == 200


def test_a_page_of_its_own_stands_in_the_menu(store: EventClient) -> None:
    """A list of objects is a table, the rest a tree; the JSON has the same data; None is not found."""

    def show(query: Mapping[str, str]) -> dict[str, Any] | None:
        if query.get("shelf") == "none":
            return None
        return {"stock": [{"product": SCRIPT, "left": 3}], "shelf": query.get("shelf", "all"), "empty": []}

    store.plugins.register(Desk(BrowserPage("stock", f"Stock {SCRIPT}", show)))
    site = site_of(store)
    assert 'href="/plugin/stock"' in site.get("/log").get_data(as_text=True)
    page = site.get("/plugin/stock?shelf=left").get_data(as_text=True)
    tags = Tags(page)
    assert (
        tags.scripts == ["/assets/browser.js"]
        and tags.odd == []
        and "<td>3</td>" in page.replace('<span class="number">3</span>', "3")
    )
    twin = site.get("/plugin/stock.json?shelf=left").json
    assert twin and twin["data"]["shelf"] == "left"
    assert site.get("/plugin/stock?shelf=none").status_code == 404
    assert site.get("/plugin/other").status_code == 404


def test_a_page_can_look_as_it_likes(store: EventClient) -> None:
    """By a template of its own, in which values are escaped."""

    def show(query: Mapping[str, str]) -> dict[str, Any]:
        return {"who": SCRIPT}

    store.plugins.register(
        Desk(BrowserPage("hello", "Hello", show, "<p class='card'>Hello {{ data.who }}</p>"))
    )
    page = site_of(store).get("/plugin/hello").get_data(as_text=True)
    assert "<p class='card'>Hello &lt;script&gt;" in page


def test_a_page_can_neither_write_nor_break_the_browser(
    store: EventClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its transaction only reads; its error is shown; a name that is no address is left out."""

    def write(query: Mapping[str, str]) -> dict[str, Any]:
        store.save_event(CartCreated("c9", "u1"))
        return {}

    store.plugins.register(Desk(BrowserPage("write", "Write", write), BrowserPage("../log", "Odd", write)))
    site = site_of(store)
    failed = site.get("/plugin/write")
    assert failed.status_code == 500 and b"The plugin&#39;s page failed" in failed.data
    assert store.get_latest_event(CartCreated, cart_id="c9") is None
    assert "../log" not in site.get("/log").get_data(as_text=True) and "small letters" in caplog.text


def test_plugins_see_encrypted_fields_closed(store: EventClient) -> None:
    """Also where the client has the key."""
    desk = Desk()
    store.plugins.register(Encryption({"CART_CREATED": Personal("cart_id", {"user_id": "[redacted]"})}))
    store.create_tables()
    store.plugins.register(desk)
    saved = store.save_event(CartCreated("c9", "Ada Lovelace"))
    assert site_of(store).get(f"/events/{saved.id}").status_code == 200
    assert "$encrypted" in desk.seen[-1].data["user_id"]
