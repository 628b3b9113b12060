"""Subscriptions and health in the browser, and what may be changed there: by whom, and with what trace."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from flask.testing import FlaskClient

from pgevents import ConfigurationError, Event, EventClient
from pgevents.browser import browser
from pgevents.browser import subscriptions as subscription_pages
from pgevents.browser.lag import Samples, Waiting, line_of, take_samples
from pgevents.subscriptions import (
    notes,
    parked,
    parking_notes,
    pause,
    rename,
    replay,
    retry,
    subscription,
)
from pgevents.testing import drain

from ..shop import CartCreated, ItemAddedToCart
from .sites import site_of

ONE = {"name": "writer", "event_id": "6", "key": "c5", "reason": "the printer has paper again"}


@pytest.fixture
def failed(store: EventClient) -> EventClient:
    """Two carts whose creation cannot be handled, with something behind one of them."""

    @subscription("writer", (CartCreated | ItemAddedToCart), key="cart_id", lanes=2, on_error=retry(1))
    def write(event: Event[Any]) -> None:
        if event.data.cart_id in ("c5", "c6"):
            raise ValueError(f"no paper for {event.data.cart_id} <b>")

    store.save_events([CartCreated("c5", "u1"), CartCreated("c6", "u1"), ItemAddedToCart("c5", "tea", 1, 1)])
    drain(store, [write])
    return store


def writing(client: EventClient, name: Any = "Ada") -> tuple[FlaskClient, str]:
    """A site for a person who may change things, and the token of its forms."""
    site = site_of(client, authorize_write=lambda: name)
    page = site.get("/subscription?name=writer").get_data(as_text=True)
    found = re.search(r'name="token" value="([^"]+)"', page)
    return site, found[1] if found else ""


# -- what is seen ------------------------------------------------------------


def test_subscriptions_say_how_far_behind_they_are_and_what_is_parked(failed: EventClient) -> None:
    """With the error, its stack from the handler on, and what waits behind."""
    site = site_of(failed)
    failed.save_event(CartCreated("c7", "u1"))
    listed = site.get("/subscriptions.json").json
    assert listed
    (one,) = listed["subscriptions"]
    assert (one["name"], one["lag"], one["parked"], one["parked_keys"]) == ("writer", 1, 3, 2)
    page = site.get("/subscription.json?name=writer").json
    assert page and [(row["event_id"], row["state"]) for row in page["parked_events"]] == [
        (6, "parked"), (8, "queued"), (7, "parked"),
    ]  # fmt: skip
    first = page["parked_events"][0]
    assert first["error"] == "ValueError: no paper for c5 <b>" and "in write" in first["stack"]
    html = site.get("/subscription?name=writer").get_data(as_text=True)
    assert "no paper for c5 &lt;b&gt;" in html and "<b>" not in html.split('id="parked"')[1]
    assert site.get("/subscription?name=nobody").status_code == 404
    assert site.get("/subscription?name=writer&after=x").status_code == 400


def test_parked_events_page_by_key_and_id(failed: EventClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, in order."""
    monkeypatch.setattr("pgevents.browser.subscriptions.PAGE", 1)
    site, ids, after = site_of(failed), list[int](), None
    for _ in range(5):
        page = site.get("/subscription.json", query_string={"name": "writer", "after": after}).json
        assert page
        ids += [one["event_id"] for one in page["parked_events"]]
        after = page["next"]
        if after is None:
            break
    assert ids == [6, 8, 7]
    some = site.get("/subscription.json?name=writer&key=c6").json
    assert some and [one["event_id"] for one in some["parked_events"]] == [7]


def test_who_works_on_a_lane_is_seen_while_they_do(
    make_client: Callable[..., EventClient], failed: EventClient
) -> None:
    """The backend whose transaction has the lane's row; a lease, with the event in hand."""
    site, other = site_of(failed), make_client()
    lane = "SELECT FROM my_app.events_checkpoints WHERE name = 'writer' AND lane = 1 FOR UPDATE"
    with other.db.atomic():
        (pid,) = other.db.execute_sql("SELECT pg_backend_pid()").fetchone()
        other.db.execute_sql(lane)
        page = site.get("/subscription.json?name=writer").json
        assert page and [one["worker"] and one["worker"]["pid"] for one in page["lanes"]] == [None, pid]
        assert f"backend {pid}" in site.get("/subscription?name=writer").get_data(as_text=True)
        assert page["lanes"][1]["runner"] is None
    other.db.execute_sql(
        "UPDATE my_app.events_checkpoints SET announced = 6, leased_until = clock_timestamp() + '1 min' "
        "WHERE lane = 0"
    )
    page = site.get("/subscription.json?name=writer").json
    assert page and page["lanes"][0]["lease"]["event_id"] == 6 and page["lanes"][1]["worker"] is None


@pytest.mark.parametrize("effects", ["inside", "outside"])
def test_the_worker_of_a_lane_is_named(
    make_client: Callable[..., EventClient], store: EventClient, effects: Any
) -> None:
    """Host, process and thread, with a transaction or a lease, beside its program's name."""
    site, pages = site_of(store), list[Any]()

    @subscription("slow", CartCreated, key="cart_id", lanes=2, effects=effects)
    def look(event: Event[Any]) -> None:
        pages.append(site.get("/subscription.json?name=slow").json)
        pages.append(site.get("/subscription?name=slow").get_data(as_text=True))

    def work() -> None:
        client.db.execute_sql("SET application_name = 'the shop'")
        drain(client, [look])
        pages.append(client.db.execute_sql("SHOW application_name").fetchone())
        client.db.close()

    client = make_client()
    client.save_event(CartCreated("c9", "u1"))
    worker = threading.Thread(target=work, name="press 1")
    worker.start()
    worker.join()
    (lane,) = [lane for lane in pages[-3]["lanes"] if lane["worker"] or lane["lease"]]
    assert lane["runner"] == {
        "host": re.sub(r"[^\w.-]", "-", socket.gethostname())[:24],
        "process": os.getpid(),
        "worker": "press-1",
    }
    assert f"press-1</span>, process {os.getpid()} on {lane['runner']['host']}: " in pages[-2]
    if effects == "inside":
        assert lane["worker"]["application"] == "the shop"
    assert pages[-1] == ("the shop",)


def test_the_line_of_the_lag_is_measured_and_before_that_computed_from_the_log() -> None:
    """What waits now had come when it came; what this process saw stands as it saw it."""
    now = datetime(2026, 1, 31, 12, 0, tzinfo=timezone.utc)
    minute = timedelta(minutes=1)
    samples = Samples()
    for ago, count in ((90, 99), (20, 7), (19.99, 8), (10, 3)):
        samples.add({"writer": count}, now - ago * minute)
    assert [count for _, count in samples.of("writer")] == [7, 3]
    waiting = Waiting(2, [(now - ago * minute).timestamp() for ago in (50, 5)])
    line = line_of(samples.of("writer"), waiting, now)
    assert [count for _, count in line["measured"]] == [7, 3, 2] and line["highest"] == 7
    computed = {at[11:16]: count for at, count in line["computed"]}
    assert (computed["11:05"], computed["11:10"], computed["11:39"]) == (0, 1, 1) and "11:45" not in computed
    samples.add({}, now)
    assert samples.of("writer") == []
    nothing = line_of([], Waiting(0, []), now)
    assert nothing["since"] is None and nothing["highest"] == 0


def test_samples_are_taken_without_a_write(failed: EventClient) -> None:
    """The process that shows the page keeps them; the database is only read."""
    samples = Samples()
    failed.save_event(CartCreated("c7", "u1"))
    with failed.db.atomic():
        failed.db.execute_sql("SET TRANSACTION READ ONLY")
        take_samples(failed, samples)
    assert [count for _, count in samples.of("writer")] == [1]


def test_health_says_what_the_doctor_says_and_who_holds_the_horizon(
    make_client: Callable[..., EventClient], failed: EventClient
) -> None:
    """The gravest first, with what to do."""
    site, other = site_of(failed), make_client()
    pause(failed, "writer")
    with other.db.atomic():
        other.save_event(CartCreated("c8", "u1"))
        page = site.get("/health.json").json
        html = site.get("/health").get_data(as_text=True)
    assert page
    levels = [one["level"] for one in page["findings"]]
    assert levels == sorted(levels, key=["fault", "note", "ok"].index) and page["notes"] == levels.count(
        "note"
    )
    said = [one["what"] for one in page["findings"]]
    assert any("paused" in what for what in said) and any("guarded" in what for what in said)
    assert page["horizon"]["id"] < page["horizon"]["last_issued"]
    assert re.match(r"backend \d+", page["holders"][0]["who"]) and page["holders"][0]["who"] in html


# -- what may be changed ------------------------------------------------------------


def test_a_retry_and_a_discard_leave_a_note_with_name_and_reason(failed: EventClient) -> None:
    """Through the same functions as everywhere; and what queued behind goes on."""
    site, token = writing(failed)
    done = site.post("/subscription/retry", data={**ONE, "token": token})
    assert done.status_code == 303 and "done=retried-1" in done.headers["Location"]
    assert b"1 event will be tried again" in site.get(done.headers["Location"]).data
    (event,) = [one for one in parked(failed, "writer") if one.event_id == 6]
    assert (event.state, event.note) == ("retrying", "tried again by Ada: the printer has paper again")
    done = site.post("/subscription/discard", data={**ONE, "token": token, "reason": "written by hand"})
    assert done.status_code == 303
    found = {one.event_id: (one.state, one.note) for one in parked(failed, "writer", discarded=True)}
    assert found[6] == ("discarded", "Ada: written by hand") and found[8][0] == "retrying"
    page = site.get("/subscription?name=writer&discarded=yes").get_data(as_text=True)
    assert "Ada: written by hand" in page
    assert [
        (note.action, note.event_id, note.by, note.reason) for note in parking_notes(failed, "writer")
    ] == [
        ("discarded", 6, "Ada", "written by hand"),
        ("retried", 6, "Ada", "the printer has paper again"),
    ]
    everything = {"name": "writer", "reason": "all is mended", "token": token}
    assert site.post("/subscription/retry", data=everything).status_code == 303
    assert {one.state for one in parked(failed, "writer")} == {"retrying"}


def test_the_notes_of_an_event_stay_when_it_is_handled(
    failed: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They page by number, and go after the limits that the documentation names."""
    site, token = writing(failed)
    site.post("/subscription/retry", data={"name": "writer", "reason": "new <paper>", "token": token})

    @subscription("writer", (CartCreated | ItemAddedToCart), key="cart_id", lanes=2, on_error=retry(1))
    def write(event: Event[Any]) -> None:
        """The printer works."""

    drain(failed, [write])
    assert parked(failed, "writer", discarded=True) == []
    page = site.get("/subscription.json?name=writer").json
    assert page and [
        (one["event_id"], one["key"], one["action"], one["by"], one["reason"])
        for one in page["parking_notes"]
    ] == [(7, "c6", "retried", "Ada", "new <paper>"), (6, "c5", "retried", "Ada", "new <paper>")]
    assert all(datetime.fromisoformat(one["at"]) for one in page["parking_notes"])
    assert "new &lt;paper&gt;" in site.get("/subscription?name=writer").get_data(as_text=True)
    monkeypatch.setattr(subscription_pages, "PAGE_OF_NOTES", 1)
    page = site.get("/subscription.json?name=writer").json
    assert page and [one["event_id"] for one in page["parking_notes"]] == [7]
    older = site.get(f"/subscription.json?name=writer&before={page['older_notes']}").json
    assert older and [one["event_id"] for one in older["parking_notes"]] == [6] and not older["older_notes"]
    rename(failed, "writer", "printer")
    assert [note.event_id for note in parking_notes(failed, "printer", event_id=6)] == [6]
    monkeypatch.setattr(notes, "MOST", 1)
    replay(failed, "printer", reason="nothing is parked")
    assert [note.event_id for note in parking_notes(failed, "printer")] == [7]
    failed.db.execute_sql("UPDATE my_app.events_notes SET at = at - interval '366 days'")
    replay(failed, "printer")
    assert parking_notes(failed, "printer") == []


@pytest.mark.parametrize("name", [None, False, True, "", "  ", 7])
def test_who_may_look_may_not_change(failed: EventClient, name: Any) -> None:
    """Without a name there are no forms, and a form that is sent all the same is refused."""
    site, token = writing(failed, name)
    assert token == ""
    site.set_cookie("pgevents_browser_form", "x" * 43)
    for action in ("retry", "discard"):
        refused = site.post(f"/subscription/{action}", data={**ONE, "token": "x" * 43})
        assert refused.status_code == 403
    assert site_of(failed).post("/subscription/retry", data=ONE).status_code == 403
    assert {one.note for one in parked(failed, "writer", discarded=True)} == {None}
    with pytest.raises(ConfigurationError, match="authorize_write"):
        browser(failed, authorize=lambda: True, authorize_write="Ada")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({"token": None}, {}),
        ({"token": "guessed"}, {}),
        ({}, {"Origin": "https://evil.example"}),
        ({}, {"Origin": "null"}),
        ({}, {"Sec-Fetch-Site": "cross-site"}),
        ({}, {"Sec-Fetch-Site": "same-site"}),
    ],
)
def test_a_form_of_another_site_is_refused(
    failed: EventClient, form: dict[str, Any], headers: dict[str, str]
) -> None:
    """It has no token, or the browser says where it comes from."""
    site, token = writing(failed)
    data = {name: value for name, value in {**ONE, "token": token, **form}.items() if value is not None}
    assert site.post("/subscription/discard", data=data, headers=headers).status_code == 403
    assert {one.note for one in parked(failed, "writer", discarded=True)} == {None}
    fine = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert site.post("/subscription/discard", data={**data, "token": token}, headers=fine).status_code == 303


def test_a_form_that_cannot_be_meant_is_refused(failed: EventClient) -> None:
    """No reason, no event, no such event, no such subscription: nothing happens."""
    site, token = writing(failed)
    for action, change in (
        ("discard", {"reason": " "}),
        ("retry", {"reason": ""}),
        ("discard", {"event_id": ""}),
        ("discard", {"event_id": "99"}),
        ("discard", {"name": "nobody"}),
        ("retry", {"reason": "\0"}),
    ):
        refused = site.post(f"/subscription/{action}", data={**ONE, "token": token, **change})
        assert refused.status_code == 400, change
    assert {one.note for one in parked(failed, "writer", discarded=True)} == {None}
