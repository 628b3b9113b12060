"""What the pages of one blueprint share: who may see and change, and each page as HTML and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from flask import Blueprint, Response, abort, jsonify, make_response, redirect, render_template, request
from werkzeug.exceptions import HTTPException

from pgevents.browser.classes import projection_classes
from pgevents.browser.filters import FilterError
from pgevents.browser.lag import Samples, plot
from pgevents.browser.log import is_table
from pgevents.browser.plugged import PageFailed, Plugged
from pgevents.browser.security import HEADERS, check_form, form_token, set_token
from pgevents.client import EventClient
from pgevents.errors import ConfigurationError, PgEventsError

__all__ = ["Site"]

SETTINGS = """\
SET TRANSACTION READ ONLY;
SET LOCAL statement_timeout = '5s';
SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off
"""
"""Of the transaction of a page.

A page takes the first rows of index ranges that may be long. The planner knows nothing of the values of
expressions, takes each range for a short one, and would read the whole of it to sort it.
"""

Page = Callable[..., Any]
Writer = Callable[[], "str | None"]


class Site:
    """The pages of one blueprint.

    Attributes:
        client: The client whose log is shown.
        blueprint: Where the pages stand.
        name: The blueprint's name.
        samples: How far behind subscriptions were, as this process saw it.
        plugged: What the client's plugins add.
    """

    def __init__(
        self,
        client: EventClient,
        blueprint: Blueprint,
        authorize: Callable[[], bool],
        authorize_write: Writer | None,
        projections: Iterable[type[Any]] | None,
    ) -> None:
        """Nothing is asked of the database yet; arguments as for `browser`."""
        self.client = client
        self.blueprint = blueprint
        self.name = blueprint.name
        self.samples = Samples()
        self.plugged = Plugged(client)
        self._authorize = authorize
        self._authorize_write = authorize_write
        self._given = None if projections is None else tuple(projections)
        self._cookie = f"{blueprint.name}_form"
        blueprint.before_request(self._check)
        blueprint.after_request(self._secure)
        blueprint.errorhandler(HTTPException)(self._failed)
        blueprint.errorhandler(FilterError)(self._not_meant)
        blueprint.errorhandler(PgEventsError)(self._refused)
        blueprint.errorhandler(PageFailed)(self._plugin_failed)

    @property
    def classes(self) -> dict[str, type[Any]]:
        """The projection classes that pages can fold, by type."""
        return projection_classes(self._given)

    @property
    def writer(self) -> str | None:
        """The name of the person of this request, if they may change something."""
        name: Any = None if self._authorize_write is None else self._authorize_write()
        return name if isinstance(name, str) and name.strip() else None

    def page(self, rule: str, template: str, *, add: Page | None = None) -> Callable[[Page], Page]:
        """A page at an address, and its JSON at the same address with `.json`.

        Args:
            rule: The address.
            template: Its template.
            add: Adds what plugins have to say to the page's data, outside of its transaction.
        """

        def register(build: Page) -> Page:
            for suffix, as_json in (("", False), (".json", True)):
                endpoint = build.__name__ + ("_json" if as_json else "")
                view = wraps(build)(self._view(build, template, add, as_json))
                self.blueprint.add_url_rule(rule + suffix, endpoint, view)
            return build

        return register

    def _view(self, build: Page, template: str, add: Page | None, as_json: bool) -> Page:
        """The view function of a page, whose `build` gives its data, or None for 404.

        With `redirect` in the data, the HTML is at that address.
        """

        def view(**parts: Any) -> Any:
            session = self.client.session
            with session.atomic():
                session.execute(SETTINGS)
                data = build(**parts)
            if data is None:
                abort(404, "There is nothing here: no such event, view, subscription or page.")
            if add is not None:
                data["plugged"] = add(data)
            onward = data.pop("redirect", None)
            if as_json:
                return jsonify(data)
            return redirect(onward) if onward else self._render(template, build.__name__, data)

        return view

    def action(self, rule: str) -> Callable[[Page], Page]:
        """A form's address: for who may change something, and from a page of this site only."""

        def register(act: Page) -> Page:
            @wraps(act)
            def view(**parts: Any) -> Any:
                writer = self.writer
                if writer is None:
                    abort(403, "You may look, and change nothing.")
                check_form(self._cookie)
                try:
                    return act(writer, **parts)
                except ConfigurationError as error:
                    raise FilterError(str(error)) from error

            self.blueprint.add_url_rule(rule, act.__name__, view, methods=["POST"])
            return act

        return register

    def _render(self, template: str, here: str, data: dict[str, Any]) -> str:
        """A page as HTML."""
        writer = self.writer
        query = request.query_string.decode()
        return render_template(
            f"pgevents_browser/{template}",
            **data,
            **self._frame(here),
            twin=f"{request.path}.json" + (f"?{query}" if query else ""),
            writer=writer,
            token=None if writer is None else form_token(self._cookie),
        )

    def _frame(self, here: str) -> dict[str, Any]:
        """What the frame of every page needs."""
        return {
            "site": self.name,
            "here": here,
            "plugged_pages": self.plugged.titles,
            "plot": plot,
            "is_table": is_table,
        }

    def _check(self) -> None:
        if self._authorize() is not True:
            abort(403)

    def _secure(self, response: Response) -> Response:
        for header, value in HEADERS.items():
            response.headers[header] = value
        if request.endpoint == f"{self.name}.static":
            response.headers["Cache-Control"] = "max-age=3600"
        set_token(response, self._cookie, self.blueprint.url_prefix or "/")
        return response

    def _failed(self, error: HTTPException) -> Any:
        return self._error(error.code or 500, error.name, error.description or "")

    def _not_meant(self, error: FilterError) -> Any:
        return self._error(400, "Not understood", str(error))

    def _refused(self, error: PgEventsError) -> Any:
        return self._error(503, "The store did not answer", str(error))

    def _plugin_failed(self, error: PageFailed) -> Any:
        return self._error(500, "The plugin's page failed", str(error))

    def _error(self, code: int, title: str, text: str) -> Any:
        if request.path.endswith(".json"):
            response = jsonify(error=title, message=text)
        else:
            page = render_template(
                "pgevents_browser/error.html", title=title, text=text, code=code, twin=None, **self._frame("")
            )
            response = make_response(page)
        response.status_code = code
        return response
