"""The plugins of one client: registered with care, and called as `hookspecs` promises."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import entry_points
from inspect import isclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import attrs
import pluggy

from pgevents import hookspecs
from pgevents.details import Conflict, Operation, Snapshot
from pgevents.errors import PluginError
from pgevents.events import NewEvent, StoredEvent
from pgevents.hookspecs import PROJECT, SPECS
from pgevents.plugin_checks import check_plugin, name_of
from pgevents.serialization import make_event_converter

if TYPE_CHECKING:
    import cattrs

    from pgevents.client import EventClient

__all__ = ["Plugins"]

T = TypeVar("T")
Impl = pluggy.HookImpl

log = logging.getLogger("pgevents")

OFF_VARIABLE = "PGEVENTS_PLUGINS_OFF"
"""Names of installed plugins that "auto" leaves out, separated by commas; `*` for all."""


class Plugins:
    """The plugins of one client: `client.plugins`.

    Attributes:
        client: The client.
        hook: pluggy's caller for all hooks.
        implemented: The names of the hooks that any plugin implements; empty when there is nothing to call.
    """

    def __init__(self, client: EventClient) -> None:
        self.client = client
        self.implemented: frozenset[str] = frozenset()
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.hook = self._manager.hook
        self._event_classes: dict[str, list[type[Any]]] = {}

    # -- registration ------------------------------------------------------------------------------------------

    def register(self, plugin: Any, name: str | None = None) -> str:
        """Add a plugin.

        Args:
            plugin: An instance, or a module.
            name: A name for `unregister`; by default that of the module or class, with a number if it is taken.

        Returns:
            The plugin's name.

        Raises:
            PluginError: A class in place of an instance, a misspelt hook, a wrong argument's name, a missing mark, no
                hook at all, a name that is taken, or a plugin that is registered already. Nothing was changed.
        """
        check_plugin(plugin)
        name = name or self._free_name(plugin)
        try:
            self._manager.register(plugin, name)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"{name_of(plugin)} cannot be registered: {str(error).splitlines()[0]}") from error
        try:
            self._note_changes(name)
            self._call_own(plugin, "pgevents_registered", client=self.client)
        except BaseException:
            self._manager.unregister(plugin)
            self._note_changes(name)
            raise
        return name

    def unregister(self, plugin: Any) -> None:
        """Remove a plugin, by itself or by its name: it is not called any more, nor are its types known.

        Raises:
            PluginError: It is not registered.
        """
        found = self._manager.get_plugin(plugin) if isinstance(plugin, str) else plugin
        name = None if found is None else self._manager.get_name(found)
        if name is None:
            raise PluginError(f"{plugin!r} is not registered; these are: {', '.join(self.list()) or 'none'}")
        self._manager.unregister(name=name)
        self._note_changes(name)

    def load_installed(self) -> list[str]:
        """Register what installed packages offer under the entry-point group `pgevents`; their names.

        An entry point names an instance, a module, or a class that can be made without arguments. Those that the
        environment variable `PGEVENTS_PLUGINS_OFF` names (`*` for all) are left out, and so is what is
        registered under its name already.

        Raises:
            PluginError: One that cannot be loaded or registered; the message names its package.
        """
        off = {name.strip() for name in os.environ.get(OFF_VARIABLE, "").split(",")}
        added: list[str] = []
        for point in sorted(set(entry_points(group=PROJECT)), key=lambda one: (one.name, one.value)):
            if "*" in off or point.name in off or self._manager.get_plugin(point.name) is not None:
                continue
            try:
                plugin = point.load()
                added.append(self.register(plugin() if isclass(plugin) else plugin, point.name))
            except Exception as error:
                package = point.dist.name if point.dist is not None else "?"
                raise PluginError(
                    f"the plugin {point.name!r} ({point.value}) of the installed package {package} failed: {error}; "
                    f"{OFF_VARIABLE}={point.name} leaves it out"
                ) from error
        return added

    def get(self, name: str) -> Any:
        """The plugin of a name, or None."""
        return self._manager.get_plugin(name)

    def __iter__(self) -> Iterator[Any]:
        return iter([plugin for _, plugin in self._manager.list_name_plugin()])

    def __len__(self) -> int:
        return len(self._manager.list_name_plugin())

    def __contains__(self, plugin: object) -> bool:
        return any(plugin is one or plugin == name for name, one in self._manager.list_name_plugin())

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
        """Which hooks have an implementation at all, and what that means for the client."""
        before = self.implemented
        self.implemented = frozenset(hook for hook in SPECS if getattr(self.hook, hook).get_hookimpls())
        plugin = self._manager.get_plugin(name)
        self._event_classes.pop(name, None)
        self.client.use_plugins(before | self.implemented)
        if plugin is not None and "pgevents_register_events" in self.implemented:
            brought = self._call_own(plugin, "pgevents_register_events", types=self.client.types)
            self._event_classes[name] = [cls for classes in brought for cls in classes or ()]
            self.client.use_plugins(self.implemented)

    def _call_own(self, plugin: Any, hook: str, **arguments: Any) -> list[Any]:
        """Call a hook of one plugin alone."""
        impls = [impl for impl in _in_order(self._impls(hook)) if impl.plugin is plugin]
        return [_call(impl, arguments) for impl in impls]

    def _impls(self, hook: str) -> Sequence[Impl]:
        return getattr(self.hook, hook).get_hookimpls() if hook in self.implemented else ()

    def converter(self) -> cattrs.Converter:
        """A converter that all plugins have configured, in order of registration."""
        made = make_event_converter()
        for plugin in self:
            self._call_own(plugin, "pgevents_configure_converter", converter=made)
        return made

    def event_classes(self) -> list[type[Any]]:
        """The event classes that plugins brought."""
        return [cls for classes in self._event_classes.values() for cls in classes]

    # -- calls -------------------------------------------------------------------------------------------------

    def before_save(self, events: list[NewEvent]) -> list[NewEvent]:
        """What plugins make of events that are about to be saved."""
        return self._several("pgevents_before_save", _in_order(self._impls("pgevents_before_save")), NewEvent, events)

    def before_decode(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """What plugins make of stored events before they become instances."""
        impls = _in_order(self._impls("pgevents_before_decode"))
        marked = [impl.tryfirst - impl.trylast for impl in impls]
        mirrored = [impl for mark in (1, 0, -1) for impl in _mirrored(mark, [i for i, m in zip(impls, marked) if m == mark])]
        return self._several("pgevents_before_decode", mirrored, StoredEvent, events)

    def _several(self, hook: str, impls: Sequence[Impl], kind: type[T], events: list[T]) -> list[T]:
        def check(plugin: str, given: list[T], replaced: Any) -> list[T]:
            several: list[Any] = list(replaced) if _is_sequence(replaced) else []
            if len(several) != len(given) or not all(isinstance(one, kind) for one in several):
                raise PluginError(
                    f"{plugin}: {hook} returns as many {kind.__name__}s as it was given ({len(given)}), or None"
                )
            return several

        return self._chain(hook, impls, "events", events, check)

    def before_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """What plugins make of a snapshot that is about to be saved."""

        def check(plugin: str, given: Snapshot, replaced: Any) -> Snapshot:
            if not isinstance(replaced, Snapshot) or attrs.evolve(replaced, data=given.data) != given:
                raise PluginError(f"{plugin}: pgevents_before_snapshot returns the snapshot with other data, or None")
            return replaced

        impls = _in_order(self._impls("pgevents_before_snapshot"))
        return self._chain("pgevents_before_snapshot", impls, "snapshot", snapshot, check)

    def _chain(self, hook: str, impls: Sequence[Impl], key: str, value: T, check: Callable[[str, T, Any], T]) -> T:
        """Each plugin with what the one before it returned; wrappers around them all."""

        def run() -> T:
            current = value
            for impl in impls:
                if not impl.wrapper:
                    replaced = _call(impl, {"client": self.client, key: _frozen(current)})
                    if replaced is not None:
                        current = check(impl.plugin_name, current, replaced)
            return current

        wrappers = [impl for impl in _in_order(self._impls(hook)) if impl.wrapper]
        result = _wrapped(wrappers, {"client": self.client, key: _frozen(value)}, run)
        return check(" and ".join(impl.plugin_name for impl in wrappers), value, result) if wrappers else result

    def tell(self, hook: str, **arguments: Any) -> Sequence[Any]:
        """Call each plugin by itself: its error is logged, and neither reaches the caller nor keeps the next from it."""
        arguments["client"] = self.client
        impls = _in_order(self._impls(hook))

        def run() -> list[Any]:
            plain = [impl for impl in impls if not impl.wrapper]
            return [_logged(hook, impl.plugin_name, _call, impl, arguments) for impl in plain]

        wrappers = [impl for impl in impls if impl.wrapper]
        if not wrappers:
            return run()
        names = " and ".join(impl.plugin_name for impl in wrappers)
        results = _logged(hook, names, _wrapped, wrappers, arguments, run)
        return results if _is_sequence(results) else [results]

    def retry_delay(self, conflict: Conflict) -> float | None:
        """The longest wait that a plugin asks for after a conflict, or None."""
        longest: float | None = None
        for delay in self.tell("pgevents_validation_conflict", conflict=conflict):
            if isinstance(delay, (int, float)) and not isinstance(delay, bool) and 0 <= delay < math.inf:
                longest = max(delay, longest or 0.0)
            elif delay is not None:
                log.error("pgevents_validation_conflict returns seconds or None, not %r", delay)
        return longest

    @contextmanager
    def _observed(self, operation: Operation) -> Generator[Operation, None, None]:
        entered: list[tuple[str, Any]] = []
        for impl in _in_order(self._impls("pgevents_observe")):
            arguments = {"client": self.client, "operation": operation}
            manager = _logged("pgevents_observe", impl.plugin_name, _entered, impl, arguments)
            if manager is not None:
                entered.append((impl.plugin_name, manager))
        error: BaseException | None = None
        try:
            yield operation
        except BaseException as raised:
            error = raised
            raise
        finally:
            outcome = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
            for name, manager in reversed(entered):
                _left(name, manager, outcome)

    def observed(self, operation: Operation) -> AbstractContextManager[Operation]:
        """Let plugins watch what runs inside."""
        return self._observed(operation) if "pgevents_observe" in self.implemented else nullcontext(operation)

    def list(self) -> Sequence[str]:
        """The names of the plugins, in order of registration."""
        return [name for name, _ in self._manager.list_name_plugin()]


def _in_order(impls: Sequence[Impl]) -> Sequence[Impl]:
    """As pluggy calls them: it keeps those to be called first at the end."""
    return impls[::-1]


def _mirrored(mark: int, impls: Sequence[Impl]) -> Sequence[Impl]:
    """pluggy calls the last registered first, but among those marked trylast the first."""
    return impls if mark else impls[::-1]


def _frozen(value: Any) -> Any:
    return tuple(value) if _is_sequence(value) else value


def _is_sequence(value: object) -> bool:
    return isinstance(value, (list, tuple))


def _call(impl: Impl, arguments: Mapping[str, Any]) -> Any:
    return impl.function(*(arguments[name] for name in impl.argnames))


def _wrapped(wrappers: Sequence[Impl], arguments: Mapping[str, Any], inner: Callable[[], T]) -> T:
    """What pluggy does with wrappers, around something that is more than a list of calls."""
    if not wrappers:
        return inner()
    generator = _call(wrappers[0], arguments)
    try:
        next(generator)
    except StopIteration:
        raise PluginError(f"the wrapper of {wrappers[0].plugin_name} did not yield") from None
    try:
        try:
            result = _wrapped(wrappers[1:], arguments, inner)
        except BaseException as error:
            generator.throw(error)
        else:
            generator.send(result)
    except StopIteration as stop:
        return cast(T, stop.value)
    raise PluginError(f"the wrapper of {wrappers[0].plugin_name} yielded twice")


def _logged(hook: str, plugin_name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception:
        log.exception("%s of the plugin %s failed", hook, plugin_name)
        return None


def _entered(impl: Impl, arguments: Mapping[str, Any]) -> Any:
    manager = _call(impl, arguments)
    if manager is not None:
        manager.__enter__()
    return manager


def _left(plugin_name: str, manager: Any, outcome: tuple[Any, ...]) -> None:
    """Leave an observer's context manager; a `@contextmanager` raises what it was given, which is no error of its own."""
    try:
        manager.__exit__(*outcome)
    except Exception as error:
        if error is not outcome[1]:
            log.exception("pgevents_observe of the plugin %s failed", plugin_name)
