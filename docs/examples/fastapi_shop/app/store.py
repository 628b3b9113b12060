"""The event store of the program: one client a process, and its connections."""

import os

from fastapi import Request

from pgevents import create_event_client, create_events_table, create_projections_table
from pgevents.aio import AsyncEventClient

CONNECTIONS = int(os.environ.get("APP_CONNECTIONS", "5"))


def open_store() -> AsyncEventClient:
    """A client whose calls are awaited. It knows the event classes that were imported before."""
    client = create_event_client(
        os.environ["DATABASE_URL"],
        create_events_table("booking", data_indexes=["tea", "night"]),
        create_projections_table("booking"),
    )
    return AsyncEventClient(client, connections=CONNECTIONS)


async def current_store(request: Request) -> AsyncEventClient:
    return request.app.state.store
