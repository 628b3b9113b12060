"""On what terms a query of kept views is answered: in whole, after waiting, or in part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import attrs

from pgevents.errors import ConfigurationError, IncompleteViewsError, shown
from pgevents.snapshots import Snapshots
from pgevents.store.kept import (
    Keeping,
    KeptQuestion,
    KeptStatus,
    keeping_of,
    kept_name,
    kept_reports,
    status_of,
)
from pgevents.store.options import check_seconds
from pgevents.view_kinds import ViewKind

__all__ = [
    "DEFAULT_TERMS",
    "Kept",
    "Partial",
    "Terms",
    "incomplete",
    "kept_of",
    "one_version",
    "status_of_kept",
    "terms_of",
    "unkept",
]

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


@attrs.frozen
class Kept:
    """What is kept of the views that a query is about.

    Attributes:
        question: Which of them are kept; None if none are.
        missing: Those of a version that nobody keeps, though another version is kept.
        others: The versions that are kept instead of these.
        is_all: Whether all are kept. Where no version is, nobody knows what may be missing.
    """

    question: KeptQuestion | None
    missing: tuple[str, ...]
    others: tuple[str, ...]
    is_all: bool


def kept_of(snapshots: Snapshots, kinds: Sequence[ViewKind], terms: Terms) -> Kept:
    """What is kept of these kinds of views, each of which says its version if a version is kept.

    Raises:
        ConfigurationError: The query is to wait for views that nobody keeps in any version.
    """
    found = [_keeping(snapshots, kind) for kind in kinds]
    if terms.partial == "wait" and not all(each.is_kept or each.others for each in found):
        snapshots.kept.forget()  # a runner may just have begun
        found = [_keeping(snapshots, kind) for kind in kinds]
        _refuse_to_wait(kinds, found)
    missing = [each for each in found if each.others and not each.is_kept]
    names = tuple(sorted({each.name for each in found if each.is_kept}))
    return Kept(
        KeptQuestion(names, None, terms.max_lag) if names else None,
        tuple(sorted({each.name for each in missing})),
        tuple(sorted({name for each in missing for name in each.others})),
        all(each.is_kept for each in found),
    )


def _refuse_to_wait(kinds: Sequence[ViewKind], found: Sequence[Keeping]) -> None:
    for kind, each in zip(kinds, found, strict=True):
        if not each.is_kept and not each.others:
            raise ConfigurationError(
                f"no runner has kept the views of {kind.type!r}, so there is nothing to wait for: have a "
                "runner keep them, keep(...), or leave out partial='wait'"
            )


def status_of_kept(snapshots: Snapshots, question: KeptQuestion) -> KeptStatus | None:
    """How far kept views are; None if one of them is not kept any more."""
    return status_of(snapshots.session, snapshots.events, question)


def unkept(kept: Kept) -> IncompleteViewsError:
    """The error of a query of a version that nobody keeps yet."""
    return IncompleteViewsError(
        f"nobody keeps the views {', '.join(kept.missing)} yet, but {', '.join(kept.others)} are kept, so a "
        "query would give only those that were saved by hand: have a runner keep this version, or call "
        "rebuild; wait for that (partial='wait'), or accept it (partial='allow')",
        reason="unkept",
        position=0,
        target=0,
    )


def incomplete(status: KeptStatus, names: str) -> IncompleteViewsError:
    """The error of a query that could give only some of the views."""
    if status.is_building:
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


def _keeping(snapshots: Snapshots, kind: ViewKind) -> Keeping:
    version = kind.version
    if version is None:  # no version of this type is kept, see `one_version`
        return Keeping(kind.type, False, ())
    found: Keeping = snapshots.kept.get(
        (kind.type, version),
        lambda: keeping_of(
            snapshots.session, snapshots.events, snapshots.model.pgevents_spec, kind.type, version
        ),
    )
    return found


def one_version(snapshots: Snapshots, kind: ViewKind) -> ViewKind:
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
