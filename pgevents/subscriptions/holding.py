"""Who has a lane: the host, process and thread of a worker, as others see it while it works.

A worker that locks a lane puts this in front of its connection's `application_name` until its transaction
ends; one that has a lease leaves it in the lane's row.
"""

from __future__ import annotations

import os
import re
import socket
import threading

import attrs

__all__ = ["NAME_WORKER", "Holder", "holder_name", "holder_of"]

NAME_WORKER = """\
SELECT set_config('application_name', concat_ws(' ', %(holder)s, nullif(
    regexp_replace(current_setting('application_name'), '^pgevents:[^ ]* ?', ''), '')), true);
"""
"""Names the worker for the rest of the transaction; the parameter `holder` is what `holder_name` gives."""
FORM = re.compile(r"pgevents:([^: ]*):(\d+):([^: ]*)(?: (.*))?", re.DOTALL)


@attrs.frozen
class Holder:
    """A worker.

    Attributes:
        host: Its host; at most 24 characters.
        process: The process's id there.
        worker: The name of its thread; at most 20 characters.
    """

    host: str
    process: int
    worker: str


def holder_name() -> str:
    """The name of this thread; PostgreSQL keeps 63 ASCII characters of an `application_name`."""
    host, worker = _word(socket.gethostname(), 24), _word(threading.current_thread().name, 20)
    return f"pgevents:{host}:{os.getpid()}:{worker}"


def holder_of(application: str | None) -> tuple[Holder | None, str | None]:
    """The worker that an `application_name` says, and the program's own name after it."""
    found = FORM.fullmatch(application or "")
    if found is None:
        return None, application
    host, process, worker, rest = found.groups()
    return Holder(host, int(process), worker), rest or None


def _word(text: str, most: int) -> str:
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:most]
