"""Events in the forms of other tools: JSON Schema, AsyncAPI, CloudEvents, typed SQL views and Parquet."""

from pgevents.exchange.cloudevents import ReceivedCloudEvent, from_cloudevent, to_cloudevent
from pgevents.exchange.parquet import ParquetExport, export_parquet
from pgevents.exchange.schemas import asyncapi, json_schema
from pgevents.exchange.sql_views import EventView, create_views

__all__ = [
    "EventView",
    "ParquetExport",
    "ReceivedCloudEvent",
    "asyncapi",
    "create_views",
    "export_parquet",
    "from_cloudevent",
    "json_schema",
    "to_cloudevent",
]
