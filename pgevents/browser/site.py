"""The blueprint: addresses, permissions, headers; each page as HTML and as JSON from the same data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from flask import (
    Blueprint,
    Response,
    abort,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.exceptions import HTTPException

from pgevents.browser.event import event_page
from pgevents.browser.filters import Filter, FilterError, check_text, number
from pgevents.browser.log import COUNT_LIMIT, chart_of, count_of, page_of
from pgevents.browser.things import projection_classes, thing_page
from pgevents.browser.types import types_page
from pgevents.browser.views import projection_page, projection_types, query_page
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, PgEventsError

__all__ = ["browser"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SLOWEST = "5s"
"""How long a statement of a page may take at the server."""

Page = Callable[..., Any]


def browser(
    client: EventClient,
    *,
    authorize: Callable[[], bool],
    projections: Iterable[type[Any]] | None = None,
    name: str = "pgevents_browser",
    url_prefix: str | None = "/pgevents",
) -> Blueprint:
    """A Flask blueprint that shows a client's log; it reads only.

    Args:
        client: The client whose log, views and types are shown.
        authorize: Called before each page, in the request: whether the person may see it. There is no
            default, because a log holds what customers did.
        projections: The projection classes to fold; by default all that the program has defined.
        name: The blueprint's name, for `url_for`.
        url_prefix: Where it stands.

    Returns:
        The blueprint, for `app.register_blueprint(...)`.

    Raises:
        ConfigurationError: `authorize` cannot be called, or `client` is not a client.

    Example:
        ```python
        app.register_blueprint(browser(client, authorize=lambda: session.get("role") == "admin"))
        ```
    """
    if not callable(authorize):
        raise ConfigurationError(
            "browser(client, authorize=...) takes a function that says whether the person of this request "
            f"may see the log, not {authorize!r}"
        )
    if not hasattr(client, "get_event_stream"):
        raise ConfigurationError(f"browser(client, ...) takes an event client, not {client!r}")
    given = None if projections is None else tuple(projections)
    site = Blueprint(
        name,
        __name__,
        url_prefix=url_prefix,
        template_folder="templates",
        static_folder="static",
        static_url_path="/assets",
    )

    @site.before_request
    def check() -> None:  # pyright: ignore[reportUnusedFunction]
        if authorize() is not True:
            abort(403)

    @site.after_request
    def secure(response: Response) -> Response:  # pyright: ignore[reportUnusedFunction]
        for header, value in HEADERS.items():
            response.headers[header] = value
        if request.endpoint == f"{name}.static":
            response.headers["Cache-Control"] = "max-age=3600"
        return response

    @site.errorhandler(HTTPException)
    def failed(error: HTTPException) -> Any:  # pyright: ignore[reportUnusedFunction]
        return _error(error.code or 500, error.name, error.description or "")

    @site.errorhandler(FilterError)
    def not_meant(error: FilterError) -> Any:  # pyright: ignore[reportUnusedFunction]
        return _error(400, "Not understood", str(error))

    @site.errorhandler(PgEventsError)
    def refused(error: PgEventsError) -> Any:  # pyright: ignore[reportUnusedFunction]
        return _error(503, "The store did not answer", str(error))

    def page(rule: str, template: str) -> Callable[[Page], Page]:
        """A page at an address, and its JSON at the same address with `.json`; None is 404."""

        def register(build: Page) -> Page:
            def answer(as_json: bool, **parts: Any) -> Any:
                with client.session.atomic():
                    client.session.execute(f"SET LOCAL statement_timeout = '{SLOWEST}'")
                    client.session.execute("SET TRANSACTION READ ONLY")
                    data = build(**parts)
                if data is None:
                    abort(404)
                if as_json:
                    return jsonify(data)
                return render_template(
                    f"pgevents_browser/{template}", **data, **_common(name, build.__name__)
                )

            for suffix, as_json in (("", False), (".json", True)):
                endpoint = build.__name__ + ("_json" if as_json else "")
                view = wraps(build)(_with(answer, as_json))
                site.add_url_rule(rule + suffix, endpoint, view)
            return build

        return register

    @page("/log", "log.html")
    def log() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted = Filter.of(request.args)
        before, after = number(request.args, "before"), number(request.args, "after")
        found = page_of(client, wanted, before, after)
        count = count_of(client, wanted)
        return {
            **found,
            "filter": _filter_json(wanted),
            "is_newest": before is None and after is None,
            "count": count,
            "count_limit": COUNT_LIMIT,
            "chart": chart_of(client, wanted),
            "links": {
                "older": None if found["older"] is None else wanted.query(before=found["older"]),
                "newer": None if found["newer"] is None else wanted.query(after=found["newer"]),
                "newest": wanted.query(),
            },
            "indexes": list(client.events.pgevents_spec.data_indexes),
        }

    @page("/events/<int:event_id>", "event.html")
    def event(event_id: int) -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        return event_page(client, event_id) if event_id < 2**63 else None

    @page("/thing", "thing.html")
    def thing() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted = Filter.of(request.args).where
        if len(wanted) != 1:
            raise FilterError("a thing is one identifier: thing?where=cart_id=c1")
        return thing_page(
            client,
            *wanted[0],
            projection_classes(given),
            view=request.args.get("view") or None,
            at=number(request.args, "at"),
            until=number(request.args, "until"),
        )

    @page("/projections", "projections.html")
    def projections_list() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return projection_types(client, projection_classes(given))

    @page("/views", "query.html")
    def query() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        wanted, kind = Filter.of(request.args), _wanted("type")
        order, after = request.args.get("order", "id"), request.args.get("after")
        found = query_page(client, kind, wanted.where, order, after)
        same = {"type": kind, "order": order}
        where = [("where", f"{field}={value}") for field, value in wanted.where]
        onward = (
            None if found["next"] is None else urlencode([*same.items(), *where, ("after", found["next"])])
        )
        return {**found, "links": {"next": onward, "first": urlencode([*same.items(), *where])}}

    @page("/view", "projection.html")
    def projection() -> dict[str, Any] | None:  # pyright: ignore[reportUnusedFunction]
        kind, view_id = _wanted("type"), _wanted("id")
        return projection_page(client, kind, view_id, projection_classes(given).get(kind))

    @page("/types", "types.html")
    def types() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return types_page(client)

    @site.get("/")
    def index() -> Any:  # pyright: ignore[reportUnusedFunction]
        return redirect(url_for(f"{name}.log"))

    return site


def _with(answer: Page, as_json: bool) -> Page:
    def view(**parts: Any) -> Any:
        return answer(as_json, **parts)

    return view


def _wanted(name: str) -> str:
    """What the query string must name."""
    value = request.args.get(name, "")
    check_text(value)
    if not value:
        raise FilterError(f"this page is about one {name}: ?{name}=...")
    return value


def _common(name: str, here: str) -> dict[str, Any]:
    """What every template gets."""
    return {
        "site": name,
        "here": here,
        "twin": f"{request.path}.json"
        + (f"?{request.query_string.decode()}" if request.query_string else ""),
    }


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


def _error(code: int, title: str, text: str) -> Any:
    if request.path.endswith(".json"):
        response = jsonify(error=title, message=text)
    else:
        blueprint = request.blueprint or ""
        page: Mapping[str, Any] = {"title": title, "text": text, "code": code, "twin": None, "here": ""}
        response = make_response(render_template("pgevents_browser/error.html", site=blueprint, **page))
    response.status_code = code
    return response
