"""Every hook, documented, and the plugin manager of a client.

A plugin is an object or a module whose functions carry the `hookimpl` mark:

```python
from pgevents import hookimpl

class Announce:
    @hookimpl
    def pgevents_after_commit(self, client, events):
        for event in events:
            print(event.id, event.type)
```
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attrs
import pluggy

from pgevents.errors import PluginError
from pgevents.events import Event, EventTypes, NewEvent

if TYPE_CHECKING:
    import cattrs

    from pgevents.client import EventClient

__all__ = ["Conflict", "Plugins", "Snapshot", "hookimpl", "hookspec"]

PROJECT = "pgevents"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""The mark of a hook's implementation; takes pluggy's `tryfirst`, `trylast` and `wrapper`."""


@attrs.frozen
class Conflict:
    """A validated save that was refused.

    Attributes:
        events: What was to be saved.
        expected: The position or id that the caller gave.
        conflicting_ids: Ids of the events that the caller had not read (at most 100).
        attempt: 1 for the first try of a `decide` or of a save, then 2, ...
    """

    events: tuple[NewEvent, ...]
    expected: Any
    conflicting_ids: tuple[int, ...]
    attempt: int


@attrs.frozen
class Snapshot:
    """A projection that is about to be saved, or was.

    Attributes:
        type: The projection's type.
        id: The projection's id.
        data: The view as a JSON-ready dict.
        view: The view itself.
        latest_event_id: Id of the last event that is folded into it.
        version: The projection's version.
        events_folded: How many events were folded since the snapshot before.
    """

    type: str
    id: str
    data: dict[str, Any]
    view: Any
    latest_event_id: int
    version: int
    events_folded: int


@hookspec
def pgevents_before_save(client: EventClient, events: Sequence[NewEvent]) -> Sequence[NewEvent] | None:
    """Called before a save, in the caller's transaction if there is one.

    Plugins run one after the other, each with what the one before it returned. What the last one returns is what is
    validated, locked by and stored.

    Args:
        client: The client that saves.
        events: What is about to be saved, in order.

    Returns:
        The events to save in their place, as many as were given; None to leave them as they are.

    Raises:
        Exception: Any exception vetoes the save; nothing is written.

    Example:
        ```python
        @hookimpl
        def pgevents_before_save(self, client, events):
            return [attrs.evolve(e, metadata={**e.metadata, "source": "shop"}) for e in events]
        ```
    """


@hookspec
def pgevents_after_save(client: EventClient, events: Sequence[Event[Any]]) -> None:
    """Called when events are written and not yet committed: what is written here commits with them.

    Without a transaction of the caller's, one is opened around save and hook.

    Args:
        client: The client that saved; saving more events through it is allowed.
        events: The saved events, with ids.

    Raises:
        Exception: Any exception rolls back the save (inside `db.atomic()`: leaves that to the caller's block).

    Example:
        ```python
        @hookimpl
        def pgevents_after_save(self, client, events):
            for event in events:
                Outbox.create(event_id=event.id)
        ```
    """


@hookspec
def pgevents_after_commit(client: EventClient, events: Sequence[Event[Any]]) -> None:
    """Called when events are durable: after the commit of the outermost transaction, and only if they are in the log.

    Its errors are logged; they never undo or hide the save.

    Args:
        client: The client that saved.
        events: The events of one save.

    Example:
        ```python
        @hookimpl
        def pgevents_after_commit(self, client, events):
            queue.publish([event.id for event in events])
        ```
    """


@hookspec
def pgevents_validation_conflict(client: EventClient, conflict: Conflict) -> float | None:
    """Called when a validated save was refused; nothing was written.

    Args:
        client: The client that tried to save.
        conflict: What was expected and what stands there.

    Returns:
        Seconds to wait before one more try (`decide` reads again first), or None to leave it to the caller. The
        longest wait that a plugin asks for is taken. Inside `db.atomic()` nothing is tried again.

    Example:
        ```python
        @hookimpl
        def pgevents_validation_conflict(self, client, conflict):
            log.info("conflict with %s", conflict.conflicting_ids)
        ```
    """


@hookspec
def pgevents_before_snapshot(client: EventClient, snapshot: Snapshot) -> Snapshot | None:
    """Called before a projection is saved as a snapshot.

    Args:
        client: The projection's client.
        snapshot: What is about to be saved.

    Returns:
        A changed snapshot (`attrs.evolve(snapshot, data=...)`), or None to leave it as it is.

    Raises:
        Exception: Any exception vetoes the snapshot; nothing is written.

    Example:
        ```python
        @hookimpl
        def pgevents_before_snapshot(self, client, snapshot):
            return attrs.evolve(snapshot, data={**snapshot.data, "secret": None})
        ```
    """


@hookspec
def pgevents_after_snapshot(client: EventClient, snapshot: Snapshot, status: str) -> None:
    """Called after a projection was saved, in the same transaction if there is one.

    Args:
        client: The projection's client.
        snapshot: What was saved.
        status: "created", "updated" or "skipped" (an equal or newer one stands).

    Example:
        ```python
        @hookimpl
        def pgevents_after_snapshot(self, client, snapshot, status):
            log.info("%s %s: %s", snapshot.type, snapshot.id, status)
        ```
    """


@hookspec
def pgevents_configure_converter(converter: cattrs.Converter) -> None:
    """Called once for each plugin, when it is registered: add structure and unstructure hooks of your own types.

    Args:
        converter: The client's cattrs converter.

    Example:
        ```python
        @hookimpl
        def pgevents_configure_converter(self, converter):
            converter.register_unstructure_hook(Money, str)
            converter.register_structure_hook(Money, lambda text, _: Money(text))
        ```
    """


@hookspec
def pgevents_register_events(types: EventTypes) -> Iterable[type[Any]] | None:
    """Called once for each plugin, when it is registered: bring event classes.

    Args:
        types: The client's registry.

    Returns:
        Event classes to add to it, or None.

    Example:
        ```python
        @hookimpl
        def pgevents_register_events(self, types):
            return [LoginFailed]
        ```
    """


SPECS = {name: spec for name, spec in list(globals().items()) if name.startswith("pgevents_")}


class Plugins:
    """The plugins of one client.

    Attributes:
        hook: pluggy's caller for all hooks.
    """

    def __init__(self) -> None:
        import sys

        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(sys.modules[__name__])
        self.hook = self._manager.hook
        self.implemented: frozenset[str] = frozenset()
        self.on_register: Callable[[Any], None] = lambda plugin: None

    def register(self, plugin: Any, name: str | None = None) -> None:
        """Add a plugin.

        Args:
            plugin: An instance, or a module.
            name: A name for `unregister` and `names`; by default pluggy makes one.

        Raises:
            PluginError: A class in place of an instance, a misspelt hook, a wrong argument's name, no hook at all, or a
                plugin that is registered already.
        """
        if inspect.isclass(plugin):
            raise PluginError(f"{plugin.__qualname__} is a class; register an instance of it: {plugin.__qualname__}()")
        _check_hooks(plugin)
        try:
            self._manager.register(plugin, name)
        except ValueError as error:
            raise PluginError(f"{_name_of(plugin)}: {error}") from error
        self._note()
        try:
            self.on_register(plugin)
        except BaseException:
            self._manager.unregister(plugin)
            self._note()
            raise

    def unregister(self, plugin: Any) -> None:
        """Remove a plugin, by itself or by its name.

        Raises:
            PluginError: It is not registered.
        """
        found = self._manager.get_plugin(plugin) if isinstance(plugin, str) else plugin
        if found is None or not self._manager.is_registered(found):
            raise PluginError(f"{plugin!r} is not registered; these are: {self.names()}")
        self._manager.unregister(found)
        self._note()

    def load_entry_points(self) -> int:
        """Register the installed packages that offer an entry point in the group `pgevents`; how many were new."""
        before = set(self._manager.get_plugins())
        self._manager.load_setuptools_entrypoints(PROJECT)
        new = set(self._manager.get_plugins()) - before
        for plugin in new:
            self._manager.unregister(plugin)
            self.register(plugin() if inspect.isclass(plugin) else plugin)
        return len(new)

    def names(self) -> list[str]:
        """The names of the registered plugins, in order of registration."""
        return [name for name, _ in self._manager.list_name_plugin()]

    def __iter__(self) -> Any:
        return iter(plugin for _, plugin in self._manager.list_name_plugin())

    def __len__(self) -> int:
        return len(self._manager.get_plugins())

    def __contains__(self, plugin: object) -> bool:
        return self._manager.is_registered(plugin)

    def _note(self) -> None:
        """Which hooks have an implementation at all: a save asks this set and calls nothing else."""
        self.implemented = frozenset(name for name in SPECS if getattr(self.hook, name).get_hookimpls())

    def before_save(self, client: EventClient, events: list[NewEvent]) -> list[NewEvent]:
        """Run the hook as a chain: each plugin sees what the one before it returned."""
        for impl in reversed(self.hook.pgevents_before_save.get_hookimpls()):
            arguments = {"client": client, "events": tuple(events)}
            replaced = impl.function(*(arguments[name] for name in impl.argnames))
            if replaced is not None:
                if len(replaced) != len(events) or not all(isinstance(one, NewEvent) for one in replaced):
                    raise PluginError(
                        f"{impl.plugin_name}: pgevents_before_save returns as many NewEvents as it was given "
                        f"({len(events)}) or None"
                    )
                events = list(replaced)
        return events


    def before_snapshot(self, client: EventClient, snapshot: Snapshot) -> Snapshot:
        """Run the hook as a chain, as `before_save`."""
        for impl in reversed(self.hook.pgevents_before_snapshot.get_hookimpls()):
            arguments = {"client": client, "snapshot": snapshot}
            replaced = impl.function(*(arguments[name] for name in impl.argnames))
            if replaced is not None:
                if not isinstance(replaced, Snapshot):
                    raise PluginError(f"{impl.plugin_name}: pgevents_before_snapshot returns a Snapshot or None")
                snapshot = replaced
        return snapshot


def _name_of(plugin: Any) -> str:
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__qualname__


def _check_hooks(plugin: Any) -> None:
    """Misspelt hooks and arguments are errors now, not silence at run time."""
    marked = 0
    for name in dir(plugin):
        if not name.startswith("pgevents_"):
            member = inspect.getattr_static(plugin, name, None)
            if hasattr(member, f"{PROJECT}_impl"):
                _fail_unknown(plugin, name)
            continue
        function = getattr(plugin, name)
        if name not in SPECS:
            _fail_unknown(plugin, name)
        if not hasattr(function, f"{PROJECT}_impl"):
            raise PluginError(f"{_name_of(plugin)}.{name} lacks the mark @pgevents.hookimpl")
        marked += 1
        offered = list(inspect.signature(SPECS[name]).parameters)
        for argument in inspect.signature(function).parameters:
            if argument not in offered:
                near = difflib.get_close_matches(argument, offered, 1, 0.3)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise PluginError(
                    f"{_name_of(plugin)}.{name} asks for {argument!r}, the hook offers {', '.join(offered)}{hint}"
                )
    if not marked:
        raise PluginError(f"{_name_of(plugin)} implements no hook; there are {', '.join(SPECS)}")


def _fail_unknown(plugin: Any, name: str) -> None:
    near = difflib.get_close_matches(name, SPECS, 1, 0.0)
    raise PluginError(f"{_name_of(plugin)}.{name} is no hook of pgevents; did you mean {near[0]}?")
