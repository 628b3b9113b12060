"""A lock file of reducers' fingerprints: it warns when a reducer changes and its version does not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgevents.fingerprints import changed_reducers, lock_entry, locked_reducers

if TYPE_CHECKING:
    from pgevents.projections import MultiStreamProjectionBase, ProjectionBase

__all__ = ["ReducersChangedWarning", "check_reducers"]


class ReducersChangedWarning(UserWarning):
    """A projection folds in another way than when its version was locked."""


def check_reducers(
    path: str | Path,
    *projections: type[ProjectionBase[Any, Any]] | type[MultiStreamProjectionBase[Any, Any]],
    update: bool = False,
) -> list[str]:
    """Compare how projections fold with a lock file, and warn where that has changed under the same version.

    Saved views of a version are folded further by the present reducers, so a change takes a new one.
    The file is JSON and belongs into version control. It is made at the first call; projections and versions
    that are new to it are added. The comparison uses the source of the class and of the functions that it
    names, without comments and formatting. Functions that these call are not compared, so it is only a
    warning.

    Args:
        path: The lock file.
        *projections: The projections' classes.
        update: Accept the present reducers, after a change that gives the same views.

    Returns:
        The types that have changed.

    Example:
        ```python
        from pathlib import Path
        from pgevents.testing import check_reducers

        def test_versions_are_raised_with_their_reducers():
            assert check_reducers(Path(__file__).with_name("reducers.lock"), CartProjection) == []
        ```
    """
    file = Path(path)
    locked = locked_reducers(file)
    before = json.dumps(locked)
    changed = [] if update else changed_reducers(file, *projections)
    for cls in projections:
        if cls.projection_type not in changed:
            locked[cls.projection_type] = lock_entry(cls)
            continue
        warnings.warn(
            f"{cls.__qualname__} folds in another way than when version {cls.version} of "
            f"{cls.projection_type!r} was locked in {file.name}: raise its version, or, if it gives the "
            "same views, call check_reducers(..., update=True)",
            ReducersChangedWarning,
            stacklevel=2,
        )
    if json.dumps(locked) != before:
        file.write_text(json.dumps(locked, indent=2, sort_keys=True) + "\n", "utf-8")
    return changed
