"""Who is compared: the least SQL, pgevents, its functions alone and in a bare client, and two recorders of
`eventsourcing`."""

from .bare import Bare
from .base import Contender, connect, on_database
from .functions import Functions
from .limit import Checked, CheckedInFunction, Copy, Limit
from .ours import PgEvents
from .peer import PEER_MISSING, Classic, Dcb

__all__ = ["CONTENDERS", "PEER_MISSING", "Contender", "connect", "on_database"]

CONTENDERS: dict[str, type[Contender]] = {
    "limit": Limit,
    "check": Checked,
    "check in function": CheckedInFunction,
    "copy": Copy,
    "functions": Functions,
    "bare client": Bare,
    "pgevents": PgEvents,
    "dcb": Dcb,
    "classic": Classic,
}
