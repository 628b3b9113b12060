"""Events and views to JSON and back: cattrs for the classes, upcasters for their past.

What is saved is what is read, or it is refused: a save makes of its JSON what a read will make of it, and
compares the two, unless the classes of the values prove them equal (`fast.writer`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import attrs
import cattrs

from pgevents.codec import fast
from pgevents.codec.converter import make_event_converter
from pgevents.codec.equality import Difference, difference
from pgevents.codec.jsontext import dump_and_load, dump_json, load_json
from pgevents.codec.times import time_of
from pgevents.errors import EventDecodeError, EventEncodeError, PgEventsError, shown
from pgevents.events import EventType

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
"""Where the version of an event's data stands in its stored metadata, when it is not 1."""


class _ByClass(dict[type[Any], T], Generic[T]):
    """Something for each class, made when it is asked for the first time."""

    def __init__(self, make: Callable[[type[Any]], T]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, cls: type[Any]) -> T:
        made = self[cls] = self._make(cls)
        return made


class Serializer:
    """Encodes and decodes for one client, with one cattrs converter.

    Attributes:
        converter: The converter.
        from_text: By class, what makes an instance of stored JSON text; it raises, but does not say where.
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
        # A decoder is fast because it does not keep track of the field that it is at.
        quick = converter.copy(detailed_validation=False)
        self._structure: _ByClass[Callable[[Any, Any], Any]] = _ByClass(quick.get_structure_hook)
        self._unstructure: _ByClass[Callable[[Any], Any]] = _ByClass(converter.get_unstructure_hook)
        self._write: _ByClass[Callable[[Any], str | None]] = _ByClass(
            fast.writer if is_ours else lambda cls: lambda data: None
        )
        self.from_text: _ByClass[Callable[[str], Any]] = _ByClass(
            self._text_decoder if is_ours else self._slow_text_decoder
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

    def dump(self, data: object, cls: type[Any] | None, what: str) -> tuple[str, Any]:
        """An event's data as JSON text, and as a read will give them.

        Args:
            data: An instance or a dict.
            cls: The class that a read makes of it; None if that is not known, or for a dict.
            what: What to call it in an error.

        Raises:
            EventEncodeError: Not an object, a value without a JSON form, one that does not fit its field, or
                one that a read would give back as another.
        """
        if cls is data.__class__:
            text = self._write[cls](data)
            if text is not None:
                return text, data
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
        if isinstance(data, dict):  # put in place of an instance, by a hook
            self._refuse_lost_keys(plain, read, cls, what)
        else:
            self.require_equal(data, read, what)
        return text, read

    def _read_equal(self, text: str, data: Any) -> Any:
        """What a read makes of the text, if it is what was given; else None, and a closer look says why."""
        try:
            read = self.from_text[data.__class__](text)
        except Exception:  # the closer look of the caller meets it again, and names type and field
            return None
        return read if difference(data, read) is None else None

    def require_equal(self, given: Any, read: Any, what: str) -> None:
        """That what a read would give is what was given.

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
            place = self._place_of_fault(data, what)
            reason, cause = self._reason(what, error, _told(error, data.__class__))
            raise EventEncodeError(f"{place} cannot be stored: {reason}") from cause
        if not isinstance(plain, dict):
            name = type(data).__name__ if what in self.personal else shown(data)
            raise EventEncodeError(f"{what}: data is a JSON object (an attrs class or a dict), not {name}")
        found = cast("dict[str, Any]", plain)
        for key in found:
            if type(key) is not str:
                name = type(key).__name__ if what in self.personal else shown(key)
                raise EventEncodeError(f"{what}: JSON objects have text keys, not {name}")
        return found

    def _place_of_fault(self, data: Any, what: str) -> str:
        """What to say of an instance that cannot be made JSON: at which field, if one by one they tell."""
        for one in attrs.fields(data.__class__) if attrs.has(data.__class__) else ():
            try:
                self.converter.unstructure(getattr(data, one.name), unstructure_as=one.type)
            except Exception:  # this is the field that is looked for; the caller raises its error
                return f"{what}, field {one.name!r}"
        return what

    # -- from JSON ------------------------------------------------------------

    def from_dict(self, data: dict[str, Any], cls: type[V], what: str) -> V:
        """An instance of `cls` from a dict that a caller gave in its place.

        Args:
            data: By field, values as JSON or as the field has them.
            cls: The class.
            what: What to call it in an error.

        Raises:
            EventEncodeError: A value that does not fit its field, or a key that is no field, at any depth.
        """
        plain = self.encode(data, what)
        made = self.check(plain, cls, what)
        self._refuse_lost_keys(plain, made, cls, what)
        return made

    def check(self, data: dict[str, Any], cls: type[V], event_type: str) -> V:
        """That what is about to be stored can be read back, for the log keeps it for ever; the instance.

        Raises:
            EventEncodeError: Names the type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # once more, with a decoder that knows the field that it is at, and raises
            try:
                return self.converter.structure(data, cls)
            except Exception as error:
                field, reason = _first_fault(error, cls)
                reason, cause = self._reason(event_type, error, reason)
                at_field = f", field {field!r}" if field else ""
                raise EventEncodeError(
                    f"{event_type}{at_field}: {reason}; it does not fit {cls.__qualname__}"
                ) from cause

    def _refuse_lost_keys(self, plain: dict[str, Any], read: Any, cls: type[Any], what: str) -> None:
        lost = _lost_key(plain, self.encode(read, what))
        if lost is not None:
            inside = f" (in {'.'.join(lost[:-1])})" if lost[1:] else ""
            raise EventEncodeError(f"{what}: {cls.__qualname__} has no field {lost[-1]!r}{inside}")

    def decode(self, data: dict[str, Any], cls: type[V], *, event_id: int | None, event_type: str) -> V:
        """An instance of `cls` from stored data.

        Raises:
            EventDecodeError: Names the event, its type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # likewise
            return self._decode_slowly(data, cls, event_id, event_type)

    def decode_text(self, text: str, cls: type[V], what: str) -> V:
        """An instance of `cls` from stored JSON text; `what` it is of, for an error.

        Raises:
            EventDecodeError: Names the field that does not fit.
        """
        try:
            return cast(V, self.from_text[cls](text))
        except Exception:  # likewise
            return self._decode_slowly(load_json(text), cls, None, what)

    def _decode_slowly(self, data: dict[str, Any], cls: type[V], event_id: int | None, event_type: str) -> V:
        """Once more, with a converter that keeps track of the field that it is at."""
        try:
            return self.converter.structure(data, cls)
        except Exception as error:
            field, reason = _first_fault(error, cls)
            reason, cause = self._reason(event_type, error, reason)
            place = f"event {event_id}" if event_id is not None else "data"
            at_field = f", field {field!r}" if field else ""
            raise EventDecodeError(
                f"{place} of type {event_type!r}{at_field}: {reason}; it does not fit {cls.__qualname__}. "
                "Give the field a default, or raise the event's version and add an upcaster",
                event_id=event_id,
                event_type=event_type,
                field=field,
            ) from cause

    def _reason(self, what: str, error: Exception, reason: str) -> tuple[str, Exception | None]:
        """What an error says, and its cause; of personal data neither, for both may quote values."""
        if what in self.personal:
            return "a value that is not shown, because it is personal", None
        return reason, error

    def decode_event(self, kind: EventType, data: Any, version: object, event_id: int | None) -> Any:
        """Stored data of any version as an instance of the type's class, through its upcasters.

        Raises:
            EventDecodeError: No version, an upcaster fails, or the data does not fit the class.
        """
        event = f"event {event_id} of type {kind.name!r}"

        def fault(reason: str) -> EventDecodeError:
            return EventDecodeError(f"{event}: {reason}", event_id=event_id, event_type=kind.name)

        if type(version) is not int or version < 1:
            raise fault(f"{VERSION_KEY} in its metadata is a whole number from 1 on, not {version!r:.40}")
        if version > kind.version:
            raise fault(
                f"it has version {version}, this program knows {kind.version}: it was written by a newer one"
            )
        for step in range(version, kind.version) if kind.upcasters else ():
            try:
                changed: Any = kind.upcasters[step](data)
            except Exception as error:
                reason, cause = self._reason(kind.name, error, repr(error))
                raise fault(f"the upcaster from version {step} failed: {reason}") from cause
            if not isinstance(changed, dict):
                shown = type(changed).__name__ if kind.name in self.personal else f"{changed!r:.40}"
                raise fault(f"the upcaster from version {step} returned {shown}, not a dict")
            data = cast("dict[str, Any]", changed)
        return self.decode(data, kind.cls, event_id=event_id, event_type=kind.name)


def _refuse_difference(found: Difference | None, cls: type[Any], what: str) -> None:
    if found is None:
        return
    at_field = f", field {'.'.join(found.path)!r}" if found.path else ""
    advice = (
        "a converter, validator or __attrs_post_init__ changes it each time that it is made"
        if type(found.given) is type(found.read) and not found.reason
        else "give a value of the field's own type, or teach the converter the type"
    )
    raise EventEncodeError(
        f"{what}{at_field}: {found}. What is read must be what was saved ({cls.__qualname__}): {advice}"
    )


def _lost_key(given: Any, read: Any) -> tuple[str, ...] | None:
    """Where a key stands that JSON has before, and not after it was an instance."""
    if isinstance(given, dict) and isinstance(read, dict):
        before, after = cast("dict[str, Any]", given), cast("dict[str, Any]", read)
        for key, value in before.items():
            found = (key,) if key not in after else _lost_key(value, after[key])
            if found is not None:
                return found if key not in after else (key, *found)
    elif isinstance(given, (list, tuple)) and isinstance(read, (list, tuple)):
        pairs = zip(cast("list[Any]", given), cast("list[Any]", read), strict=False)
        for n, (value, other) in enumerate(pairs):
            found = _lost_key(value, other)
            if found is not None:
                return (str(n), *found)
    return None


def _told(error: BaseException, cls: type[Any]) -> str:
    """What an error means for who declared the class."""
    if isinstance(error, NameError):
        return (
            f"{error}, so an annotation of {cls.__qualname__} cannot be resolved; import the name where the "
            "class is declared (not only for type checkers), and declare classes outside of functions"
        )
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) or type(error).__name__


def _first_fault(error: BaseException, cls: type[Any]) -> tuple[str | None, str]:
    """The path of the first field at fault in cattrs' tree of errors, and what is wrong with it."""
    path: list[str] = []
    while True:
        inner = getattr(error, "exceptions", None)
        if not inner:
            break
        error = inner[0]
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, cattrs.AttributeValidationNote):
                path.append(note.name)
            elif isinstance(note, cattrs.IterableValidationNote):
                path.append(str(note.index))
    if isinstance(error, KeyError):
        return ".".join([*path, str(error.args[0])]) if not path else ".".join(path), "it is missing"
    return ".".join(path) or None, _told(error, cls)
