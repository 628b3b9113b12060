"""Events in the forms of other tools: JSON Schema, AsyncAPI, CloudEvents, and typed SQL views."""

from pgevents.exchange.cloudevents import ReceivedCloudEvent, from_cloudevent, to_cloudevent
from pgevents.exchange.schemas import asyncapi, json_schema
from pgevents.exchange.sql_views import EventView, create_views

__all__ = [
    "EventView",
    "ReceivedCloudEvent",
    "asyncapi",
    "create_views",
    "from_cloudevent",
    "json_schema",
    "to_cloudevent",
]
