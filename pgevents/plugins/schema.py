"""JSON Schema for events: what does not fit is refused before it is written (`pip install
"pgevents-store[schema]"`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pgevents import ConfigurationError, EventClient, EventEncodeError, EventTypes, NewEvent, hookimpl
from pgevents.distribution import require

__all__ = ["SchemaValidation"]


class SchemaValidation:
    """Validates the data of events against JSON Schemas (draft 2020-12 unless `$schema` says otherwise), by
    type.

    It is meant for events that are given as dicts, by a script or from outside. Instances of event classes
    are validated in their JSON form. The plugin runs before others, on the events that the caller gave.

    A schema cannot refer to another document, because nothing is fetched.

    Args:
        schemas: A schema for each event type, by its class or name.
        only_known: Refuse events of types without a schema.

    Raises:
        ConfigurationError: A schema is not valid, a type is misspelt, or `jsonschema` is not installed.

    Example:
        ```python
        from pgevents.plugins.schema import SchemaValidation

        schemas = {"ITEM_ADDED": {"required": ["cart_id"], "properties": {"quantity": {"minimum": 1}}}}
        client = create_event_client(db, events, views, plugins=[SchemaValidation(schemas)])
        ```
    """

    def __init__(self, schemas: Mapping[Any, Mapping[str, Any]], *, only_known: bool = False) -> None:
        self._jsonschema = require("jsonschema", "schema")
        if not isinstance(schemas, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(
                f"SchemaValidation takes a schema for each event type, in a dict, not {schemas!r}"
            )
        if not isinstance(only_known, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigurationError(f"SchemaValidation(only_known=...) is True or False, not {only_known!r}")
        self.only_known = only_known
        self._validators: dict[str, Any] = {}
        for given, schema in schemas.items():
            validator = self._validator(given, schema)
            for name in EventTypes.everything.names(given) or ():
                if name in self._validators:
                    raise ConfigurationError(f"there are two schemas for the event type {name!r}")
                self._validators[name] = validator

    def _validator(self, given: object, schema: object) -> Any:
        if not isinstance(schema, Mapping):
            raise ConfigurationError(f"the schema of {given!r} is a dict, not {schema!r}")
        draft = cast("Mapping[str, object]", schema).get("$schema")
        validator_class = self._jsonschema.validators.validator_for(
            schema, None if draft is not None else self._jsonschema.Draft202012Validator
        )
        if validator_class is None:
            raise ConfigurationError(
                f"the schema of {given!r} follows {draft!r}, which jsonschema does not know"
            )
        try:
            validator_class.check_schema(schema)
        except self._jsonschema.SchemaError as error:
            raise ConfigurationError(f"the schema of {given!r} is not valid: {error.message}") from error
        registry = require("jsonschema_specifications", "schema").REGISTRY
        return validator_class(schema, format_checker=validator_class.FORMAT_CHECKER, registry=registry)

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """Refuse a schema for a misspelt type."""
        for name in self._validators:
            near = None if client.types.find(name) else client.types.nearest(name)
            if near is not None:
                raise ConfigurationError(f"no event type is named {name!r}; did you mean {near!r}?")

    @hookimpl(tryfirst=True)
    def pgevents_before_save(self, client: EventClient, events: Sequence[NewEvent]) -> None:
        """Veto events that do not fit their schema."""
        for new in events:
            validator = self._validators.get(new.type)
            if validator is not None:
                self._check(client, new, validator)
            elif self.only_known:
                names = ", ".join(sorted(self._validators)) or "none"
                raise EventEncodeError(
                    f"there is no schema for the event type {new.type!r}; there are {names}"
                )

    def _check(self, client: EventClient, new: NewEvent, validator: Any) -> None:
        data = client.serializer.encode(new.data, new.type)
        is_personal = new.type in client.serializer.personal
        try:
            fault = self._jsonschema.exceptions.best_match(validator.iter_errors(data))
        except Exception as error:  # an unresolvable reference, a number too large for multipleOf
            reason = type(error).__name__ if is_personal else f"{type(error).__name__}: {error}"
            raise ConfigurationError(
                f"the schema of {new.type!r} cannot be applied ({reason}); nothing was written"
            ) from (None if is_personal else error)
        if fault is not None:
            place = ".".join(str(part) for part in ("data", *fault.absolute_path))
            reason = f"it does not satisfy {fault.validator!r}" if is_personal else fault.message
            raise EventEncodeError(f"{new.type}: {place}: {reason}")
