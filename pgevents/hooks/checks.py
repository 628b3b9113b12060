"""Checks a plugin when it is registered; at run time its mistakes would go unnoticed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, cast

from pgevents.errors import PluginError, shown
from pgevents.hooks.specs import PROJECT, SPECS

__all__ = ["check_plugin", "name_of"]

MARK = f"{PROJECT}_impl"
WITHOUT_WRAPPERS = {
    "pgevents_registered",
    "pgevents_register_events",
    "pgevents_configure_converter",
    "pgevents_hidden_fields",
    "pgevents_observe",
}
"""Hooks that are called for each plugin separately, so that there is nothing to wrap."""


def name_of(plugin: Any) -> str:
    """The name of a module, or of an instance's class."""
    return plugin.__name__.rpartition(".")[2] if isinstance(plugin, ModuleType) else type(plugin).__name__


def check_plugin(plugin: Any) -> None:
    """Check that each function of a plugin that looks like a hook is one, and can be called.

    Raises:
        PluginError: The message says what to correct.
    """
    if inspect.isclass(plugin):
        raise PluginError(
            f"{plugin.__qualname__} is a class; register an instance of it: {plugin.__qualname__}(...)"
        )
    if isinstance(plugin, str):
        raise PluginError(f"{shown(plugin)} is a text; a plugin is an instance or a module: import it")
    marked = 0
    for name, function, options in _candidates(plugin):
        where = f"{name_of(plugin)}.{name}"
        hook = (options or {}).get("specname") or name
        if hook not in SPECS:
            if options is None or not options.get("optionalhook"):
                near = _nearest(hook, list(SPECS))
                raise PluginError(f"{where}: {hook} is not a hook of pgevents; did you mean {near}?")
        elif options is None:
            raise PluginError(
                f"{where} is named like a hook and lacks its mark: put @pgevents.hookimpl above it"
            )
        else:
            _check_kind(where, hook, function, options)
            _check_arguments(where, hook, function)
        marked += 1
    if not marked:
        raise PluginError(f"{shown(plugin)} implements no hook; the hooks are {', '.join(SPECS)}")


def _candidates(plugin: Any) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any] | None]]:
    """The functions of a plugin that carry the mark or are named like a hook: name, function, options."""
    for name in dir(plugin):
        member = inspect.getattr_static(plugin, name, None)
        if isinstance(member, property):
            continue
        mark: Any = getattr(getattr(member, "__func__", member), MARK, None)
        options = cast("dict[str, Any]", mark) if isinstance(mark, dict) else None
        if options is None and not (
            name.startswith(PROJECT[:-1]) and "_" in name and callable(getattr(plugin, name, None))
        ):
            continue
        if isinstance(plugin, ModuleType) and name in SPECS and member is SPECS[name]:
            continue  # a specification that the module imported
        if options is None and inspect.isclass(member):
            continue
        yield name, getattr(plugin, name), options


def _check_kind(where: str, hook: str, function: Callable[..., Any], options: dict[str, Any]) -> None:
    is_generator = inspect.isgeneratorfunction(function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PluginError(f"{where} is async; hooks are plain functions and are not awaited")
    if options.get("hookwrapper"):
        raise PluginError(
            f"{where} is an old-style wrapper; write @hookimpl(wrapper=True), and return the result"
        )
    if options.get("wrapper"):
        if hook in WITHOUT_WRAPPERS:
            raise PluginError(f"{where}: {hook} is called for each plugin separately and takes no wrapper")
        if not is_generator:
            raise PluginError(
                f"{where} is marked as a wrapper and does not yield: result = yield; return result"
            )
    elif is_generator:
        raise PluginError(
            f"{where} yields, so calling it would run nothing; mark it @hookimpl(wrapper=True) if it wraps"
        )


def _check_arguments(where: str, hook: str, function: Callable[..., Any]) -> None:
    offered = list(inspect.signature(SPECS[hook]).parameters)
    for argument in inspect.signature(function).parameters.values():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            stars = "*" if argument.kind is argument.VAR_POSITIONAL else "**"
            raise PluginError(
                f"{where} takes {stars}{argument.name}; name the arguments: "
                f"{hook} offers {', '.join(offered)}"
            )
        if argument.name not in offered:
            near = _nearest(argument.name, offered)
            raise PluginError(
                f"{where} asks for {argument.name!r}, {hook} offers {', '.join(offered)}; "
                f"did you mean {near!r}?"
            )
        if argument.kind is argument.KEYWORD_ONLY:
            raise PluginError(f"{where} takes {argument.name!r} by keyword only; remove the * before it")
        if argument.default is not argument.empty:
            raise PluginError(
                f"{where}: {argument.name!r} has a default, so pluggy never passes it; remove the default"
            )


def _nearest(word: str, words: list[str]) -> str:
    whole = word if word.startswith("pgevents_") or words != list(SPECS) else f"pgevents_{word}"
    return difflib.get_close_matches(whole, words, 1, 0.0)[0]
