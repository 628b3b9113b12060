"""Events and views to JSON and back: cattrs for the classes, upcasters for their past."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Generic, TypeVar, cast
from uuid import UUID

import cattrs
from cattrs.preconf.json import make_converter

from pgevents.codec import fast
from pgevents.errors import EventDecodeError, EventEncodeError
from pgevents.events import EventType

__all__ = [
    "Serializer",
    "dump_and_load",
    "dump_json",
    "load_json",
    "make_event_converter",
    "parse_time",
    "time_of",
]

T = TypeVar("T")
V = TypeVar("V")
Written = tuple[str, dict[str, Any]]
VERSION_KEY = "$version"
"""Where the version of an event's data stands in its stored metadata, when it is not 1."""


def make_event_converter() -> cattrs.Converter:
    """A cattrs converter with what events need beyond JSON: Decimal, UUID, date, datetime with its zone,
        tuples.

    Money stays exact: a Decimal is stored as text. A datetime without a time zone is refused.
    """
    converter = make_converter(unstruct_collection_overrides={tuple: list})
    for kind, to_text, from_text in (
        (Decimal, str, _decimal),
        (UUID, str, UUID),
        (date, date.isoformat, date.fromisoformat),
        (time, time.isoformat, time.fromisoformat),
        (datetime, _datetime_text, _datetime),
    ):
        converter.register_unstructure_hook(kind, to_text)
        converter.register_structure_hook(kind, _typed(kind, from_text))
    converter.register_unstructure_hook(timedelta, timedelta.total_seconds)
    converter.register_structure_hook(timedelta, lambda value, _: timedelta(seconds=value))
    for plain in (int, float, bool, str):
        converter.register_structure_hook(plain, _strict(plain))
    return converter


def _typed(kind: type[Any], from_text: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        return value if isinstance(value, kind) and type(value) is kind else from_text(value)

    return structure


def _strict(kind: type[Any]) -> Callable[[Any, Any], Any]:
    """Take the JSON type that was stored and no other: "3" is no quantity, and 3 no name."""
    accepted = (int, float) if kind is float else (kind,)

    def structure(value: Any, cls: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"expected {kind.__name__}, got {value!r}")
        if cls is not kind and isinstance(cls, type) and issubclass(cls, kind):  # an IntEnum, a class of str
            return cls(value)
        return kind(value) if kind is float else value

    return structure


def _decimal(value: Any) -> Decimal:
    if isinstance(value, float):
        raise TypeError(f"expected a Decimal as text, got the float {value!r}")
    return Decimal(value)


def _datetime_text(value: datetime) -> str:
    if value.tzinfo is None:
        raise ValueError(
            f"{value!r} has no time zone; use datetime.now(timezone.utc) or .replace(tzinfo=...)"
        )
    return value.isoformat()


def _datetime(value: str) -> datetime:
    return datetime.fromisoformat(value[:-1] + "+00:00" if value.endswith("Z") else value)


def parse_time(text: str) -> datetime:
    """A time as PostgreSQL writes it: fewer digits and a shorter offset than Python 3.10 takes."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time in PostgreSQL's ISO form")
    whole, fraction, offset, rest = found.groups()
    return datetime.fromisoformat(f"{whole}.{fraction or '':0<6}{offset}{rest or ':00'}")


_TIME = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?([+-]\d\d)((?::\d\d)*)")
time_of: Callable[[str], datetime] = datetime.fromisoformat if sys.version_info >= (3, 11) else parse_time


def load_json(text: str) -> Any:
    """A JSON value from what PostgreSQL gives."""
    try:
        return fast.load(text)
    except ValueError:  # a number beyond what msgspec takes, such as 1e400
        return json.loads(text)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def dump_json(value: object, what: str) -> str:
    """JSON text that PostgreSQL's jsonb takes.

    Raises:
        EventEncodeError: NaN or infinity, a NUL character, a lone surrogate, or a value that JSON has no form
            for.
    """
    try:
        text = _encode(value)
        text.encode()
    except UnicodeEncodeError:
        raise EventEncodeError(
            f"{what}: a string holds half of a surrogate pair, which is not text"
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise EventEncodeError(f"{what} cannot be stored as JSON: {error}") from error
    if "\\u0000" in text and _holds_nul(value):
        raise EventEncodeError(f"{what}: PostgreSQL cannot hold a NUL character in a string; remove it")
    return text


def dump_and_load(value: object, what: str) -> tuple[str, Any]:
    """JSON text that PostgreSQL's jsonb takes, and what reading it gives.

    Raises:
        EventEncodeError: As for `dump_json`.
    """
    quick = fast.dump_exactly(value)
    if quick is not None:
        return quick
    text = dump_json(value, what)
    return text, load_json(text)


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value)
        return any(_holds_nul(part) for pair in pairs.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return any(_holds_nul(part) for part in cast("list[object]", value))
    return False


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
        write: By class, what writes an instance in one step: JSON text, and the fields in it; or None: then
            `dump` knows more.
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
        self._prepare: _ByClass[Callable[[Any], Any]] = _ByClass(
            fast.preparer if is_ours else lambda cls: lambda data: None
        )
        self.write: _ByClass[Callable[[Any], Written | None]] = _ByClass(
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

    def unstructure_hook(self, cls: type[Any]) -> Callable[[Any], Any]:
        """The converter's function that makes a JSON-ready value of an instance."""
        return self._unstructure[cls]

    def dump(self, data: object, cls: type[Any] | None, what: str) -> tuple[str, Any]:
        """An event's data as JSON text, and as a read will give them: what cannot be read back is refused.

        Args:
            data: An instance or a dict.
            cls: The class that a read makes of it; None for a dict.
            what: What to call it in an error.

        Raises:
            EventEncodeError: Not an object, a value without a JSON form, or one that does not fit its field.
        """
        if cls is data.__class__:
            written = self.write[cls](data)
            if written is not None:
                return written[0], data
        text, loaded = dump_and_load(self.encode(data, what), what)
        return text, loaded if cls is None else self.check(loaded, cls, what)

    def dump_batch(self, names: Sequence[str], given: Sequence[Any]) -> str:
        """The data of instances, of types with these names, as JSON text: each on a line.

        Raises:
            EventEncodeError: As for `dump`.
        """
        lines: str | None = None
        if fast.is_present():
            prepare, values = self._prepare, list[Any]()
            for name, data in zip(names, given, strict=True):
                try:
                    ready = prepare[data.__class__](data)
                except AttributeError:  # a field was deleted: the slower way says so
                    ready = None
                values.append(
                    fast.written(self.dump(data, data.__class__, name)[0]) if ready is None else ready
                )
            lines = fast.dump_lines(values)
        if lines is None:
            lines = "\n".join(
                [self.dump(data, data.__class__, name)[0] for name, data in zip(names, given, strict=True)]
            )
        return lines

    def encode(self, data: object, what: str) -> dict[str, Any]:
        """An event's data, or a view, as a JSON-ready dict.

        Raises:
            EventEncodeError: Not an object, or a value without a JSON form.
        """
        try:
            plain = self._unstructure[data.__class__](data)
        except (TypeError, ValueError, AttributeError, RecursionError) as error:
            reason, cause = self._reason(what, error, str(error))
            raise EventEncodeError(f"{what} cannot be stored: {reason}") from cause
        if not isinstance(plain, dict):
            shown = type(data).__name__ if what in self.personal else repr(data)
            raise EventEncodeError(f"{what}: data is a JSON object (an attrs class or a dict), not {shown}")
        found = cast("dict[str, Any]", plain)
        for key in found:
            if type(key) is not str:
                shown = type(key).__name__ if what in self.personal else repr(key)
                raise EventEncodeError(f"{what}: JSON objects have text keys, not {shown}")
        return found

    def decode(self, data: dict[str, Any], cls: type[V], *, event_id: int | None, event_type: str) -> V:
        """An instance of `cls` from stored data.

        Raises:
            EventDecodeError: Names the event, its type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # once more, with a decoder that knows the field that it is at, and raises
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

    def check(self, data: dict[str, Any], cls: type[V], event_type: str) -> V:
        """That what is about to be stored can be read back, for the log keeps it for ever; the instance.

        Raises:
            EventEncodeError: Names the type and the field that does not fit.
        """
        try:
            return cast(V, self._structure[cls](data, cls))
        except Exception:  # likewise
            try:
                return self.converter.structure(data, cls)
            except Exception as error:
                field, reason = _first_fault(error)
                reason, cause = self._reason(event_type, error, reason)
                at_field = f", field {field!r}" if field else ""
                raise EventEncodeError(
                    f"{event_type}{at_field}: {reason}; it does not fit {cls.__qualname__}"
                ) from cause

    def _decode_slowly(self, data: dict[str, Any], cls: type[V], event_id: int | None, event_type: str) -> V:
        """Once more, with a converter that keeps track of the field that it is at."""
        try:
            return self.converter.structure(data, cls)
        except Exception as error:
            field, reason = _first_fault(error)
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

    def decode_event(self, kind: EventType, data: dict[str, Any], version: int, event_id: int | None) -> Any:
        """Stored data of any version as an instance of the type's class, through its upcasters.

        Raises:
            EventDecodeError: An upcaster is missing or fails, or the data does not fit the class.
        """
        while version < kind.version:
            step = kind.upcasters.get(version)
            if step is not None:
                try:
                    data = step(data)
                except Exception as error:
                    raise EventDecodeError(
                        f"event {event_id} of type {kind.name!r}: the upcaster from version {version} "
                        f"failed: {error!r}",
                        event_id=event_id,
                        event_type=kind.name,
                    ) from error
            version += 1
        if version > kind.version:
            raise EventDecodeError(
                f"event {event_id} of type {kind.name!r} has version {version}, "
                f"this program knows {kind.version}: "
                "it was written by a newer one",
                event_id=event_id,
                event_type=kind.name,
            )
        return self.decode(data, kind.cls, event_id=event_id, event_type=kind.name)


def _first_fault(error: BaseException) -> tuple[str | None, str]:
    """The path of the first field at fault in cattrs' tree of errors, and what is wrong with it."""
    path: list[str] = []
    while True:
        inner = getattr(error, "exceptions", None)
        if not inner:
            break
        error = inner[0]
        for note in getattr(error, "__notes__", ()):
            name = getattr(note, "name", None)
            if name is None:
                name = getattr(note, "index", None)
            if name is not None:
                path.append(str(name))
    if isinstance(error, KeyError):
        return ".".join([*path, str(error.args[0])]) if not path else ".".join(path), "it is missing"
    return ".".join(path) or None, str(error) or type(error).__name__
