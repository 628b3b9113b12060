"""Events and views to JSON and back: cattrs for the classes, upcasters for older versions.

A save is refused unless a read will give what was saved: it decodes its own JSON and compares the result,
except where the classes of the values prove the two equal (`fast.preparer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import cattrs

from pgevents.caches import Cache
from pgevents.codec import fast
from pgevents.codec.converter import make_event_converter
from pgevents.codec.equality import Difference, difference
from pgevents.codec.faults import Fault, fault_in_data, fault_in_value
from pgevents.codec.jsontext import dump_and_load, dump_json, load_json
from pgevents.codec.times import time_of
from pgevents.declarations import upcast_results
from pgevents.errors import EventDecodeError, EventEncodeError, PgEventsError, shown
from pgevents.event_types import EventType
from pgevents.events import Parts

__all__ = [
    "VERSION_KEY",
    "Serializer",
    "dump_and_load",
    "dump_json",
    "load_json",
    "make_event_converter",
    "time_of",
]

T = TypeVar("T")
V = TypeVar("V")
VERSION_KEY = "$version"
"""The key of the version of an event's data in its stored metadata; absent for version 1."""


class Serializer:
    """Encodes and decodes for one client, with one cattrs converter.

    Attributes:
        converter: The converter.
        is_usual: Whether it is pgevents' own: no plugin says how values of types are stored.
        from_text: By class, the function from stored JSON text to an instance. Its error does not name the
            field at fault.
        prepare: By class, the function from an instance to what is written so that a read gives an equal one;
            None where only `dump` can tell.
        reads_any_order: By class, whether jsonb's order of keys makes no difference to a read.
        personal: Types of events and projections whose values stay out of error texts; plugins add to it.
    """

    def __init__(self) -> None:
        self.personal: set[str] = set()
        self._take(make_event_converter(), is_ours=True)

    def use(self, converter: cattrs.Converter) -> None:
        """From now on encode and decode with this converter."""
        self._take(converter, is_ours=False)

    def _take(self, converter: cattrs.Converter, *, is_ours: bool) -> None:
        self.converter = converter
        self.is_usual = is_ours
        # Without detailed validation a decoder is fast, and its error does not name the field at fault.
        quick = converter.copy(detailed_validation=False)
        self._structure: Cache[type[Any], Callable[[Any, Any], Any]] = Cache(
            "structuring functions", quick.get_structure_hook
        )
        self._unstructure: Cache[type[Any], Callable[[Any], Any]] = Cache(
            "unstructuring functions", converter.get_unstructure_hook
        )
        self.prepare: Cache[type[Any], Callable[[Any], Any]] = Cache(
            "preparers of JSON", fast.preparer if is_ours else lambda cls: lambda data: None
        )
        self.reads_any_order: Cache[type[Any], bool] = Cache(
            "classes read in any order", fast.reads_any_order if is_ours else lambda cls: False
        )
        self._has_known_keys: Cache[type[Any], Callable[[Any], bool]] = Cache(
            "checks of keys", fast.key_check if is_ours else lambda cls: lambda data: False
        )
        self.from_text: Cache[type[Any], Callable[[str], Any]] = Cache(
            "readers of JSON", self._text_decoder if is_ours else self._slow_text_decoder
        )

    def _text_decoder(self, cls: type[Any]) -> Callable[[str], Any]:
        return fast.instance_decoder(cls) or self._slow_text_decoder(cls)

    def _slow_text_decoder(self, cls: type[Any]) -> Callable[[str], Any]:
        structure = self._structure[cls]
        return lambda text: structure(load_json(text), cls)

    # -- to JSON ------------------------------------------------------------

    def unstructure_hook(self, cls: type[Any]) -> Callable[[Any], Any]:
        """The converter's function that makes a JSON-ready value of an instance."""
        return self._unstructure[cls]

    def dump_together(self, given: Sequence[Any]) -> list[str] | None:
        """The data of instances as JSON text, written in one step; None if `dump` has to look at each."""
        prepare = self.prepare
        try:
            values = [prepare[instance.__class__](instance) for instance in given]
        except AttributeError:  # an instance lacks a field; `dump` says which
            return None
        return None if values[0] is None else fast.dump_lines(values)

    def dump(self, data: object, cls: type[Any] | None, what: str) -> tuple[str, Any]:
        """An event's data as JSON text, and as a read will give them.

        Args:
            data: An instance or a dict.
            cls: The class that a read makes of it; None for a dict, or where a plugin decides that.
            what: What to call it in an error.

        Raises:
            EventEncodeError: Not an object, a value without a JSON form, one that does not fit its field, or
                one that a read would give back as another.
        """
        if cls is data.__class__:
            lines = self.dump_together((data,))
            if lines is not None:
                return lines[0], data
        elif cls is None and isinstance(data, dict):
            return dump_and_load(cast("dict[str, Any]", data), what)
        plain = self.encode(data, what)
        if cls is data.__class__:
            text = fast.dump(plain)
            read = None if text is None else self._read_equal(text, data)
            if text is not None and read is not None:
                return text, read
        text = dump_json(plain, what)
        plain = load_json(text)
        if cls is None:
            return text, plain
        read = self.check(plain, cls, what)
        if isinstance(data, dict):  # a hook has put it in place of an instance
            self._refuse_lost_keys(plain, read, cls, what)
        else:
            self.require_equal(data, read, what)
        return text, read

    def _read_equal(self, text: str, data: Any) -> Any:
        """What a read makes of the text, if that equals what was given; else None."""
        try:
            read = self.from_text[data.__class__](text)
        except Exception:  # the caller meets the same fault, and names type and field
            return None
        return read if difference(data, read) is None else None

    def require_equal(self, given: Any, read: Any, what: str) -> None:
        """Check that a read would give what was given.

        Raises:
            EventEncodeError: Names the field at which they differ.
        """
        _refuse_difference(difference(given, read), given.__class__, what)

    def encode(self, data: object, what: str) -> dict[str, Any]:
        """An event's data, or a view, as a JSON-ready dict.

        Raises:
            EventEncodeError: Not an object, or a value without a JSON form.
        """
        try:
            plain = self._unstructure[data.__class__](data)
        except PgEventsError:
            raise
        except Exception as error:  # whatever a class, an annotation or a hook of the converter raises
            fault = fault_in_value(self.converter, data, error)
            reason, cause = self._reason(what, error, fault.reason)
            raise EventEncodeError(
                f"{what}{fault.place} cannot be stored: {reason}", field=fault.field
            ) from cause
        if not isinstance(plain, dict):
            name = type(data).__name__ if what in self.personal else shown(data)
            raise EventEncodeError(f"{what}: data is a JSON object (an attrs class or a dict), not {name}")
        document = cast("dict[str, Any]", plain)
        for key in document:
            if type(key) is not str:
                name = type(key).__name__ if what in self.personal else shown(key)
                raise EventEncodeError(f"{what}: JSON objects have text keys, not {name}")
        return document

    # -- from JSON ------------------------------------------------------------

    def from_dict(self, data: dict[str, Any], cls: type[V], what: str) -> V:
        """An instance of `cls` from a dict that a caller gave instead of one.

        Args:
            data: The values by field, in their JSON form or of the field's type.
            cls: The class.
            what: What to call it in an error.

        Raises:
            EventEncodeError: A value that does not fit its field, or a key that names no field, at any depth.
        """
        plain = self.encode(data, what)
        instance = self.check(plain, cls, what)
        self._refuse_lost_keys(plain, instance, cls, what)
        return instance

    def check_text(self, text: str, cls: type[Any], what: str) -> None:
        """Check JSON text as `from_dict` checks a dict, without writing plain classes again.

        Raises:
            EventEncodeError: A value that does not fit its field, or a key that names no field, at any depth.
        """
        data: dict[str, Any] = load_json(text)
        try:
            self.from_text[cls](text)
            if self._has_known_keys[cls](data):
                return
        except Exception:  # the slower form decides, and names the field at fault
            pass
        self.from_dict(data, cls, what)

    def check(self, data: dict[str, Any], cls: type[V], event_type: str) -> V:
        """Check that data can be read back before they are stored for ever; the instance that a read gives.

        Raises:
            EventEncodeError: Names the type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # decode again, with the decoder whose error names the field at fault
            try:
                return self.converter.structure(data, cls)
            except Exception as error:
                fault = fault_in_data(error, data, cls)
                reason, cause = self._reason(event_type, error, fault.reason)
                raise EventEncodeError(
                    f"{event_type}{fault.place}: {reason}; it does not fit {cls.__qualname__}",
                    field=fault.field,
                ) from cause

    def _refuse_lost_keys(self, plain: dict[str, Any], read: Any, cls: type[Any], what: str) -> None:
        for path, is_left_out in _misread(plain, self.encode(read, what)):
            field = ".".join(path)
            if not is_left_out:
                reason = f"expected an object; it does not fit {cls.__qualname__}"
                raise EventEncodeError(f"{what}, field {field!r}: {reason}", field=field)
            inside = f" (in {'.'.join(path[:-1])})" if path[1:] else ""
            raise EventEncodeError(
                f"{what}: {cls.__qualname__} has no field {path[-1]!r}{inside}", field=field
            )

    def decode(self, data: dict[str, Any], cls: type[V], *, event_id: int | None, event_type: str) -> V:
        """An instance of `cls` from stored data.

        Raises:
            EventDecodeError: Names the event, its type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # the slow decoder's error names the field at fault
            return self._decode_slowly(data, cls, event_id, event_type)

    def decode_text(self, text: str, cls: type[V], what: str) -> V:
        """An instance of `cls` from stored JSON text; errors call it `what`.

        Raises:
            EventDecodeError: Names the field that does not fit.
        """
        try:
            return cast(V, self.from_text[cls](text))
        except Exception:  # the slow decoder's error names the field at fault
            return self._decode_slowly(load_json(text), cls, None, what)

    def _decode_slowly(self, data: dict[str, Any], cls: type[V], event_id: int | None, event_type: str) -> V:
        """Decode again, with the converter whose error names the field at fault."""
        try:
            return self.converter.structure(data, cls)
        except Exception as error:
            fault = fault_in_data(error, data, cls)
            reason, cause = self._reason(event_type, error, fault.reason)
            place = f"event {event_id}" if event_id is not None else "data"
            raise EventDecodeError(
                f"{place} of type {event_type!r}{fault.place}: {reason}; it does not fit {cls.__qualname__}. "
                "Give the field a default, or raise the event's version and add an upcaster",
                event_id=event_id,
                event_type=event_type,
                field=fault.field,
            ) from cause

    def _reason(self, what: str, error: Exception, reason: str) -> tuple[str, Exception | None]:
        """The reason and the cause to report; neither for personal data, because both may quote values."""
        if what in self.personal:
            return "a value that is not shown, because it is personal", None
        return reason, error

    def decode_event(self, event_type: EventType, data: Any, version: object, event_id: int | None) -> Any:
        """Stored data of any version as an instance of the type's class, through its upcasters; as `Parts` if
        they split or drop the event.

        Raises:
            EventDecodeError: The version is not one, an upcaster fails, or the data do not fit the class.
        """
        event = f"{'data' if event_id is None else f'event {event_id}'} of type {event_type.name!r}"

        def fault(reason: str) -> EventDecodeError:
            return EventDecodeError(f"{event}: {reason}", event_id=event_id, event_type=event_type.name)

        if type(version) is not int or version < 1:
            raise fault(f"{VERSION_KEY} in its metadata is a whole number from 1 on, not {version!r:.40}")
        if version > event_type.version:
            raise fault(
                f"it has version {version}, this program knows {event_type.version}: "
                "it was written by a newer one"
            )
        parts: list[Any] = [data]
        for step in range(version, event_type.version) if event_type.upcasters else ():
            next_parts: list[Any] = []
            for part in parts:
                try:
                    changed: Any = event_type.upcasters[step](part)
                except Exception as error:
                    reason, cause = self._reason(event_type.name, error, repr(error))
                    raise fault(f"the upcaster from version {step} failed: {reason}") from cause
                results = upcast_results(changed)
                if not all(isinstance(result, dict) for result in results):
                    shown = type(changed).__name__ if event_type.name in self.personal else f"{changed!r:.40}"
                    raise fault(
                        f"the upcaster from version {step} returned {shown}, not a dict or a list of dicts"
                    )
                next_parts += results
            parts = next_parts
        decoded = [
            self.decode(part, event_type.cls, event_id=event_id, event_type=event_type.name) for part in parts
        ]
        return decoded[0] if len(decoded) == 1 else Parts(tuple(decoded))


def _refuse_difference(mismatch: Difference | None, cls: type[Any], what: str) -> None:
    if mismatch is None:
        return
    fault = Fault(".".join(mismatch.path) or None, str(mismatch))
    advice = (
        "a converter, validator or __attrs_post_init__ changes it each time that it is made"
        if type(mismatch.given) is type(mismatch.read) and not mismatch.reason
        else "give a value of the field's own type, or teach the converter the type"
    )
    raise EventEncodeError(
        f"{what}{fault.place}: {mismatch}. "
        f"What is read must be what was saved ({cls.__qualname__}): {advice}",
        field=fault.field,
    )


def _misread(given: Any, read: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The places where a read of the given JSON leaves out a key, or makes up an object of defaults; with
    whether it is a key that is left out."""
    if isinstance(given, dict) and isinstance(read, dict):
        before, after = cast("dict[str, Any]", given), cast("dict[str, Any]", read)
        for key, value in before.items():
            if key not in after:
                yield (*path, key), True
            else:
                yield from _misread(value, after[key], (*path, key))
    elif isinstance(given, (list, tuple)) and isinstance(read, (list, tuple)):
        pairs = zip(cast("list[Any]", given), cast("list[Any]", read), strict=False)
        for n, (value, other) in enumerate(pairs):
            yield from _misread(value, other, (*path, str(n)))
    elif isinstance(given, (str, list, tuple)) and isinstance(read, dict):
        yield path, False
