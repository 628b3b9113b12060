"""Sites on a shop's log, and what a browser would act on in their pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server

from pgevents import EventClient
from pgevents.browser import browser, make_app

from ..shop import CartProjection

SCRIPT = "<script>document.title='taken'</script>"


def site_of(
    client: EventClient,
    authorize: Callable[[], bool] = lambda: True,
    authorize_write: Callable[[], str | None] | None = None,
) -> FlaskClient:
    app = Flask("shop")
    app.register_blueprint(
        browser(
            client,
            authorize=authorize,
            authorize_write=authorize_write,
            projections=[CartProjection],
            url_prefix=None,
        )
    )
    return app.test_client()


@contextmanager
def served(
    client: EventClient, projections: Iterable[type[Any]] = (CartProjection,), writer: str | None = None
) -> Iterator[str]:
    """The standalone site at an address; its token is `secret`."""
    app = make_app(client, "secret", projections=projections, writer=writer)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Tags(HTMLParser):
    """The tags of a page, and the attributes that a browser would act on."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[str | None] = []
        self.odd: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src"))
        self.odd += [name for name in given if name.startswith("on") or name == "style"]
        address = given.get("href") or given.get("src") or given.get("action") or ""
        if ":" in address.partition("/")[0] and not address.startswith("data:,"):
            self.odd.append(address)
