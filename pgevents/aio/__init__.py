"""pgevents for programs on asyncio: the same calls, awaited, on threads with a connection each."""

from pgevents.aio.client import AsyncEventClient
from pgevents.aio.running import AsyncRunner, subscription

__all__ = ["AsyncEventClient", "AsyncRunner", "subscription"]
