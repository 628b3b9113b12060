"""Calls hooks: as a chain or each plugin separately, with wrappers around all of them."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from types import NoneType
from typing import Any, TypeVar, cast

import attrs
import pluggy

from pgevents.errors import PluginError
from pgevents.events import NewEvent, StoredEvent
from pgevents.hooks import specs as hookspecs
from pgevents.hooks.details import Conflict, Operation, OperationRecord, Snapshot

__all__ = ["HookCalls", "call", "in_order"]

T = TypeVar("T")
Impl = pluggy.HookImpl

log = logging.getLogger("pgevents")

NESTED = {"pgevents_after_save": 10, "pgevents_after_commit": 3}
"""How deep calls of these hooks may nest, each caused by a save in the call before. The limit after a commit
is low, because what was saved there stays."""
_running: ContextVar[tuple[tuple[str, str], ...]] = ContextVar("pgevents_running_hooks", default=())
"""Hook and plugin of each such call that is running in this thread."""


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        """Skip properties: older versions of pluggy call them to look for the mark."""
        is_property = isinstance(inspect.getattr_static(plugin, name, None), property)
        return None if is_property else super().parse_hookimpl_opts(plugin, name)


class HookCalls:
    """Calls the hooks of one client's plugins as `hookspecs` promises.

    Attributes:
        client: The client, which is only passed on to hooks.
        hook: pluggy's caller for all hooks. Hooks with other rules are called by the methods here.
        implemented: The names of the hooks that any plugin implements.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.implemented: frozenset[str] = frozenset()
        self._manager = _Manager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.hook = self._manager.hook

    def _impls(self, hook: str) -> Sequence[Impl]:
        return getattr(self.hook, hook).get_hookimpls() if hook in self.implemented else ()

    def before_save(self, events: list[NewEvent]) -> list[NewEvent]:
        """Pass events that are about to be saved through the plugins."""
        return self._replace(
            "pgevents_before_save", in_order(self._impls("pgevents_before_save")), NewEvent, events
        )

    def before_decode(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """Pass stored events through the plugins before they are decoded."""
        impls = in_order(self._impls("pgevents_before_decode"))
        marked = [impl.tryfirst - impl.trylast for impl in impls]
        mirrored = [
            impl
            for mark in (1, 0, -1)
            for impl in _mirrored(mark, [i for i, m in zip(impls, marked, strict=True) if m == mark])
        ]
        return self._replace("pgevents_before_decode", mirrored, StoredEvent, events)

    def _replace(self, hook: str, impls: Sequence[Impl], kind: type[T], events: list[T]) -> list[T]:
        def check(plugin: str, given: list[T], replaced: Any) -> list[T]:
            events: list[Any] = list(replaced) if _is_sequence(replaced) else []
            if len(events) != len(given) or not all(isinstance(event, kind) for event in events):
                raise PluginError(
                    f"{plugin}: {hook} returns as many {kind.__name__}s as it was given ({len(given)}), "
                    "or None"
                )
            return events

        return self._chain(hook, impls, "events", events, check)

    def hidden_fields(self) -> dict[str, frozenset[str]]:
        """The fields by which no event can be found, as plugins declare them, by the event type's name."""
        hidden: dict[str, frozenset[str]] = {}
        for impl in self._impls("pgevents_hidden_fields"):
            result: Any = call(impl, {"client": self.client})
            if not isinstance(result, (Mapping, NoneType)):
                raise PluginError(f"{impl.plugin_name}: pgevents_hidden_fields returns a mapping, or None")
            by_type = cast("Mapping[str, Iterable[str]]", result or {})
            for event_type, fields in by_type.items():
                hidden[event_type] = hidden.get(event_type, frozenset()).union(fields)
        return hidden

    def before_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Pass a snapshot that is about to be saved through the plugins."""

        def check(plugin: str, given: Snapshot, replaced: Any) -> Snapshot:
            if not isinstance(replaced, Snapshot) or attrs.evolve(replaced, data=given.data) != given:
                raise PluginError(
                    f"{plugin}: pgevents_before_snapshot returns the snapshot with other data, or None"
                )
            return replaced

        impls = in_order(self._impls("pgevents_before_snapshot"))
        return self._chain("pgevents_before_snapshot", impls, "snapshot", snapshot, check)

    def _chain(
        self, hook: str, impls: Sequence[Impl], key: str, value: T, check: Callable[[str, T, Any], T]
    ) -> T:
        """Call each plugin with the result of the plugin before it, and the wrappers around all of them."""

        def run() -> T:
            current = value
            for impl in impls:
                if not impl.wrapper:
                    replaced = call(impl, {"client": self.client, key: _frozen(current)})
                    if replaced is not None:
                        current = check(impl.plugin_name, current, replaced)
            return current

        wrappers = [impl for impl in in_order(self._impls(hook)) if impl.wrapper]
        result = _wrapped(wrappers, {"client": self.client, key: _frozen(value)}, run)
        return check(self._names(wrappers), value, result) if wrappers else result

    def after_save(self, events: Sequence[Any]) -> None:
        """Call each plugin. An error reaches the caller."""
        hook, arguments = "pgevents_after_save", {"client": self.client, "events": events}
        impls = in_order(self._impls(hook))

        def run() -> list[Any]:
            plain = [impl for impl in impls if not impl.wrapper]
            results = [_recorded(hook, impl, arguments) for impl in plain]
            return [result for result in results if result is not None]

        _wrapped([impl for impl in impls if impl.wrapper], arguments, run)

    def notify(self, hook: str, **arguments: Any) -> Sequence[Any]:
        """Call each plugin. An error is logged and does not reach the caller; the next plugin is called."""
        arguments["client"] = self.client
        impls = in_order(self._impls(hook))

        def run() -> list[Any]:
            plain = [impl for impl in impls if not impl.wrapper]
            return [_logged(hook, impl.plugin_name, _recorded, hook, impl, arguments) for impl in plain]

        wrappers = [impl for impl in impls if impl.wrapper]
        if not wrappers:
            return run()
        names = self._names(wrappers)
        results = _logged(hook, names, _wrapped, wrappers, arguments, run)
        return results if _is_sequence(results) else [results]

    def check_nesting(self) -> None:
        """Stop a plugin that saves in a hook, is called for that save, and saves again, without end.

        Raises:
            PluginError: The calls are nested too deeply; names the plugin. Called before a save.
        """
        running = _running.get()
        for hook, limit in NESTED.items():
            plugins = [plugin for name, plugin in running if name == hook]
            if len(plugins) >= limit:
                names = " and ".join(dict.fromkeys(plugins[-limit:]))
                raise PluginError(
                    f"{names} saves in {hook}, which calls {hook} again, {limit} times within one another; "
                    "the last save was not written. Let the hook ignore events that it saves itself, "
                    "or follow the log with a subscription"
                )

    def plugins_of(self, hook: str) -> str:
        """The names of the plugins that implement a hook, for a message."""
        return self._names(in_order(self._impls(hook)))

    def _names(self, impls: Sequence[Impl]) -> str:
        return " and ".join(impl.plugin_name for impl in impls)

    def retry_delay(self, conflict: Conflict) -> float | None:
        """The longest delay in seconds that a plugin wants before the next try, or None."""
        longest: float | None = None
        for delay in self.notify("pgevents_validation_conflict", conflict=conflict):
            if isinstance(delay, (int, float)) and not isinstance(delay, bool) and 0 <= delay < math.inf:
                longest = max(delay, longest or 0.0)
            elif delay is not None:
                log.error("pgevents_validation_conflict returns seconds or None, not %r", delay)
        return longest

    @contextmanager
    def _observed(self, record: OperationRecord) -> Generator[OperationRecord, None, None]:
        operation = Operation(record)
        entered: list[tuple[str, Any]] = []
        for impl in in_order(self._impls("pgevents_observe")):
            arguments = {"client": self.client, "operation": operation}
            manager = _logged("pgevents_observe", impl.plugin_name, _entered, impl, arguments)
            if manager is not None:
                entered.append((impl.plugin_name, manager))
        error: BaseException | None = None
        try:
            yield record
        except BaseException as raised:
            error = raised
            raise
        finally:
            outcome = (type(error), error, error.__traceback__) if error is not None else (None, None, None)
            for name, manager in reversed(entered):
                _left(name, manager, outcome)

    def observed(self, record: OperationRecord) -> AbstractContextManager[OperationRecord]:
        """Let plugins watch what runs inside, which records its results."""
        return self._observed(record) if "pgevents_observe" in self.implemented else nullcontext(record)


def in_order(impls: Sequence[Impl]) -> Sequence[Impl]:
    """Implementations in the order of their calls: pluggy keeps the first one at the end of its list."""
    return impls[::-1]


def _mirrored(mark: int, impls: Sequence[Impl]) -> Sequence[Impl]:
    """pluggy calls the last registered first, but among those marked trylast the first registered."""
    return impls if mark else impls[::-1]


def _frozen(value: Any) -> Any:
    return tuple(value) if _is_sequence(value) else value


def _is_sequence(value: object) -> bool:
    return isinstance(value, (list, tuple))


def call(impl: Impl, arguments: Mapping[str, Any]) -> Any:
    """Call one implementation with the arguments that it takes."""
    return impl.function(*(arguments[name] for name in impl.argnames))


def _recorded(hook: str, impl: Impl, arguments: Mapping[str, Any]) -> Any:
    """Call a plugin, and record the call so that saves inside it can see how deep they are nested."""
    if hook not in NESTED:
        return call(impl, arguments)
    before = _running.set((*_running.get(), (hook, impl.plugin_name)))
    try:
        return call(impl, arguments)
    finally:
        _running.reset(before)


def _wrapped(wrappers: Sequence[Impl], arguments: Mapping[str, Any], inner: Callable[[], T]) -> T:
    """Run wrappers as pluggy does, around any function."""
    if not wrappers:
        return inner()
    generator = call(wrappers[0], arguments)
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
    except Exception:  # any error of a plugin: the save is done
        log.exception("%s of the plugin %s failed", hook, plugin_name)
        return None


def _entered(impl: Impl, arguments: Mapping[str, Any]) -> Any:
    manager = call(impl, arguments)
    if manager is not None:
        manager.__enter__()
    return manager


def _left(plugin_name: str, manager: Any, outcome: tuple[Any, ...]) -> None:
    """Exit an observer's context manager, and log its errors.

    A `@contextmanager` raises the operation's error again; that is not logged.
    """
    try:
        manager.__exit__(*outcome)
    except Exception as error:
        if error is not outcome[1]:
            log.exception("pgevents_observe of the plugin %s failed", plugin_name)
