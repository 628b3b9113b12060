"""The pages, and what the query string of each may hold."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import redirect, request, url_for

from pgevents.browser.event import event_page
from pgevents.browser.filters import LARGEST_ID, Filter, FilterError, check_text, number
from pgevents.browser.find import find
from pgevents.browser.health import health_page
from pgevents.browser.identifier import identifier_page
from pgevents.browser.log import COUNT_LIMIT, chart_of, count_of, page_of
from pgevents.browser.site import Site
from pgevents.browser.subscriptions import subscription_page, subscriptions_page
from pgevents.browser.types import type_names, types_page
from pgevents.browser.views import projection_page, projection_types, query_page

__all__ = ["add_pages"]


def add_pages(site: Site) -> None:
    """Add them to a blueprint."""
    _add_log(site)
    _add_events(site)
    _add_views(site)
    _add_operation(site)


def _add_log(site: Site) -> None:
    client = site.client

    @site.page("/log", "log.html")
    def log() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted = Filter.of(request.args)
        before, after = number(request.args, "before"), number(request.args, "after")
        found = page_of(client, wanted, before, after)
        return {
            **found,
            "filter": _filter_json(wanted),
            "is_newest": before is None and after is None,
            "count": count_of(client, wanted),
            "count_limit": COUNT_LIMIT,
            "chart": chart_of(client, wanted),
            "links": {
                "older": None if found["older"] is None else wanted.query(before=found["older"]),
                "newer": None if found["newer"] is None else wanted.query(after=found["newer"]),
                "newest": wanted.query(),
            },
            "indexes": list(client.events.pgevents_spec.data_indexes),
            "types": type_names(client),
        }

    @site.page("/types", "types.html")
    def types() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return types_page(client)

    @site.blueprint.get("/")
    def index() -> Any:  # pyright: ignore[reportUnusedFunction]
        return redirect(url_for(f"{site.name}.log"))


def _add_events(site: Site) -> None:
    client = site.client

    @site.page("/events/<int:event_id>", "event.html", add=site.plugged.event_links)
    def event(event_id: int) -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        return event_page(client, event_id) if event_id <= LARGEST_ID else None

    @site.page("/identifier", "identifier.html", add=site.plugged.identifier_links)
    def identifier() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted = Filter.of(request.args).where
        if len(wanted) != 1:
            raise FilterError("this page is about one identifier: identifier?where=cart_id=c1")
        return identifier_page(
            client,
            *wanted[0],
            site.classes,
            view=request.args.get("view") or None,
            at=number(request.args, "at"),
            until=number(request.args, "until"),
            is_patient=request.args.get("fold") == "all",
        )

    @site.page("/find", "find.html")
    def found() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        text = request.args.get("q", "").strip()
        check_text(text)
        results = find(client, text)
        return {**results, "redirect": _only(site, results)}


def _add_views(site: Site) -> None:
    client = site.client

    @site.page("/projections", "projections.html")
    def projections_list() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return projection_types(client, site.classes)

    @site.page("/views", "query.html")
    def query() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted, name = Filter.of(request.args), _wanted("type")
        order, after = request.args.get("order", "id"), request.args.get("after")
        found = query_page(client, name, wanted.where, order, after)
        same = {"type": name, "order": order}
        where = [("where", f"{field}={value}") for field, value in wanted.where]
        onward = (
            None if found["next"] is None else urlencode([*same.items(), *where, ("after", found["next"])])
        )
        return {**found, "links": {"next": onward, "first": urlencode([*same.items(), *where])}}

    @site.page("/view", "projection.html")
    def projection() -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        name, view_id = _wanted("type"), _wanted("id")
        is_patient = request.args.get("fold") == "all"
        return projection_page(client, name, view_id, site.classes.get(name), is_patient=is_patient)


def _add_operation(site: Site) -> None:
    client = site.client

    @site.page("/subscriptions", "subscriptions.html")
    def subscriptions() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return subscriptions_page(client, site.samples)

    @site.page("/subscription", "subscription.html")
    def subscription() -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        found = subscription_page(
            client,
            _wanted("name"),
            site.samples,
            key=request.args.get("key"),
            discarded=request.args.get("discarded") == "yes",
            after=request.args.get("after"),
            before=number(request.args, "before"),
        )
        return None if found is None else {**found, "done": request.args.get("done")}

    @site.page("/health", "health.html")
    def health() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return health_page(client)

    @site.page("/plugin/<page>", "plugged.html", add=site.plugged.content)
    def plugged(page: str) -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        return site.plugged.show(page, request.args)


def _only(site: Site, found: dict[str, Any]) -> str | None:
    """The address of what was found, if it is one thing alone."""
    event, identifiers, views = found["event"], found["identifiers"], found["views"]
    if event is not None and not identifiers and not views:
        return url_for(f"{site.name}.event", event_id=event["id"])
    if event is None and len(identifiers) == 1 and len(views) <= 1:
        return url_for(f"{site.name}.identifier", where="{field}={value}".format(**identifiers[0]))
    if event is None and not identifiers and len(views) == 1:
        return url_for(f"{site.name}.projection", **views[0])
    return None


def _wanted(name: str) -> str:
    """What the query string must name."""
    value = request.args.get(name, "")
    check_text(value)
    if not value:
        raise FilterError(f"this page is about one {name}: ?{name}=...")
    return value


def _filter_json(wanted: Filter) -> dict[str, Any]:
    return {
        "type": list(wanted.types),
        "where": [f"{field}={value}" for field, value in wanted.where],
        "meta": [f"{key}={value}" for key, value in wanted.metadata],
        "since": None if wanted.since is None else wanted.since.isoformat(),
        "until": None if wanted.until is None else wanted.until.isoformat(),
        "text": wanted.text,
        "is_empty": wanted.is_empty,
    }
