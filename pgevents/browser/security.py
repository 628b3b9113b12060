"""What every answer of the browser carries, and how a form proves that it comes from one of its pages."""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from flask import Response, abort, g, request

__all__ = ["HEADERS", "check_form", "form_token", "same_text", "set_token"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def same_text(given: str, wanted: str) -> bool:
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def form_token(cookie: str) -> str:
    """The token of this person's forms; a new one is set as a cookie at the end of the request."""
    token = request.cookies.get(cookie, "")
    if len(token) < 32:
        token = g.get("pgevents_form_token") or secrets.token_urlsafe(32)
        g.pgevents_form_token = token
    return token


def set_token(response: Response, cookie: str, path: str) -> None:
    """Set the cookie of a token that this request made."""
    token = g.get("pgevents_form_token")
    if token is not None:
        is_secure = request.is_secure
        response.set_cookie(cookie, token, httponly=True, samesite="Strict", secure=is_secure, path=path)


def check_form(cookie: str) -> None:
    """Refuse (403) a form that another site sent: its token, its origin, and what the browser says of it."""
    token, given = request.cookies.get(cookie, ""), request.form.get("token", "")
    origin, fetched_by = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "same-origin")
    if len(token) < 32 or not same_text(given, token):
        abort(403, "This form is too old, or does not come from this page. Load the page again.")
    if fetched_by != "same-origin" or (origin is not None and urlsplit(origin).netloc != request.host):
        abort(403, "This form comes from another site.")
