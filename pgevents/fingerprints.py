"""Fingerprints of reducers: how a projection folds, as a short text, and a lock file of them."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import textwrap
import types
from pathlib import Path
from typing import Any, cast

__all__ = ["changed_reducers", "lock_entry", "locked_reducers"]


def changed_reducers(path: str | Path, *projections: Any) -> list[str]:
    """The types whose reducers differ from a lock file under the same version; the file is only read.

    Args:
        path: The lock file of `check_reducers`; one that is not there locks nothing.
        *projections: The projections' classes.
    """
    locked = locked_reducers(Path(path))
    changed: list[str] = []
    for cls in projections:
        recorded = locked.get(cls.projection_type)
        if recorded is not None and recorded["version"] == cls.version and recorded != lock_entry(cls):
            changed.append(cls.projection_type)
    return changed


def locked_reducers(file: Path) -> dict[str, dict[str, Any]]:
    """What a lock file says, by type; nothing if there is none.

    Raises:
        ValueError: It is not a lock file.
    """
    locked: Any = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if not isinstance(locked, dict):
        raise ValueError(f"{file.name} is not a JSON object")
    return cast("dict[str, dict[str, Any]]", locked)


def lock_entry(cls: Any) -> dict[str, Any]:
    """What a lock file says of a class: its version, and its fingerprint."""
    return {"version": cls.version, "fingerprint": _fingerprint(cls)}


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
