"""`WebhookPublisher`: messages as signed HTTP requests, and their check at the receiver."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from pgevents.errors import ConfigurationError
from pgevents.relays.messages import CONTENT_TYPE, Message, PublishError

__all__ = ["WebhookPublisher", "verify_webhook"]

PREFIX = "whsec_"
TOLERANCE = 300.0
SHORTEST = 24
"""Bytes of a secret, as Standard Webhooks asks for."""


class WebhookPublisher:
    """Posts each message to a URL, signed as Standard Webhooks says (https://www.standardwebhooks.com).

    The headers are `webhook-id`, `webhook-timestamp` and `webhook-signature`, and `webhook-fence`. An answer
    of 200 to 299 confirms; every other one is an error, a redirect too.

    Args:
        url: Where to; https, or http within a network of your own.
        secret: "whsec_" and base64 of 24 bytes or more, which the receiver has, too.
        timeout: Seconds for the request. Keep twice as much below the relay's lease.

    Raises:
        ConfigurationError: A URL or a secret that cannot be used. Neither is repeated.

    Example:
        ```python
        hook = WebhookPublisher("https://partner.example/events", secret=os.environ["PARTNER_SECRET"])
        ```
    """

    def __init__(self, url: str, *, secret: str, timeout: float = 10.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
            raise ConfigurationError(
                "a webhook's URL is http(s)://host/path, without a user's name or a fragment"
            )
        if not 0 < timeout < float("inf"):
            raise ConfigurationError(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._secret = _secret(secret)
        self._timeout = timeout
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def publish(self, message: Message) -> None:
        """Post a message.

        Raises:
            PublishError: No answer, or one that does not confirm.
        """
        timestamp = str(int(time.time()))
        headers = {
            "content-type": CONTENT_TYPE,
            "webhook-id": message.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": _signature(self._secret, message.id, timestamp, message.body),
            "webhook-fence": str(message.fence),
        }
        connection = self._kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", self._path, message.body, headers)
            response = connection.getresponse()
            status, text = response.status, response.read(200)
        except (OSError, HTTPException) as error:
            raise PublishError(
                f"no answer from {self._host} to event {message.id}: {type(error).__name__}: {error}"
            ) from error
        finally:
            connection.close()
        if not 200 <= status < 300:
            shown = text.decode("utf-8", "replace")
            raise PublishError(f"{self._host} answered {status} to event {message.id}: {shown}")

    def close(self) -> None:
        """Nothing: each request has a connection of its own."""


def verify_webhook(
    headers: Mapping[str, str], body: bytes, *, secret: str, tolerance: float = TOLERANCE
) -> str:
    """Check at the receiver that a webhook is recent, and that its sender has the secret.

    Args:
        headers: Of the request.
        body: The bytes as they were received, not parsed and encoded again.
        secret: The secret that the publisher has.
        tolerance: How many seconds the request may be old, or ahead.

    Returns:
        The message's id; drop the message if it was handled before.

    Raises:
        ValueError: The signature is missing or wrong, or the request is too old.
        ConfigurationError: A secret that cannot be used.

    Example:
        ```python
        event_id = verify_webhook(request.headers, request.get_data(), secret=SECRET)
        received = from_cloudevent(request.get_data())
        ```
    """
    given = {name.lower(): value for name, value in headers.items()}
    message_id, timestamp = given.get("webhook-id", ""), given.get("webhook-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdecimal():
        raise ValueError("the webhook has no timestamp")
    if abs(time.time() - int(timestamp)) > tolerance:
        raise ValueError("the webhook is too old, or ahead of this clock")
    expected = _signature(_secret(secret), message_id, timestamp, body).encode()
    signatures = given.get("webhook-signature", "").split()
    if not any(hmac.compare_digest(expected, signature.encode()) for signature in signatures):
        raise ValueError("the webhook's signature is missing or wrong")
    return message_id


def _signature(secret: bytes, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def _secret(secret: str) -> bytes:
    try:
        decoded = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) < SHORTEST:
        raise ConfigurationError(
            f'a webhook\'s secret is "{PREFIX}" and base64 of {SHORTEST} bytes or more, made once by: '
            "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return decoded
