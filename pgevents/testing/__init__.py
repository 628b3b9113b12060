"""For the tests of an application: given, when, then; histories; what was saved meanwhile; and stores of a
    test's own.

pytest finds the fixtures by itself. No server starts before a test asks for one.
"""

from pgevents.testing.capturing import CapturedEvents, capture_events
from pgevents.testing.checking import check_projection
from pgevents.testing.clocks import Clock
from pgevents.testing.draining import drain
from pgevents.testing.effects import check_effects
from pgevents.testing.fingerprints import ReducersChangedWarning, check_reducers
from pgevents.testing.fixtures import (
    EMPTY_SQL,
    pgevents_client,
    pgevents_database,
    pgevents_databases,
    pgevents_make_client,
    pgevents_server,
    pgevents_tables,
    pgevents_url,
)
from pgevents.testing.histories import History, history
from pgevents.testing.scenarios import Given, Outcome, given

__all__ = [
    "EMPTY_SQL",
    "CapturedEvents",
    "Clock",
    "Given",
    "History",
    "Outcome",
    "ReducersChangedWarning",
    "capture_events",
    "check_effects",
    "check_projection",
    "check_reducers",
    "drain",
    "given",
    "history",
    "pgevents_client",
    "pgevents_database",
    "pgevents_databases",
    "pgevents_make_client",
    "pgevents_server",
    "pgevents_tables",
    "pgevents_url",
]
