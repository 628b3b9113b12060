"""What happens after a save: functions that are given every event, in order, none skipped.

Effects in the same database happen exactly once.
"""

from pgevents.subscriptions.control import discard, pause, rename, replay, reset, resize, resume
from pgevents.subscriptions.definition import ErrorPolicy, Work, park, retry, stop
from pgevents.subscriptions.following import checkpoint, follow
from pgevents.subscriptions.health import LaneReport, ParkedEvent, SubscriptionReport, check, overview, parked
from pgevents.subscriptions.runner import Runner
from pgevents.subscriptions.subscription import Subscription, subscription

__all__ = [
    "ErrorPolicy",
    "LaneReport",
    "ParkedEvent",
    "Runner",
    "Subscription",
    "SubscriptionReport",
    "Work",
    "check",
    "checkpoint",
    "discard",
    "follow",
    "overview",
    "park",
    "parked",
    "pause",
    "rename",
    "replay",
    "reset",
    "resize",
    "resume",
    "retry",
    "stop",
    "subscription",
]
