"""Which saved projections are meant: by class or by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import attrs

from pgevents.errors import ConfigurationError, shown
from pgevents.projection_classes import Declaration
from pgevents.snapshots import Snapshots
from pgevents.type_registry import EventTypes
from pgevents.views import is_dict_class

__all__ = [
    "ViewKind",
    "view_kind",
    "view_kinds",
]


@attrs.frozen
class ViewKind:
    """One kind of projection that a question is about.

    Attributes:
        type: The projection's type.
        version: The version; None for the newest that each id has.
        shape: The shape of the view; None for any.
        view_class: The view's class; `dict` without one.
        id_class: The id's type, or Any.
        is_usual: Whether no plugin says how values of types are stored.
    """

    type: str
    version: int | None = None
    shape: str | None = None
    view_class: Any = dict
    id_class: Any = Any
    is_usual: bool = True


def view_kind(snapshots: Snapshots, types: EventTypes, named: Any) -> ViewKind:
    """What a projection's class or its type's name stands for.

    Raises:
        ConfigurationError: Neither.
    """
    cls: Any = named
    if isinstance(named, str) and named:
        return ViewKind(named)
    if isinstance(named, type) and hasattr(cls, "declared_for"):
        is_usual = snapshots.serializer.is_usual
        facts = (types, types.revision, is_usual, cls.projection_type, cls.version)
        kept: tuple[Any, ViewKind] | None = snapshots.kinds.get(cls)
        if kept is None or kept[0] != facts:
            kept = snapshots.kinds[cls] = facts, _kind_of_class(snapshots, types, cls)
        return kept[1]
    raise ConfigurationError(f"a projection is named by its class or its projection_type, not {shown(cls)}")


def _kind_of_class(snapshots: Snapshots, types: EventTypes, cls: Any) -> ViewKind:
    declared: Declaration = cls.declared_for(snapshots, types)
    shape = None if is_dict_class(declared.view_class) else snapshots.stored_shape(declared.shape)
    return ViewKind(
        cls.projection_type,
        cls.version,
        shape,
        declared.view_class,
        declared.id_class,
        snapshots.serializer.is_usual,
    )


def view_kinds(
    snapshots: Snapshots, types: EventTypes, projections: Any, version: int | None = None
) -> list[ViewKind]:
    """What one or a list of these stands for, in the given version.

    Raises:
        ConfigurationError: An empty list, or a version of what is not a name.
    """
    named = cast("Sequence[Any]", projections if isinstance(projections, (list, tuple)) else [projections])
    if not named:
        raise ConfigurationError("no projection is named")
    kinds = [view_kind(snapshots, types, name_or_class) for name_or_class in named]
    if version is None:
        return kinds
    if type(version) is not int or any(kind.version is not None for kind in kinds):
        raise ConfigurationError(
            f"version={version!r}: a class has its own version. To read another version, as dicts, name "
            f"the type: query_projections({kinds[0].type!r}, version=1)"
        )
    return [ViewKind(kind.type, version) for kind in kinds]
