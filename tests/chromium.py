"""Chromium without a window, for tests of what a person sees."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")


class Browser:
    """Chromium without a window, by the WebDriver protocol."""

    def __init__(self, port: int, folder: str, *more: str) -> None:
        self._driver = f"http://127.0.0.1:{port}"
        self._path = "/session"
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={folder}",
            *more,
        ]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "timeouts": {"implicit": 5000}}
        wanted["goog:loggingPrefs"] = {"browser": "ALL"}
        self._path += "/" + self._call("", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._driver + self._path + path, data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["value"]

    def go(self, url: str) -> None:
        self._call("/url", {"url": url})

    def _ask(self, selector: str, question: str, body: Any = None) -> Any:
        """About an element, which a page that is just leaving may take away.

        The driver has several words for that. To look again does no harm; a click is done again only if there
        was nothing to click.
        """
        deadline = time.monotonic() + 10
        while True:
            try:
                found: dict[str, str] = self._call("/element", {"using": "css selector", "value": selector})
                return self._call(f"/element/{next(iter(found.values()))}/{question}", body)
            except urllib.error.HTTPError as error:
                answer = error.read().decode()
                may_try_again = (
                    body is None or error.code == 404 or "does not belong to the document" in answer
                )
                if not may_try_again or time.monotonic() > deadline:
                    raise AssertionError(f"{selector}: {answer[:300]}") from None

    def click(self, selector: str) -> None:
        self._ask(selector, "click", {})

    def is_enabled(self, selector: str) -> bool:
        return bool(self._ask(selector, "enabled"))

    def sees(self, selector: str, text: str) -> bool:
        """Whether an element comes to hold the text, which may take a moment after a click."""
        deadline = time.monotonic() + 10
        while text not in self._ask(selector, "text"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def text(self, selector: str) -> str:
        return str(self._ask(selector, "text"))

    def run(self, script: str) -> Any:
        """What a script returns, in the page."""
        return self._call("/execute/sync", {"script": script, "args": []})

    def complaints(self) -> list[str]:
        """What the console has shown since it was last asked: errors, and what the policy forbade."""
        return [entry["message"] for entry in self._call("/se/log", {"type": "browser"})]

    def devtools(self, command: str, **params: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("/goog/cdp/execute", {"cmd": command, "params": params})

    def show(self, *, dark: bool = False, width: int = 1200, height: int = 860, zone: str = "UTC") -> None:
        """From now on, as by a person with such a window, such colours and such a time zone."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        self.devtools("Emulation.setTimezoneOverride", timezoneId=zone)

    def write(self, selector: str, text: str) -> None:
        """Write into a field, or press keys in it."""
        self._ask(selector, "value", {"text": text})

    def press(self, key: str) -> None:
        """Press a key where the focus is; `TAB` is U+E004."""
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("/screenshot")))

    def quit(self) -> None:
        self._call("", method="DELETE")


@pytest.fixture(scope="module")
def driver_port() -> Iterator[int]:
    """Where a driver listens, for the tests of one file."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: apt install chromium chromium-driver)"
        )
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        started = next(line for line in driver.stdout if "successfully on port" in line)
        yield int(started.rstrip(".\n").rsplit(" ", 1)[1])
        driver.terminate()


@pytest.fixture(scope="module")
def chromium(driver_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the tests of a file."""
    browser = Browser(driver_port, str(tmp_path_factory.mktemp("chromium")), "--window-size=1200,900")
    yield browser
    browser.quit()


@pytest.fixture
def open_browser(driver_port: int, tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Browsers, each with a profile of its own."""
    opened: list[Browser] = []

    def open_one(*more: str) -> Browser:
        opened.append(Browser(driver_port, str(tmp_path / f"profile{len(opened)}"), *more))
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.quit()
