"""On what terms a query of kept views is answered: in whole, after waiting, or in part."""

from __future__ import annotations

from typing import Literal

import attrs

from pgevents.errors import ConfigurationError, IncompleteViewsError, shown
from pgevents.querying import Question
from pgevents.snapshots import Snapshots
from pgevents.store.kept import KeptQuestion, KeptStatus, is_kept, kept_name, kept_reports, status_of
from pgevents.store.options import check_seconds
from pgevents.view_kinds import ViewKind

__all__ = ["DEFAULT_TERMS", "Partial", "Terms", "incomplete", "kept_of", "status_of_kept", "terms_of"]

Partial = Literal["refuse", "wait", "allow"]
MAX_LAG = 30.0


def _check_partial(instance: object, attribute: object, value: object) -> None:
    if value not in ("refuse", "wait", "allow"):
        raise ConfigurationError(f'partial is "refuse", "wait" or "allow", not {shown(value)}')


def _check_seconds(instance: object, attribute: object, value: object) -> None:
    check_seconds(value, "max_lag")


@attrs.frozen
class Terms:
    """On what terms a query is answered.

    Attributes:
        partial: What becomes of a query of kept views of which some are missing or not served: "refuse" it,
            "wait" until they are there, or "allow" an answer in part.
        max_lag: Seconds after which a place that has not moved is stale, if there are events for it.
        timeout: Seconds to wait at most.
    """

    partial: Partial = attrs.field(default="refuse", validator=_check_partial)
    max_lag: float = attrs.field(default=MAX_LAG, validator=_check_seconds)
    timeout: float = 10.0


DEFAULT_TERMS = Terms()


def terms_of(partial: Partial, max_lag: float) -> Terms:
    """These terms, checked; the default ones are checked once."""
    if partial == "refuse" and max_lag.__class__ is float and max_lag == MAX_LAG:
        return DEFAULT_TERMS
    return Terms(partial, max_lag)


def kept_of(snapshots: Snapshots, question: Question, terms: Terms) -> tuple[KeptQuestion | None, Question]:
    """The kept views that a question is about, None if it is about none; and the question about versions that
    are whole, where it names types alone."""
    kinds, names = question.kinds, set[str]()
    if any(kind.version is None for kind in kinds):
        kinds = [_one_version(snapshots, kind) for kind in kinds]
        question = attrs.evolve(question, kinds=kinds)
    for kind in kinds:
        name = _name_if_kept(snapshots, kind)
        if name is not None:
            names.add(name)
    return (KeptQuestion(tuple(sorted(names)), None, terms.max_lag) if names else None), question


def status_of_kept(snapshots: Snapshots, kind: ViewKind) -> KeptStatus | None:
    """How far a kept view is; None if it is not kept."""
    name = _name_if_kept(snapshots, _one_version(snapshots, kind))
    if name is None:
        return None
    return status_of(snapshots.session, snapshots.events, KeptQuestion((name,), None, MAX_LAG))


def incomplete(status: KeptStatus, names: str) -> IncompleteViewsError:
    """The error of a query that could give only some of the views."""
    if not status.is_complete:
        reason = "building"
        what = f"have come to event {status.position} of {status.target}"
    else:
        reason, what = "waiting", "are kept up to date, but some wait to be folded anew"
    return IncompleteViewsError(
        f"the views {names} {what}, so a query would give only some of them: wait (partial='wait'), or "
        "accept that (partial='allow')",
        reason=reason,
        position=status.position,
        target=status.target,
    )


def _name_if_kept(snapshots: Snapshots, kind: ViewKind) -> str | None:
    version = kind.version
    if version is None:
        return None
    key = (kind.type, version)
    name: str | None = snapshots.kept.get(key, lambda: _look_up_name(snapshots, *key))
    return name


def _look_up_name(snapshots: Snapshots, type: str, version: int) -> str | None:
    name = kept_name(type, version, snapshots.model.pgevents_spec)
    return name if is_kept(snapshots.session, snapshots.events, name) else None


def _one_version(snapshots: Snapshots, kind: ViewKind) -> ViewKind:
    """A type that is kept, by its name alone, means its newest version that is complete."""
    if kind.version is not None:
        return kind
    version = snapshots.kept.get((kind.type, None), lambda: _newest_version(snapshots, kind.type))
    return kind if version is None else attrs.evolve(kind, version=version)


def _newest_version(snapshots: Snapshots, type: str) -> int | None:
    """The version of the kept views of a type that queries by the type's name read; None if none are kept."""
    spec = snapshots.model.pgevents_spec
    versions = [
        (report.complete_at is not None, report.version)
        for report in kept_reports(snapshots.session, snapshots.events)
        if report.type == type and report.name == kept_name(type, report.version, spec)
    ]
    return max(versions)[1] if versions else None
