"""What happens after a save: functions that are given every event, in order, none skipped.

Effects in the same database happen exactly once.
"""

from pgevents.deliveries import Delivery, current_delivery
from pgevents.store.kept import KeptReport
from pgevents.subscriptions.control import Lease, discard, pause, rename, replay, reset, resize, resume
from pgevents.subscriptions.definition import ErrorPolicy, Work, park, retry, stop
from pgevents.subscriptions.engines import Engine
from pgevents.subscriptions.following import checkpoint, follow
from pgevents.subscriptions.health import LaneReport, ParkedEvent, SubscriptionReport, check, overview, parked
from pgevents.subscriptions.inline import Inline
from pgevents.subscriptions.keeping import Keep, keep
from pgevents.subscriptions.notes import ParkingNote, parking_notes
from pgevents.subscriptions.rebuilding import (
    RebuildProgress,
    drop_old_versions,
    kept_views,
    rebuild,
)
from pgevents.subscriptions.runner import Runner
from pgevents.subscriptions.subscription import Subscription, subscription
from pgevents.subscriptions.timer_report import TimersReport, timers_report

__all__ = [
    "Delivery",
    "Engine",
    "ErrorPolicy",
    "Inline",
    "Keep",
    "KeptReport",
    "LaneReport",
    "Lease",
    "ParkedEvent",
    "ParkingNote",
    "RebuildProgress",
    "Runner",
    "Subscription",
    "SubscriptionReport",
    "TimersReport",
    "Work",
    "check",
    "checkpoint",
    "current_delivery",
    "discard",
    "drop_old_versions",
    "follow",
    "keep",
    "kept_views",
    "overview",
    "park",
    "parked",
    "parking_notes",
    "pause",
    "rebuild",
    "rename",
    "replay",
    "reset",
    "resize",
    "resume",
    "retry",
    "stop",
    "subscription",
    "timers_report",
]
