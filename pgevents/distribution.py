"""The installed distribution: its name on the package index, and a namesake that overwrites its files."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

from pgevents.errors import ConfigurationError

__all__ = ["NAME", "install_hint", "warn_about_namesake"]

NAME = "pgevents-store"
"""The name for `pip install`. The name `pgevents` on the index belongs to another project, whose modules are
in a folder `pgevents`, too."""


def install_hint(extra: str) -> str:
    """The command that installs an extra.

    Args:
        extra: Its name, such as `cli`.
    """
    return f'pip install "{NAME}[{extra}]"'


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: Its full name.
        extra: The extra that installs the package.

    Raises:
        ConfigurationError: The package is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{module} is not installed: {install_hint(extra)}") from error


def warn_about_namesake() -> None:
    """Warn if the other project named `pgevents` is installed: the two overwrite each other's files."""
    try:
        other = distribution("pgevents")
    except PackageNotFoundError:
        return
    if "pgevents.testing" in (other.read_text("entry_points.txt") or ""):
        return  # a checkout of this project from before its distribution was renamed
    warnings.warn(
        f"the distribution pgevents {other.version}, of another project, is installed beside {NAME}, and "
        f"both have a package pgevents: remove the two and install one (pip uninstall pgevents {NAME}, then "
        f"pip install {NAME})",
        RuntimeWarning,
        stacklevel=3,
    )
