"""The client of an event store: what a program calls, by topic."""

from pgevents.client.factory import EventClient, create_event_client
from pgevents.client.projecting import use_maker

__all__ = ["EventClient", "create_event_client", "use_maker"]
