"""Imports optional packages when the plugin that needs them is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from pgevents import ConfigurationError
from pgevents.distribution import install_hint


def require(module: str, extra: str) -> Any:
    """Import a module of an optional dependency.

    Raises:
        ConfigurationError: The package is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{module} is not installed: {install_hint(extra)}") from error
