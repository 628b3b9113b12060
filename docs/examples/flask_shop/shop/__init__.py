"""A small tea shop on pgevents: pages, a JSON API, and one last tin that everybody wants.

- `domain.py`: events, views and decisions
- `carts.py`: what a customer can do
- `pages.py`, `api.py`: by browser, by program
- `security.py`: the secret of the sessions, and forms that only this shop's pages can post
"""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app, render_template, session
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Conflict, HTTPException

from pgevents.flask import PgEvents

from .api import api
from .carts import stock_the_shelf
from .domain import Refused, ShopEvent
from .pages import pages
from .security import kept_secret, protect_forms

events = PgEvents(event_types=ShopEvent, user=lambda: session.get("cart_id"), demo=stock_the_shelf)


def create_app(**config: Any) -> Flask:
    """The app; settings come from here, or from the environment with the prefix FLASK_."""
    app = Flask(__name__)
    app.config.from_mapping(
        SESSION_COOKIE_SAMESITE="Lax",
        MAX_CONTENT_LENGTH=16_384,
        PGEVENTS_DATABASE_URL="embedded",
        PGEVENTS_SCHEMA="tea_shop",
        PGEVENTS_DATA_INDEXES=["cart_id", "tea_id"],
    )
    app.config.from_prefixed_env()
    app.config.from_mapping(config)
    if not app.config["SECRET_KEY"]:
        app.config["SECRET_KEY"] = kept_secret(app.instance_path)
    protect_forms(app)
    events.init_app(app)
    app.register_blueprint(pages)
    app.register_blueprint(api)
    app.register_error_handler(Refused, refused)
    app.register_error_handler(HTTPException, problem)
    app.add_template_filter(money)
    return app


def money(pence: int) -> str:
    return f"£{pence / 100:,.2f}"


def refused(error: Refused) -> ResponseReturnValue:
    return current_app.handle_http_exception(Conflict(str(error)))


def problem(error: HTTPException) -> ResponseReturnValue:
    return render_template("problem.html", error=error), error.code or 500
