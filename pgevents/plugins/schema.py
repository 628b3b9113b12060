"""JSON Schema for events: what does not fit is refused before it is written (`pip install
"pgevents-store[schema]"`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pgevents import ConfigurationError, EventClient, EventEncodeError, NewEvent, hookimpl
from pgevents.plugins._extras import require

__all__ = ["SchemaValidation"]


class SchemaValidation:
    """Validates the data of events against JSON Schemas (draft 2020-12 unless `$schema` says otherwise), by
    type.

    Made for events that come as dicts, from a script or from outside; instances of event classes are
    validated in the JSON form that they are stored in. It sees events as the caller gave them, before other
    plugins.

    Args:
        schemas: A schema for each event type's name.
        only_known: Refuse events of types without a schema.

    Raises:
        ConfigurationError: A schema is none, or `jsonschema` is not installed.

    Example:
        ```python
        from pgevents.plugins.schema import SchemaValidation

        schemas = {"ITEM_ADDED": {"required": ["cart_id"], "properties": {"quantity": {"minimum": 1}}}}
        client = create_event_client(db, events, views, plugins=[SchemaValidation(schemas)])
        ```
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]], *, only_known: bool = False) -> None:
        self._jsonschema = require("jsonschema", "schema")
        self.only_known = only_known
        self._validators: dict[str, Any] = {}
        for name, schema in schemas.items():
            validator = self._jsonschema.validators.validator_for(
                schema, self._jsonschema.Draft202012Validator
            )
            try:
                validator.check_schema(schema)
            except self._jsonschema.SchemaError as error:
                raise ConfigurationError(f"the schema of {name!r} is none: {error.message}") from error
            self._validators[name] = validator(schema, format_checker=validator.FORMAT_CHECKER)

    @hookimpl(tryfirst=True)
    def pgevents_before_save(self, client: EventClient, events: Sequence[NewEvent]) -> None:
        """Veto what does not fit."""
        for new in events:
            validator = self._validators.get(new.type)
            if validator is not None:
                data = client.serializer.encode(new.data, new.type)
                fault = self._jsonschema.exceptions.best_match(validator.iter_errors(data))
                if fault is not None:
                    place = ".".join(str(part) for part in ("data", *fault.absolute_path))
                    raise EventEncodeError(f"{new.type}: {place}: {fault.message}")
            elif self.only_known:
                known = ", ".join(sorted(self._validators)) or "none"
                raise EventEncodeError(
                    f"there is no schema for the event type {new.type!r}; there are {known}"
                )
