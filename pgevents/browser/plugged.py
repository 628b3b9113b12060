"""What a client's plugins add to the browser: links on events and identifiers, and pages of their own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from flask import render_template_string

from pgevents.client import EventClient
from pgevents.events import StoredEvent
from pgevents.hooks.details import BrowserLink, BrowserPage

__all__ = ["PageFailed", "Plugged"]

log = logging.getLogger("pgevents")

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9-]{1,60}")
ADDRESS = re.compile(r"(https?://|/(?![/\\]))[^\s\\]*", re.IGNORECASE)


class PageFailed(Exception):
    """A plugin's page raised an error; the message says which."""


class Plugged:
    """The browser's side of the hooks for it."""

    def __init__(self, client: EventClient) -> None:
        self._client = client

    @property
    def titles(self) -> list[tuple[str, str]]:
        """Name and title of each page."""
        return [(page.name, page.title) for page in self._pages()]

    def event_links(self, shown: Mapping[str, Any]) -> list[dict[str, str]]:
        """Links of the event of a page."""
        event = shown["event"]
        stored = StoredEvent(
            event["id"], event["type"], shown["version"], event["data"], dict(event["metadata"])
        )
        return self._links("pgevents_browser_event_links", event=stored)

    def identifier_links(self, shown: Mapping[str, Any]) -> list[dict[str, str]]:
        """Links of the identifier of a page."""
        return self._links("pgevents_browser_identifier_links", field=shown["field"], value=shown["value"])

    def show(self, name: str, query: Mapping[str, str]) -> dict[str, Any] | None:
        """The data of a plugin's page; None if there is no such page."""
        page = next((page for page in self._pages() if page.name == name), None)
        if page is None:
            return None
        try:
            data = page.show(dict(query.items()))
        except Exception as error:  # a plugin's code: whatever it raises is shown
            raise PageFailed(f"{type(error).__name__}: {error}") from error
        return None if data is None else {"title": page.title, "name": page.name, "data": data}

    def content(self, shown: Mapping[str, Any]) -> str | None:
        """The HTML of a page with its own template; else None."""
        page = next(page for page in self._pages() if page.name == shown["name"])
        return None if page.template is None else render_template_string(page.template, data=shown["data"])

    def _links(self, hook: str, **arguments: Any) -> list[dict[str, str]]:
        found: list[dict[str, str]] = []
        for link in self._results(hook, BrowserLink, **arguments):
            if ADDRESS.fullmatch(link.url):
                found.append({"label": link.label, "url": link.url})
            else:
                log.warning("a plugin's link %r leads to %r, which the browser does not open", *_said(link))
        return found

    def _pages(self) -> list[BrowserPage]:
        found: dict[str, BrowserPage] = {}
        for page in self._results("pgevents_browser_pages", BrowserPage):
            if NAME.fullmatch(page.name):
                found.setdefault(page.name, page)
            else:
                log.warning("a plugin's page is named %r: write small letters, digits and hyphens", page.name)
        return list(found.values())

    def _results(self, hook: str, kind: type[T], **arguments: Any) -> Iterable[T]:
        """What the plugins gave, in the order of their registration."""
        plugins = self._client.plugins
        if hook not in plugins.implemented:
            return
        results: list[Any] = list(plugins.notify(hook, **arguments))
        for given in reversed(results):
            for page in given if isinstance(given, Iterable) else ():  # pyright: ignore[reportUnknownVariableType]
                if isinstance(page, kind):
                    yield page
                else:
                    log.warning("%s gives %ss only", hook, kind.__name__)


def _said(link: BrowserLink) -> tuple[str, str]:
    return link.label[:80], link.url[:80]
