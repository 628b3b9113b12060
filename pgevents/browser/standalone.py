"""The browser by itself, for one person on this machine: loopback only, a token in the address."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, abort, redirect, request
from werkzeug.serving import make_server

from pgevents.browser.blueprint import make_site
from pgevents.browser.lag import EVERY, Samples, take_samples
from pgevents.browser.security import same_text
from pgevents.client import EventClient

__all__ = ["make_app", "serve"]

log = logging.getLogger("pgevents")

COOKIE = "pgevents_token"
HOST = "127.0.0.1"


def make_app(
    client: EventClient,
    token: str,
    *,
    projections: Iterable[type[Any]] | None = None,
    writer: str | None = None,
) -> Flask:
    """A WSGI app that shows a client's log to whoever knows the token.

    Args:
        client: The client whose log is shown.
        token: What the address must carry once; a cookie carries it from then on.
        projections: As for `browser`.
        writer: The name of the person, if they may try parked events again and discard them.
    """
    app = Flask("pgevents.browser", static_folder=None)

    @app.before_request
    def admit() -> Any:  # pyright: ignore[reportUnusedFunction]
        host = request.host.rpartition(":")[0] or request.host
        if host not in (HOST, "localhost"):  # another name for this address: a page of somebody else's
            abort(403)
        given = request.args.get("token")
        if given is None or request.method != "GET":
            return None
        if not same_text(given, token):
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

    site = make_site(
        client,
        authorize=lambda: same_text(request.cookies.get(COOKIE, ""), token),
        authorize_write=lambda: writer,
        projections=projections,
        name="pgevents_browser",
        url_prefix=None,
    )
    app.register_blueprint(site.blueprint)
    app.extensions["pgevents_samples"] = site.samples
    return app


def serve(
    client: EventClient,
    *,
    port: int = 0,
    projections: Iterable[type[Any]] | None = None,
    writer: str | None = None,
    announce: Callable[[str], object] = print,
) -> None:
    """Serve the browser on this machine until it is interrupted.

    Args:
        client: The client whose log is shown.
        port: The port; 0 takes a free one.
        projections: As for `browser`.
        writer: As for `make_app`.
        announce: Called with the address once it is served.
    """
    token = secrets.token_urlsafe(24)
    app = make_app(client, token, projections=projections, writer=writer)
    server = make_server(HOST, port, app, threaded=True)
    stop = threading.Event()
    sampler = threading.Thread(
        target=_sample, args=(client, app.extensions["pgevents_samples"], stop), name="pgevents-samples"
    )
    sampler.start()
    try:
        announce(f"http://{HOST}:{server.server_port}/?token={token}")
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        stop.set()
        server.server_close()
        sampler.join()


def _sample(client: EventClient, samples: Samples, stop: threading.Event) -> None:
    """See every ten seconds how far behind subscriptions are; only here, and only in memory."""
    while not stop.wait(EVERY.total_seconds()):
        try:
            take_samples(client, samples)
        except Exception as error:  # the next turn tries again; the pages say what is wrong
            log.debug("subscriptions could not be looked at: %s", error)
        finally:
            if not client.db.is_closed():
                client.db.close()
