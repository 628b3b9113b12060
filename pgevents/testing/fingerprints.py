"""A lock file of reducers' fingerprints: it warns when a reducer changes and its version does not."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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

    Saved views of a version are folded on by whatever reducers there are, so a change needs a higher version.
    The file is JSON and belongs into version control. It is made at the first call; projections and versions
    that are new to it are added. Compared are the texts of the class and of the functions that it names,
    without comments and formatting. What these call is not looked at, so nothing rests on it but a
    warning.

    Args:
        path: The lock file.
        *projections: The projections' classes.
        update: Take what is there now for right, after a change that gives the same views.

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
    locked: dict[str, dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    before = json.dumps(locked)
    changed: list[str] = []
    for cls in projections:
        found = {"version": cls.version, "fingerprint": _fingerprint(cls)}
        recorded = locked.get(cls.projection_type)
        is_other = recorded is not None and recorded["version"] == cls.version and recorded != found
        if is_other and not update:
            changed.append(cls.projection_type)
            warnings.warn(
                f"{cls.__qualname__} folds in another way than when version {cls.version} of "
                f"{cls.projection_type!r} was locked in {file.name}: raise its version, or, if it gives the "
                "same views, call check_reducers(..., update=True)",
                ReducersChangedWarning,
                stacklevel=2,
            )
        else:
            locked[cls.projection_type] = found
    if json.dumps(locked) != before:
        file.write_text(json.dumps(locked, indent=2, sort_keys=True) + "\n", "utf-8")
    return changed


def _fingerprint(cls: Any) -> str:
    bases = [
        base
        for base in cls.__mro__
        if base.__module__.split(".")[0] not in ("pgevents", "typing", "builtins")
    ]
    parts = [_text_of(base) for base in bases]
    parts += [f"{name} {_text_of(function)}" for name, function in cls.reducers.functions]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _text_of(given: Any) -> str:
    """The source of a class or function without comments and layout; of a lambda what its code names."""
    if isinstance(given, types.FunctionType) and given.__name__ == "<lambda>":
        return _code_text(given.__code__)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(given)))
    except (OSError, TypeError, SyntaxError):
        return str(getattr(given, "__qualname__", type(given).__name__))  # pyright: ignore[reportUnknownArgumentType]
    for node in ast.walk(tree):
        body: Any = getattr(node, "body", None)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            node.body = [statement for statement in cast("list[Any]", body) if not _is_beside(statement)] or [
                ast.Pass()
            ]
    return ast.unparse(tree)


def _is_beside(node: ast.stmt) -> bool:
    """A docstring, or the version itself."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    return isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["version"]


def _code_text(code: types.CodeType) -> str:
    constants = [constant for constant in code.co_consts if isinstance(constant, (str, int, float, bytes))]
    inner = [_code_text(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return f"{code.co_varnames} {code.co_names} {constants} {inner}"
