"""A plugin that writes user and request into the metadata of events."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Sequence
from typing import cast

import attrs
from flask import Response, g, has_request_context, request

from pgevents.events import NewEvent
from pgevents.hooks.specs import hookimpl

__all__ = ["RequestMetadata", "name_response", "request_id"]


def request_id() -> str:
    """The id of the current request: its `X-Request-ID` header if that is safe to log, else a new id.

    The response has it in the same header.
    """
    if "pgevents_request_id" not in g:
        given = request.headers.get("X-Request-ID", "")
        g.pgevents_request_id = (
            given if re.fullmatch(r"[\w.:/+=@-]{1,128}", given, re.ASCII) else uuid.uuid4().hex
        )
    return cast(str, g.pgevents_request_id)


def name_response(response: Response) -> Response:
    """Add the request's id to the response."""
    response.headers.setdefault("X-Request-ID", request_id())
    return response


@attrs.frozen
class RequestMetadata:
    """The plugin that writes `request_id` and `user` into the metadata of events that are saved in a request.

    Attributes:
        user: Returns the user of the current request, or None.
    """

    user: Callable[[], object] | None = None

    @hookimpl
    def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent] | None:
        """Add the metadata; metadata that the caller gave win."""
        if not has_request_context():
            return None
        added: dict[str, object] = {"request_id": request_id()}
        user = self.user() if self.user is not None else None
        if user is not None:
            added["user"] = user if isinstance(user, (str, int)) else str(user)
        return [attrs.evolve(new, metadata={**added, **new.metadata}) for new in events]
