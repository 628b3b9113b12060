"""What changed between two JSON values, field by field."""

from __future__ import annotations

from typing import Any, cast

__all__ = ["changes"]


def changes(before: Any, after: Any, path: str = "") -> list[dict[str, Any]]:
    """The fields that differ.

    Returns:
        For each a dict with `path` (as in `items[2].price`), `kind` ("added", "removed" or "changed"), and
        `before` and `after` where they exist.
    """
    if _kind(before) == _kind(after) == "object":
        old, new = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        found: list[dict[str, Any]] = []
        for name in dict.fromkeys([*old, *new]):
            inner = f"{path}.{name}" if path else name
            if name not in old:
                found.append({"path": inner, "kind": "added", "after": new[name]})
            elif name not in new:
                found.append({"path": inner, "kind": "removed", "before": old[name]})
            else:
                found += changes(old[name], new[name], inner)
        return found
    if _kind(before) == _kind(after) == "array":
        return _array_changes(before, after, path)
    if before == after and type(before) is type(after):
        return []
    return [{"path": path, "kind": "changed", "before": before, "after": after}]


def _array_changes(old: list[Any], new: list[Any], path: str) -> list[dict[str, Any]]:
    """What stands between the equal start and the equal end of two lists."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    gone, come = old[start : len(old) - end], new[start : len(new) - end]
    found: list[dict[str, Any]] = []
    for place in range(max(len(gone), len(come))):
        inner = f"{path}[{start + place}]"
        if place >= len(gone):
            found.append({"path": inner, "kind": "added", "after": come[place]})
        elif place >= len(come):
            found.append({"path": inner, "kind": "removed", "before": gone[place]})
        else:
            found += changes(gone[place], come[place], inner)
    return found


def _kind(value: Any) -> str:
    return "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "value"
