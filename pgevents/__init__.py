"""A PostgreSQL database as an event store: events, validated saves, projections, hooks."""

from pgevents.client import EventClient, create_event_client
from pgevents.comparisons import (
    Comparison,
    all_of,
    at_least,
    at_most,
    between,
    is_not,
    less_than,
    more_than,
    one_of,
)
from pgevents.distribution import warn_about_namesake
from pgevents.errors import (
    AppendOnlyError,
    ConcurrencyError,
    ConfigurationError,
    ConnectionLostError,
    DatabaseError,
    DatabaseUnavailableError,
    EventDecodeError,
    EventEncodeError,
    IdempotencyError,
    IncompleteViewsError,
    InvalidValueError,
    MovedError,
    NotInstalledError,
    PgEventsError,
    PluginError,
    RetryableError,
    StagedEventsError,
    TenantsError,
    UnknownEventTypeError,
    UnsupportedTransactionError,
)
from pgevents.event_decorator import event
from pgevents.events import Event, NewEvent, StoredEvent, UndecodedData
from pgevents.fields import many
from pgevents.hooks.details import BrowserLink, BrowserPage, Conflict, Operation, Snapshot
from pgevents.hooks.specs import hookimpl
from pgevents.newest import LatestEvent, latest
from pgevents.projections import (
    MultiStreamProjectionBase,
    ProjectionBase,
    create_multi_stream_projection_base_class,
    create_projection_base_class,
)
from pgevents.reducers import Pipeline, derive, pipeline
from pgevents.snapshots import SavedProjection, SavedViews, SaveResult
from pgevents.store.ordering import Horizon, HorizonHolder, Position
from pgevents.store.results import EventStream
from pgevents.store.tables import create_events_table, create_projections_table
from pgevents.streams import Stream, everything, stream
from pgevents.timers import Cancel, Later, Scheduled, ScheduledTimer, cancel, later
from pgevents.type_registry import EventTypes
from pgevents.view_fields import ViewFields

__all__ = [
    "AppendOnlyError",
    "BrowserLink",
    "BrowserPage",
    "Cancel",
    "Comparison",
    "ConcurrencyError",
    "ConfigurationError",
    "Conflict",
    "ConnectionLostError",
    "DatabaseError",
    "DatabaseUnavailableError",
    "Event",
    "EventClient",
    "EventDecodeError",
    "EventEncodeError",
    "EventStream",
    "EventTypes",
    "Horizon",
    "HorizonHolder",
    "IdempotencyError",
    "IncompleteViewsError",
    "InvalidValueError",
    "Later",
    "LatestEvent",
    "MovedError",
    "MultiStreamProjectionBase",
    "NewEvent",
    "NotInstalledError",
    "Operation",
    "PgEventsError",
    "Pipeline",
    "PluginError",
    "Position",
    "ProjectionBase",
    "RetryableError",
    "SaveResult",
    "SavedProjection",
    "SavedViews",
    "Scheduled",
    "ScheduledTimer",
    "Snapshot",
    "StagedEventsError",
    "StoredEvent",
    "Stream",
    "TenantsError",
    "UndecodedData",
    "UnknownEventTypeError",
    "UnsupportedTransactionError",
    "ViewFields",
    "all_of",
    "at_least",
    "at_most",
    "between",
    "cancel",
    "create_event_client",
    "create_events_table",
    "create_multi_stream_projection_base_class",
    "create_projection_base_class",
    "create_projections_table",
    "derive",
    "event",
    "everything",
    "hookimpl",
    "is_not",
    "later",
    "latest",
    "less_than",
    "many",
    "more_than",
    "one_of",
    "pipeline",
    "stream",
]

warn_about_namesake()
