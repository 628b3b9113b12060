"""Lines to import, checked by the classes of the program: every read of their streams stays possible."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from pgevents.client import EventClient
from pgevents.codec.serialization import VERSION_KEY
from pgevents.errors import EventDecodeError, EventEncodeError
from pgevents.event_types import EventType

from .lines import Line

__all__ = ["LineChecks"]


class LineChecks:
    """Checks lines by the event classes of one client; lines of other types are taken as they are."""

    def __init__(self, client: EventClient) -> None:
        self._types = client.types
        self._serializer = client.serializer

    def checked(self, line: Line) -> Line:
        """A line as it is to be stored: with the version of its class, if it has none of its own.

        A line of the class's version is checked as a save checks it. One of an older version, and one that
        `pgevents export` wrote, is checked as a read decodes it: what was stored once is stored again.

        Raises:
            EventEncodeError: A save would refuse it, or no read could decode it.
        """
        event_type = self._types.find(line.type)
        if event_type is None:
            return line
        version = _version(line, event_type)
        if line.is_exported or version != event_type.version:
            self._check_read(line, event_type, version)
            return line
        self._serializer.check_text(line.data_text, event_type.cls, line.type)
        return _with_version(line, version) if version > 1 or "$" in line.metadata_text else line

    def as_given(self, line: Line) -> dict[str, Any]:
        """A line as a save takes it, which checks it and calls plugins.

        Raises:
            EventEncodeError: It has another version than its class, so a save cannot take it.
        """
        metadata = line.metadata
        event_type = self._types.find(line.type)
        if event_type is not None:
            version = _version(line, event_type)
            if version != event_type.version:
                raise EventEncodeError(
                    f"it holds data of version {version} of {line.type}, and plugins get version "
                    f"{event_type.version}; --as-is imports it without them"
                )
            metadata.pop(VERSION_KEY, None)
        elif VERSION_KEY in metadata:
            raise EventEncodeError(
                f"it holds data of version {metadata[VERSION_KEY]} of {line.type}, which has no class here; "
                "--as-is imports it without plugins"
            )
        return {"type": line.type, "data": line.data, "metadata": metadata}

    def _check_read(self, line: Line, event_type: EventType, version: int) -> None:
        serializer = self._serializer
        try:
            if version == event_type.version:
                serializer.decode_text(line.data_text, event_type.cls, line.type)
            else:
                serializer.decode_event(event_type, line.data, version, None)
        except EventDecodeError as error:
            raise EventEncodeError(f"no read could decode it: {error}") from error


def _version(line: Line, event_type: EventType) -> int:
    """The version of a line's data. An export leaves out version 1; other programs write the newest."""
    stated = line.metadata.get(VERSION_KEY) if VERSION_KEY in line.metadata_text else None
    return stated or (1 if line.is_exported else event_type.version)


def _with_version(line: Line, version: int) -> Line:
    """A line whose metadata name the version of its data, with all else as the file has it."""
    metadata = line.metadata
    reserved = [name for name in metadata if name.startswith("$") and name != VERSION_KEY]
    if reserved:
        raise EventEncodeError(
            f"{line.type}: metadata keys that begin with $ are reserved: {reserved[0]!r:.80}"
        )
    if version == 1 or VERSION_KEY in metadata:
        return line
    rest = f", {line.metadata_text.lstrip()[1:]}" if metadata else "}"
    return evolve(line, metadata_text=f'{{"{VERSION_KEY}": {version}{rest}')
