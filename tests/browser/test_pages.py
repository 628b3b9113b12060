"""The pages of the browser: who may look, what each says, and what none of them does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from pgevents import ConfigurationError, EventClient, ProjectionBase, event, pipeline
from pgevents.browser import browser, make_app
from pgevents.browser.diff import changes
from pgevents.plugins.metadata import event_context
from pgevents.subscriptions import rebuild

from ..shop import CartCreated, CartProjection, CartView, ItemAddedToCart
from .sites import SCRIPT, Tags, site_of

PAGES = ["/log", "/types", "/projections", "/subscriptions", "/health", "/find"]

# -- who may look ------------------------------------------------------------


def test_it_does_not_mount_without_a_say_on_who_may_look(client: EventClient) -> None:
    """There is no default: a log holds what customers did."""
    with pytest.raises(TypeError, match="authorize"):
        browser(client)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(ConfigurationError, match="may see the log"):
        browser(client, authorize=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("answer", [False, None, 1, "yes"])
def test_nothing_is_shown_to_whom_authorize_does_not_admit(store: EventClient, answer: Any) -> None:
    """Only True admits; the style sheet and the JSON are refused as well."""
    site = site_of(store, lambda: answer)
    for page in [*PAGES, "/log.json", "/events/1", "/identifier?where=cart_id=c1", "/assets/browser.css"]:
        found = site.get(page)
        assert found.status_code == 403 and b"c1" not in found.data


def test_the_standalone_site_asks_for_its_token_and_its_own_name(store: EventClient) -> None:
    """The token in the address becomes a cookie; another host name is a page of somebody else's."""
    site = make_app(store, "secret").test_client()
    here = "http://127.0.0.1"
    assert site.get("/log", base_url=here).status_code == 403
    assert site.get("/?token=wrong", base_url=here).status_code == 403
    assert site.get("/log", base_url="http://evil.example").status_code == 403
    admitted = site.get("/?token=secret", base_url=here)
    cookie = admitted.headers["Set-Cookie"]
    assert admitted.status_code == 302 and "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert site.get("/log", base_url=here).status_code == 200
    assert site.get("/log", base_url="http://evil.example").status_code == 403


def test_every_answer_carries_the_policy(site: FlaskClient) -> None:
    """Nothing from other servers, nothing inline, no frames."""
    for page in [*PAGES, "/log.json", "/nothing-here", "/log?since=x"]:
        headers = site.get(page).headers
        if page == "/nothing-here":  # not the blueprint's
            continue
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"


def test_pages_only_read(store: EventClient, site: FlaskClient) -> None:
    """No page writes, also not by way of a plugin that saves what is folded."""
    seen: list[bool] = []

    class Saver:
        from pgevents import hookimpl

        @hookimpl
        def pgevents_after_fold(self, projection: Any) -> None:
            seen.append(True)

    store.plugins.register(Saver())
    written = "SELECT (SELECT count(*) FROM my_app.events), (SELECT count(*) FROM my_app.events_seen)"
    before = store.db.execute_sql(written).fetchone()
    for page in [*PAGES, "/view?type=SHOPPING_CART&id=c1", "/identifier?where=cart_id=c1"]:
        assert site.get(page).status_code == 200
    assert seen == [] and store.db.execute_sql(written).fetchone() == before
    assert site.post("/log").status_code == 405


# -- what the pages say ------------------------------------------------------------


def test_the_log_pages_by_id_newest_first(store: EventClient, site: FlaskClient) -> None:
    """Older and newer pages meet without a gap and without a repetition."""
    store.save_events([ItemAddedToCart("c2", "tea", n, 1) for n in range(1, 121)])
    first = site.get("/log.json").json
    assert first and len(first["events"]) == 50
    ids, links = [one["id"] for one in first["events"]], first["links"]
    while links["older"]:
        page = site.get(f"/log.json?{links['older']}").json
        assert page
        ids += [one["id"] for one in page["events"]]
        links = page["links"]
    assert ids == sorted(ids, reverse=True) and len(ids) == len(set(ids)) == 125
    back = list[int]()
    while links["newer"]:
        page = site.get(f"/log.json?{links['newer']}").json
        assert page
        back += [one["id"] for one in reversed(page["events"])]
        links = page["links"] if page["events"] else {"newer": None}
    assert back == [one for one in reversed(ids) if one > ids[-len(page_rest(ids))]]


def page_rest(ids: list[int]) -> list[int]:
    """The ids of the last page of 50."""
    return ids[len(ids) // 50 * 50 :]


@pytest.mark.parametrize(
    ("query", "types"),
    [
        ("type=CART_CREATED", ["CART_CREATED"]),
        ("type=CART_CREATED&type=CART_CHECKED_OUT", ["CART_CHECKED_OUT", "CART_CREATED"]),
        ("where=product_id=tea", ["ITEM_ADDED_TO_CART"]),
        ("where=pence=2175", ["INVOICE_SENT"]),
        ("where=cart_id=c1&type=CART_CREATED", ["CART_CREATED"]),
        ("where=cart_id=c1&where=product_id=cake", ["ITEM_ADDED_TO_CART"]),
        ("meta=actor=u1", ["CART_CHECKED_OUT"]),
        ("text=CAKE", ["ITEM_ADDED_TO_CART"]),
        ("text=%25", []),
        ("since=2026-01-31T12:00:30&until=2026-01-31T12:01:30", ["ITEM_ADDED_TO_CART"]),
        ("since=2026-01-31T14:01:30%2B02:00&until=2026-01-31T12:30", ["ITEM_ADDED_TO_CART"]),
        ("where=cart_id=nobody", []),
        ("where=cart_id=nobody&where=cart_id=c1", []),
        ("where=cart_id=c1&where=cart_id=nobody", []),
    ],
)
def test_the_log_is_filtered(site: FlaskClient, query: str, types: list[str]) -> None:
    """By type, identifier, metadata, time and text, each alone and together."""
    page = site.get(f"/log.json?{query}").json
    assert page and [one["type"] for one in page["events"]] == types
    assert site.get(f"/log?{query}").status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "where=cart_id",
        "meta=x",
        "since=yesterday",
        "before=-1",
        "after=x",
        "before=99999999999999999999",
        "text=%00",
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(site: FlaskClient, query: str) -> None:
    """With 400, and what to write, in both forms."""
    page, twin = site.get(f"/log?{query}"), site.get(f"/log.json?{query}")
    assert page.status_code == twin.status_code == 400
    assert twin.json and twin.json["message"] and b"Not understood" in page.data


def test_a_filter_without_an_index_searches_in_steps(
    store: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each page looks through a bounded part of the log, and says where to go on."""
    monkeypatch.setattr("pgevents.browser.log.WINDOW", 2)
    site, query, found = site_of(store), "text=u1", list[int]()
    for _ in range(5):
        page = site.get(f"/log.json?{query}").json
        assert page and page["searched"] <= 2
        found += [one["id"] for one in page["events"]]
        query = page["links"]["older"]
        if query is None:
            break
    assert found == [1]


def test_counts_are_bounded(store: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit a page says "more than", and counts no further."""
    monkeypatch.setattr("pgevents.browser.log.COUNT_LIMIT", 3)
    monkeypatch.setattr("pgevents.browser.pages.COUNT_LIMIT", 3)
    page = site_of(store).get("/log").get_data(as_text=True)
    assert "More than 3 events in the log" in page


def test_an_event_shows_what_is_stored_and_what_is_read(
    make_client: Callable[..., EventClient],
) -> None:
    """Stored data beside what the upcasters make of them, and what changes."""

    @event("PRICED")
    class PricedOnce:
        cart_id: str
        pounds: int

    client = make_client(event_types=PricedOnce)
    client.create_tables()
    saved = client.save_event(PricedOnce("c1", 5))

    @event(
        "PRICED",
        version=2,
        upcasters={1: lambda data: {"cart_id": data["cart_id"], "pence": data["pounds"] * 100}},
    )
    class Priced:
        cart_id: str
        pence: int

    page = site_of(make_client(event_types=Priced)).get(f"/events/{saved.id}.json").json
    assert page and page["event"]["data"] == {"cart_id": "c1", "pounds": 5}
    assert page["upcast"] == {"cart_id": "c1", "pence": 500} and (
        page["version"],
        page["newest_version"],
    ) == (1, 2)
    assert {(one["path"], one["kind"]) for one in page["upcast_changes"]} == {
        ("pounds", "removed"),
        ("pence", "added"),
    }


def test_an_event_says_who_redacted_it(store: EventClient, site: FlaskClient) -> None:
    """With the reason that the maintenance was given."""
    with store.maintenance("erasure request 17"):
        store.db.execute_sql('UPDATE my_app.events SET data = data || \'{"user_id": "gone"}\' WHERE id = 1')
    page = site.get("/events/1").get_data(as_text=True)
    assert "Changed under maintenance" in page and "erasure request 17" in page


def test_causes_and_effects_are_found(site: FlaskClient) -> None:
    """By causation and correlation ids; each of them leads to the others."""
    for event_id in (4, 5):
        page = site.get(f"/events/{event_id}.json").json
        assert page and [one["id"] for one in page["related"]] == [4, 5] and page["edges"] == [[0, 1]]
    alone = site.get("/events/1.json").json
    assert alone and alone["related"] == []


def test_an_event_can_be_copied_into_a_test(site: FlaskClient) -> None:
    """What is copied is Python that makes the same event; a dict where there is no class."""
    typed, plain = site.get("/events/2.json").json, site.get("/events/5.json").json
    assert typed and plain

    def given(*events: Any) -> Any:
        return events[0]

    made = eval(typed["given"], {"given": given, "ItemAddedToCart": ItemAddedToCart})
    assert made == ItemAddedToCart("c1", "tea", 2, 450)
    assert eval(plain["given"], {"given": given}) == {
        "type": "INVOICE_SENT",
        "data": {"cart_id": "c1", "pence": 2175},
    }
    assert json.loads(typed["json"])["id"] == 2


def test_time_travel_shows_the_view_at_each_event(site: FlaskClient) -> None:
    """What the view was, and what the event changed, field by field."""
    totals: list[int] = []
    for event_id in range(1, 6):
        page = site.get(f"/identifier.json?where=cart_id=c1&at={event_id}").json
        assert page and page["at"] == event_id and page["view"] == "SHOPPING_CART"
        totals.append(page["travel"]["after"]["total"])
    assert totals == [0, 900, 2175, 2175, 2175]
    page = site.get("/identifier.json?where=cart_id=c1&at=3").json
    assert page and {(one["path"], one["kind"]) for one in page["travel"]["changes"]} == {
        ("items[1]", "added"),
        ("total", "changed"),
    }
    assert site.get("/identifier?where=cart_id=nobody").status_code == 200


def test_a_fold_that_fails_is_shown_and_breaks_no_page(store: EventClient) -> None:
    """A reducer is the application's code; its error stands on the page."""

    class Broken(ProjectionBase[CartView, Any]):
        projection_type = "BROKEN"
        reducers = pipeline(total=lambda total, event: total // 0)

        def initial_view(self) -> CartView:
            return CartView(self.id)

        def get_event_identifiers(self) -> dict[str, str]:
            return {"cart_id": self.id}

    app = Flask("shop")
    app.register_blueprint(browser(store, authorize=lambda: True, projections=[Broken], url_prefix=None))
    page = app.test_client().get("/identifier?where=cart_id=c1").get_data(as_text=True)
    assert "The fold failed here" in page and "ZeroDivisionError" in page


def test_saved_views_are_listed_queried_and_compared(store: EventClient, site: FlaskClient) -> None:
    """By type, by field, in order; and what is saved beside what a fold gives now."""
    for n in range(2, 120):
        store.save_events([CartCreated(f"c{n}", f"u{n % 3}"), ItemAddedToCart(f"c{n}", "tea", n, 1)])
        CartProjection(f"c{n}", store).save_projection()
    listed = site.get("/projections.json").json
    assert listed and [(one["type"], one["count"]) for one in listed["projections"]] == [
        ("SHOPPING_CART", 119)
    ]
    query, totals = "order=-total", list[int]()
    while query:
        page = site.get(f"/views.json?type=SHOPPING_CART&{query}").json
        assert page
        totals += [one["data"]["total"] for one in page["views"]]
        query = page["links"]["next"]
    assert totals == sorted(totals, reverse=True) and len(totals) == 119
    some = site.get("/views.json?type=SHOPPING_CART&where=user_id=u2").json
    assert some and {one["data"]["user_id"] for one in some["views"]} == {"u2"}
    store.save_event(ItemAddedToCart("c1", "bun", 1, 99))
    one = site.get("/view.json?type=SHOPPING_CART&id=c1").json
    assert one and one["saved"][0]["data"]["total"] == 2175 and one["folded"]["total"] == 2274
    assert {change["path"] for change in one["changes"]} >= {"total", "is_checked_out"}
    assert site.get("/views.json?type=SHOPPING_CART&order=a'b").status_code == 400


def test_a_long_fold_is_asked_for(
    store: EventClient, site: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page folds a bounded number of events, and more only for who says so; both ways say the same."""
    monkeypatch.setattr("pgevents.browser.travel.FOLDED", 3)
    monkeypatch.setattr("pgevents.browser.views.FOLDED", 3)
    short = site.get("/identifier.json?where=cart_id=c1&at=4").json
    monkeypatch.setattr("pgevents.browser.travel.SHORT", 1)
    store.delete_projection(CartProjection, "c1")
    address = "/identifier.json?where=cart_id=c1&at=4"
    refused, folded = site.get(address).json, site.get(f"{address}&fold=all").json
    assert refused and refused["travel"] == {"too_long": 3}
    assert short and folded and folded["travel"] == {**short["travel"], "steps": None}
    view = "/view.json?type=SHOPPING_CART&id=c1"
    assert site.get(view).status_code == 404
    whole = site.get(f"{view}&fold=all").json
    assert whole and whole["folded"]["total"] == 2175


def test_the_time_line_says_what_each_event_changed(site: FlaskClient) -> None:
    """A total can be followed down the page."""
    page = site.get("/identifier.json?where=cart_id=c1").json
    assert page
    totals = {
        event_id: (change["before"], change["after"])
        for event_id, changed in page["travel"]["steps"].items()
        for change in changed
        if change["path"] == "total"
    }
    assert totals == {"2": (0, 900), "3": (900, 2175)}


def test_a_rebuild_is_seen_on_its_way(store: EventClient, site: FlaskClient) -> None:
    """How many views are of the class's version already."""
    store.save_event(CartCreated("c2", "u1"))
    CartProjection("c2", store).save_projection()
    store.db.execute_sql("UPDATE my_app.views SET version = 0 WHERE id = 'c2'")
    page = site.get("/projections.json").json
    assert page and page["projections"][0]["rebuilt"] == {"done": 1, "of": 2}
    assert "1 of 2 are of version 1" in site.get("/projections").get_data(as_text=True)


def test_a_kept_view_shows_how_far_it_is(store: EventClient, site: FlaskClient) -> None:
    """While it is built, its place and its target; then that it is kept."""
    rebuild(store, CartProjection)
    page = site.get("/projections.json").json
    assert page
    (kept,) = page["projections"][0]["kept"]
    assert kept["is_complete"] and kept["position"] == kept["target"] == 5 and kept["waiting"] == 0
    store.db.execute_sql("UPDATE my_app.events_kept SET complete_at = NULL, target = 50")
    html = site.get("/projections").get_data(as_text=True)
    assert "is being built: at event 5 of 50" in html
    assert site.get("/subscription", query_string={"name": kept["name"]}).status_code == 200


def test_an_id_is_found_whatever_it_is_of(store: EventClient, site: FlaskClient) -> None:
    """A cart's id leads to the cart, an event's id to the event; of several things all are named."""
    assert site.get("/find?q=tea").headers["Location"] == "/identifier?where=product_id%3Dtea"
    assert site.get("/find?q= 2 ").headers["Location"] == "/events/2"
    assert site.get("/find?q=c1").headers["Location"] == "/identifier?where=cart_id%3Dc1"
    store.save_event(CartCreated("2", "u1"))
    found = site.get("/find.json?q=2").json
    assert found and found["event"]["id"] == 2
    assert found["identifiers"] == [{"field": "cart_id", "value": "2"}] and found["views"] == []
    assert b"Nowhere" in site.get("/find?q=nobody").data
    assert site.get("/find?q=%00").status_code == 400


def test_types_show_what_the_program_has_no_class_for(site: FlaskClient) -> None:
    """Counts, first and last, versions and fields; what is not registered is marked."""
    page = site.get("/types.json").json
    assert page
    found = {one["type"]: one for one in page["types"]}
    assert found["ITEM_ADDED_TO_CART"]["count"] == 2 and found["ITEM_ADDED_TO_CART"]["first"]["id"] == 2
    assert [field["name"] for field in found["CART_CREATED"]["fields"]] == ["cart_id", "user_id"]
    assert found["INVOICE_SENT"]["class"] is None
    assert "not registered" in site.get("/types").get_data(as_text=True)


def test_encrypted_fields_stay_closed(store: EventClient, site: FlaskClient) -> None:
    """Neither the field nor a view that is folded from it is shown, also by a client that has the key."""
    pytest.importorskip("cryptography")
    from pgevents.plugins.encryption import Encryption, Personal

    store.plugins.register(Encryption({"CART_CREATED": Personal("cart_id", {"user_id": "[redacted]"})}))
    store.create_tables()
    saved = store.save_event(CartCreated("c9", "Ada Lovelace"))
    pages = [f"/events/{saved.id}", "/identifier?where=cart_id=c9", "/log", "/view?type=SHOPPING_CART&id=c9"]
    for page in pages:
        for form in ("", ".json"):
            address, _, query = page.partition("?")
            found = site.get(f"{address}{form}?{query}")
            assert found.status_code in (200, 404) and b"Lovelace" not in found.data, page
    assert b"stay closed" in site.get(pages[0]).data and b"stays closed" in site.get(pages[1]).data


@pytest.mark.parametrize("form", ["", ".json"])
def test_what_events_hold_is_text_wherever_it_stands(
    store: EventClient, site: FlaskClient, form: str
) -> None:
    """A script as type, field, value, metadata, identifier, id of a view and filter: shown, never run."""
    data = {"cart_id": SCRIPT, SCRIPT: {SCRIPT: [SCRIPT]}}
    with event_context(actor=SCRIPT, correlation_id=SCRIPT):
        cause = store.save_event({"type": SCRIPT, "data": data})
    with event_context(cause=cause):
        store.save_event({"type": SCRIPT, "data": {"cart_id": SCRIPT}})
    store.save_event(CartCreated(SCRIPT, SCRIPT))
    CartProjection(SCRIPT, store).save_projection()
    with store.maintenance(SCRIPT):
        store.db.execute_sql("UPDATE my_app.events SET data = data WHERE id = %s", (cause.id,))
    pages = {
        "/log": {"text": SCRIPT}, f"/events/{cause.id}": {}, "/types": {}, "/projections": {},
        "/identifier": {"where": f"cart_id={SCRIPT}", "view": SCRIPT},
        "/views": {"type": "SHOPPING_CART", "order": "-user_id"},
        "/view": {"type": "SHOPPING_CART", "id": SCRIPT},
    }  # fmt: skip
    for page, query in pages.items():
        found = site.get(
            page.replace("</", "<%2F") + form if "<" in page else page + form, query_string=query
        )
        assert found.status_code == 200, page
        if form:
            assert found.content_type == "application/json"
            continue
        tags = Tags(found.get_data(as_text=True))
        assert tags.scripts == ["/assets/browser.js"] and tags.odd == [], page


def test_a_difference_names_each_field() -> None:
    """Nested fields, lists that grow at either end, kinds that differ."""
    before = {"a": 1, "b": {"c": [1, 2, 3]}, "gone": None, "kind": 1}
    after = {"a": 1, "b": {"c": [0, 1, 2, 3]}, "come": "x", "kind": True}
    found = {one["path"]: one["kind"] for one in changes(before, after)}
    assert found == {"b.c[0]": "added", "gone": "removed", "come": "added", "kind": "changed"}
    assert changes(before, before) == []


def test_each_page_of_a_long_log_is_fast(store: EventClient) -> None:
    """20,000 events are long enough for a page that would go through all of them to show."""
    for n in range(4):
        store.save_events([ItemAddedToCart(f"c{n}", f"p{i % 50}", 1, 1) for i in range(5_000)])
    store.db.execute_sql("ANALYZE my_app.events")
    site = site_of(store)
    for page in [
        "/log",
        "/log?type=ITEM_ADDED_TO_CART",
        "/log?text=nowhere",
        "/identifier?where=product_id=p7",
        "/types",
    ]:
        site.get(page)
        start = time.perf_counter()
        assert site.get(page).status_code == 200
        assert time.perf_counter() - start < 1.0, page
