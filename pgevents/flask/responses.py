"""Error handlers that turn pgevents' errors into HTTP responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, current_app, jsonify, request
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    HTTPException,
    ServiceUnavailable,
    UnprocessableEntity,
)

from pgevents.errors import (
    ConcurrencyError,
    ConnectionLostError,
    DatabaseUnavailableError,
    EventEncodeError,
    IdempotencyError,
    InvalidValueError,
    NotInstalledError,
    RetryableError,
)
from pgevents.flask.pool import UnavailableError

__all__ = ["HANDLERS"]

RETRY_AFTER = 1
"""Seconds in the header Retry-After of a 503."""


def _respond(error: HTTPException, cause: Exception, **fields: Any) -> Response:
    """The error as JSON, or as the app's page for its code, whichever the request accepts.

    The handler of such a page finds the cause in `error.__cause__`.
    """
    error.__cause__ = cause
    accepted = request.accept_mimetypes
    if request.is_json or accepted["application/json"] > accepted["text/html"]:
        response = jsonify(error=error.name, message=error.description, **fields)
        response.status_code = error.code or 500
    else:
        response = current_app.make_response(current_app.handle_http_exception(error))
    if isinstance(error, ServiceUnavailable) and error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _conflict(error: ConcurrencyError) -> Response:
    ids = list(error.conflicting_ids)
    events = ", ".join(map(str, ids))
    text = f"Something came in between (events {events}). Nothing was changed: look again, then decide again."
    return _respond(Conflict(text), error, conflicting_ids=ids)


def _repeated(error: IdempotencyError) -> Response:
    text = "This idempotency key was used for something else before. Nothing was changed."
    return _respond(UnprocessableEntity(text), error, saved_ids=list(error.saved_ids))


def _busy(error: Exception) -> Response:
    current_app.logger.warning("%s", error)
    text = "The database is busy. Nothing was changed: try again in a moment."
    return _respond(ServiceUnavailable(text, retry_after=RETRY_AFTER), error)


def _away(error: DatabaseUnavailableError) -> Response:
    current_app.logger.error("%s", error)
    text = "The database cannot be reached. Nothing was changed: try again later."
    return _respond(ServiceUnavailable(text, retry_after=RETRY_AFTER), error)


def _bad_value(error: InvalidValueError) -> Response:
    current_app.logger.warning("%s", error)
    return _respond(BadRequest("A value of this request cannot be used. Nothing was changed."), error)


def _not_storable(error: EventEncodeError) -> Response:
    current_app.logger.warning("%s", error)
    text = "A value of this request cannot be stored. Nothing was changed."
    return _respond(UnprocessableEntity(text), error, field=error.field)


def _lost(error: ConnectionLostError) -> Response:
    """Without Retry-After, because the change may have been made already."""
    current_app.logger.warning("%s", error)
    text = "The connection to the database broke. Look whether it was done before you try again."
    return _respond(ServiceUnavailable(text), error)


def _not_installed(error: NotInstalledError) -> Response:
    current_app.logger.error("%s, or: flask pgevents init", error)
    return _respond(ServiceUnavailable("The event store is not set up yet: flask pgevents init"), error)


HANDLERS: dict[type[Exception], Callable[[Any], Response]] = {
    ConcurrencyError: _conflict,
    IdempotencyError: _repeated,
    RetryableError: _busy,
    UnavailableError: _busy,
    DatabaseUnavailableError: _away,
    InvalidValueError: _bad_value,
    EventEncodeError: _not_storable,
    ConnectionLostError: _lost,
    NotInstalledError: _not_installed,
}
