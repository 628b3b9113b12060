"""What may be changed in the browser: parked events are tried again or discarded, with name and reason."""

from __future__ import annotations

import logging
from typing import Any

from flask import redirect, request, url_for

from pgevents.browser.filters import FilterError, check_text, number
from pgevents.browser.site import Site
from pgevents.subscriptions import discard, replay

__all__ = ["add_actions"]

log = logging.getLogger("pgevents")


def add_actions(site: Site) -> None:
    """Add the addresses of the forms to a blueprint."""
    client = site.client

    @site.action("/subscription/retry")
    def retry_parked(writer: str) -> Any:  # pyright: ignore[reportUnusedFunction]
        name, reason, event_id = _given("name"), _given("reason"), number(request.form, "event_id")
        key = None if event_id is None else request.form.get("key")
        count = replay(client, name, key, event_id, reason=reason, by=writer)
        log.info("%s tries %d parked events of %r again: %s", writer, count, name, reason)
        return _back(site, name, f"retried-{count}")

    @site.action("/subscription/discard")
    def discard_parked(writer: str) -> Any:  # pyright: ignore[reportUnusedFunction]
        name, reason, event_id = _given("name"), _given("reason"), number(request.form, "event_id")
        if event_id is None:
            raise FilterError("which event? The form names its id")
        discard(client, name, event_id, reason, request.form.get("key"), by=writer)
        log.info("%s discards event %d, parked in %r: %s", writer, event_id, name, reason)
        return _back(site, name, f"discarded-{event_id}")


def _given(field: str) -> str:
    """What the form must hold."""
    value = request.form.get(field, "").strip()
    check_text(value)
    if not value:
        raise FilterError(
            "say why: the reason is kept with your name" if field == "reason" else f"the form has no {field}"
        )
    return value


def _back(site: Site, name: str, done: str) -> Any:
    return redirect(url_for(f"{site.name}.subscription", name=name, done=done), code=303)
