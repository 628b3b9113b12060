"""The plugins of one client: registered, loaded by entry point, removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from inspect import isclass
from typing import Any

import cattrs
import pluggy

from pgevents.codec.serialization import make_event_converter
from pgevents.errors import PluginError, shown
from pgevents.hooks.calls import HookCalls, call, in_order
from pgevents.hooks.checks import check_plugin, name_of
from pgevents.hooks.specs import PROJECT, SPECS
from pgevents.type_registry import EventTypes

__all__ = ["Plugins"]

OFF_VARIABLE = "PGEVENTS_PLUGINS_OFF"
"""Names of installed plugins that "auto" leaves out, separated by commas; `*` for all."""


class Plugins(HookCalls):
    """The plugins of one client: `client.plugins`.

    Attributes:
        client: The client.
        implemented: The names of the hooks that any plugin implements.
    """

    def __init__(
        self,
        client: Any,
        types: Callable[[], EventTypes],
        on_change: Callable[[frozenset[str]], None],
    ) -> None:
        """No plugin yet.

        Args:
            client: The client that hooks get as an argument.
            types: Returns the client's current event types.
            on_change: Called with names of hooks when a plugin with any of them comes or goes.
        """
        super().__init__(client)
        self._types, self._on_change = types, on_change
        self._event_classes: dict[str, list[type[Any]]] = {}

    def register(self, plugin: Any, name: str | None = None) -> str:
        """Add a plugin.

        Args:
            plugin: An instance, or a module.
            name: A name for `unregister`; by default that of the module or class, with a number if it is
                taken.

        Returns:
            The plugin's name.

        Raises:
            PluginError: The plugin is a class, has a misspelt hook or argument, lacks the mark, has no hook,
                or is registered already, or the name is taken. Nothing was changed.
        """
        check_plugin(plugin)
        name = name or self._free_name(plugin)
        try:
            self._manager.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(
                f"{name_of(plugin)} cannot be registered: {str(error).splitlines()[0]}"
            ) from error
        try:
            self._note_changes(name)
            self._call_plugin(plugin, "pgevents_registered", client=self.client)
        except BaseException:
            self._manager.unregister(plugin)
            self._note_changes(name)
            raise
        return name

    def unregister(self, plugin: Any) -> None:
        """Remove a plugin, given the plugin or its name. Its event types are removed, too.

        Raises:
            PluginError: It is not registered.
        """
        registered = self._manager.get_plugin(plugin) if isinstance(plugin, str) else plugin
        name = None if registered is None else self._manager.get_name(registered)
        if name is None:
            raise PluginError(
                f"{shown(plugin)} is not registered; these are: {', '.join(self.list()) or 'none'}"
            )
        self._manager.unregister(name=name)
        self._note_changes(name)

    def load_installed(self) -> list[str]:
        """Register the plugins that installed packages offer under the entry-point group `pgevents`.

        An entry point names an instance, a module, or a class that takes no arguments. Plugins that the
        environment variable `PGEVENTS_PLUGINS_OFF` names (`*` for all) are left out, and so are plugins whose
        name is registered already.

        Returns:
            The names of the plugins that were registered.

        Raises:
            PluginError: A plugin cannot be loaded or registered; the message names its package.
        """
        off = {name.strip() for name in os.environ.get(OFF_VARIABLE, "").split(",")}
        added: list[str] = []
        for point in sorted(set(entry_points(group=PROJECT)), key=lambda point: (point.name, point.value)):
            if "*" in off or point.name in off or self._manager.get_plugin(point.name) is not None:
                continue
            try:
                plugin = point.load()
                added.append(self.register(plugin() if isclass(plugin) else plugin, point.name))
            except Exception as error:
                package = point.dist.name if point.dist is not None else "?"
                raise PluginError(
                    f"the plugin {point.name!r} ({point.value}) of the installed package {package} "
                    f"failed: {error}; {OFF_VARIABLE}={point.name} leaves it out"
                ) from error
        return added

    def get(self, name: str) -> Any:
        """The plugin with this name, or None."""
        return self._manager.get_plugin(name)

    def __iter__(self) -> Iterator[Any]:
        return iter([plugin for _, plugin in self._manager.list_name_plugin()])

    def __len__(self) -> int:
        return len(self._manager.list_name_plugin())

    def __contains__(self, plugin: object) -> bool:
        return any(
            plugin is registered or plugin == name for name, registered in self._manager.list_name_plugin()
        )

    def __repr__(self) -> str:
        return f"<Plugins: {', '.join(self.list()) or 'none'}>"

    def _free_name(self, plugin: Any) -> str:
        name = base = name_of(plugin)
        number = 1
        while self._manager.has_plugin(name):
            number += 1
            name = f"{base}-{number}"
        return name

    def _note_changes(self, name: str) -> None:
        """Update which hooks are implemented, and call `on_change`."""
        before = self.implemented
        self.implemented = frozenset(hook for hook in SPECS if getattr(self.hook, hook).get_hookimpls())
        plugin = self._manager.get_plugin(name)
        self._event_classes.pop(name, None)
        self._on_change(before | self.implemented)
        if plugin is not None and "pgevents_register_events" in self.implemented:
            results = self._call_plugin(plugin, "pgevents_register_events", types=self._types())
            self._event_classes[name] = [cls for classes in results for cls in classes or ()]
            self._on_change(self.implemented)

    def _call_plugin(self, plugin: Any, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook of this plugin only."""
        impls = [impl for impl in in_order(self._impls(hook)) if impl.plugin is plugin]
        return [call(impl, arguments) for impl in impls]

    def converter(self) -> cattrs.Converter:
        """A converter that all plugins have configured, in order of registration."""
        converter = make_event_converter()
        for plugin in self:
            self._call_plugin(plugin, "pgevents_configure_converter", converter=converter)
        return converter

    def event_classes(self) -> list[type[Any]]:
        """The event classes that plugins brought."""
        return [cls for classes in self._event_classes.values() for cls in classes]

    def list(self) -> Sequence[str]:
        """The names of the plugins, in order of registration."""
        return [name for name, _ in self._manager.list_name_plugin()]
