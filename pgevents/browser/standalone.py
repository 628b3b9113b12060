"""The browser by itself, for one person on this machine: loopback only, a token in the address."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, abort, redirect, request
from werkzeug.serving import make_server

from pgevents.browser.site import browser
from pgevents.client import EventClient

__all__ = ["make_app", "serve"]

COOKIE = "pgevents_token"
HOST = "127.0.0.1"


def make_app(client: EventClient, token: str, *, projections: Iterable[type[Any]] | None = None) -> Flask:
    """A WSGI app that shows a client's log to whoever knows the token.

    Args:
        client: The client whose log is shown.
        token: What the address must carry once; a cookie carries it from then on.
        projections: As for `browser`.
    """
    app = Flask("pgevents.browser", static_folder=None)

    @app.before_request
    def admit() -> Any:  # pyright: ignore[reportUnusedFunction]
        host = request.host.rpartition(":")[0] or request.host
        if host not in (HOST, "localhost"):  # another name for this address: a page of somebody else's
            abort(403)
        given = request.args.get("token")
        if given is None:
            return None
        if not _is(given, token):
            abort(403)
        response = redirect(request.path)
        response.set_cookie(COOKIE, token, httponly=True, samesite="Strict")
        return response

    @app.teardown_request
    def close(error: BaseException | None) -> None:  # pyright: ignore[reportUnusedFunction]
        if not client.db.is_closed():
            client.db.close()

    @app.get("/favicon.ico")
    def icon() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(status=204)

    app.register_blueprint(
        browser(
            client,
            authorize=lambda: _is(request.cookies.get(COOKIE, ""), token),
            projections=projections,
            url_prefix=None,
        )
    )
    return app


def serve(
    client: EventClient,
    *,
    port: int = 0,
    projections: Iterable[type[Any]] | None = None,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve the browser on this machine until it is interrupted.

    Args:
        client: The client whose log is shown.
        port: The port; 0 takes a free one.
        projections: As for `browser`.
        announce: Called with the address once it is served.
    """
    token = secrets.token_urlsafe(24)
    server = make_server(HOST, port, make_app(client, token, projections=projections), threaded=True)
    announce(f"http://{HOST}:{server.server_port}/?token={token}")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def _is(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
