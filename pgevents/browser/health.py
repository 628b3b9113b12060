"""The page of the store's health: what the doctor says, and who holds the horizon."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import attrs

from pgevents.browser.log import iso
from pgevents.client import EventClient
from pgevents.diagnosis import diagnose
from pgevents.store.ordering import holder_text, horizon_of

__all__ = ["health_page"]

GRAVEST = ("fault", "note", "ok")


def health_page(client: EventClient) -> dict[str, Any]:
    """What `pgevents doctor` says, the gravest first; and up to where the log is final."""
    findings = sorted(diagnose(client), key=lambda finding: GRAVEST.index(finding.level))
    horizon = horizon_of(client.session.execute, client.events.pgevents_spec)
    now = datetime.now(timezone.utc)
    return {
        "findings": [attrs.asdict(finding) for finding in findings],
        "faults": sum(finding.level == "fault" for finding in findings),
        "notes": sum(finding.level == "note" for finding in findings),
        "horizon": {"id": horizon.id, "last_issued": horizon.last_issued},
        "holders": [
            {
                "who": holder_text(holder),
                "since": None if holder.since is None else iso(holder.since),
                "seconds": None if holder.since is None else (now - holder.since).total_seconds(),
                "published": holder.published,
            }
            for holder in horizon.holders
        ],
        "at": iso(now),
    }
