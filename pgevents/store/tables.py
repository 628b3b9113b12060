"""The Peewee models of an events table and a projections table, and the functions that declare them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NoReturn, cast

import peewee

from pgevents.errors import AppendOnlyError, ConfigurationError
from pgevents.fields import check_view_field, split_many
from pgevents.store.layout import AdditionalIndexes, TableSpec

__all__ = [
    "EventsModel",
    "ProjectionsModel",
    "create_events_table",
    "create_projections_table",
]


class _TimestampField(peewee.DateTimeField):
    field_type = "TIMESTAMPTZ"


class _PgEventsModel(peewee.Model):
    pgevents_spec: ClassVar[TableSpec]

    @classmethod
    def create_table(cls, *args: Any, **options: Any) -> NoReturn:
        """Refused: a table alone would lack its functions and guards."""
        raise AppendOnlyError(
            f"{cls.__name__}.create_table() would make the table without its indexes, functions and guards; "
            "use client.create_tables()"
        )


class EventsModel(_PgEventsModel):
    """The Peewee model of an events table: for reading, joins and migrations. Events are saved by the
    client."""

    id = peewee.BigIntegerField(primary_key=True)
    type = peewee.TextField()
    data = peewee.JSONField()
    metadata = peewee.JSONField()
    idempotency_key = peewee.TextField(null=True)
    created_at = _TimestampField()
    updated_at = _TimestampField()


class ProjectionsModel(_PgEventsModel):
    """The Peewee model of a projections table: one row for each snapshot, and for each version of its
    projection."""

    type = peewee.TextField()
    id = peewee.TextField()
    data = peewee.JSONField()
    latest_event_id = peewee.BigIntegerField()
    version = peewee.IntegerField()
    created_at = _TimestampField()
    updated_at = _TimestampField()

    class Meta:
        primary_key = peewee.CompositeKey("type", "id", "version")


def _refusal(name: str) -> Callable[..., NoReturn]:
    def refused(self_or_cls: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError(
            f"events are not written through the model: .{name}() would bypass locks and hooks; "
            "use client.save_event(...) (the log is append-only)"
        )

    return refused


for _name in ("save", "delete_instance"):
    setattr(EventsModel, _name, _refusal(_name))
for _name in (
    *(
        "create",
        "insert",
        "insert_many",
        "insert_from",
        "replace",
        "replace_many",
        "get_or_create",
        "bulk_create",
    ),
    *("update", "bulk_update", "set_by_id", "delete", "delete_by_id", "truncate_table"),
):
    setattr(EventsModel, _name, classmethod(cast(Any, _refusal(_name))))


def create_events_table(
    schema: str | None = None,
    name: str = "events",
    data_indexes: Iterable[str] = (),
    additional_indexes: AdditionalIndexes = (),
) -> type[EventsModel]:
    """Declare an events table.

    Args:
        schema: The schema that holds it, made by `client.create_tables()`; None: the connection's own.
        name: The table's name, at most 48 bytes (functions and indexes are named after it).
        data_indexes: Fields of the events' data to index, the most selective first. They are also what
            validated saves lock by, so name the ids that streams are about. A dot leads into an object
            (`customer.id`), and into the metadata (`metadata.tenant`). `many("product_ids")` is a field that
            holds a list: an event is in the stream of each value. An event without the field costs nothing.
        additional_indexes: Column names or tuples of them, or Peewee indexes; or a function that
            takes the model and returns these.

    Returns:
        A Peewee model for reading; nothing is created yet.

    Raises:
        ConfigurationError: A name that is not an identifier, or is too long.

    Example:
        ```python
        from pgevents import create_events_table

        events = create_events_table(schema="my_app", data_indexes=["cart_id", "product_id"])
        ```
    """
    return cast(
        "type[EventsModel]", _model(EventsModel, "events", schema, name, data_indexes, additional_indexes)
    )


def create_projections_table(
    schema: str | None = None,
    name: str = "projections",
    data_indexes: Iterable[str] = (),
    additional_indexes: AdditionalIndexes = (),
) -> type[ProjectionsModel]:
    """Declare a projections table, where snapshots stand; arguments as for `create_events_table`.

    Args:
        schema: The schema that holds it; None: the connection's own.
        name: The table's name, at most 48 bytes.
        data_indexes: Fields of the views to index, for `client.query_projections()`.
        additional_indexes: As for `create_events_table`.

    Raises:
        ConfigurationError: A name that is not an identifier, or is too long.

    Example:
        ```python
        from pgevents import create_projections_table

        views = create_projections_table(schema="my_app", name="views", data_indexes=["user_id"])
        ```
    """
    return cast(
        "type[ProjectionsModel]",
        _model(ProjectionsModel, "projections", schema, name, data_indexes, additional_indexes),
    )


def _model(
    base: type[_PgEventsModel],
    kind: str,
    schema: str | None,
    name: str,
    data_indexes: Iterable[str],
    additional_indexes: AdditionalIndexes,
) -> type[_PgEventsModel]:
    if isinstance(data_indexes, str):
        raise ConfigurationError(f"data_indexes is a list of field names; write [{data_indexes!r}]")
    lists: tuple[str, ...] = ()
    if kind == "events":
        fields, lists = split_many(data_indexes)
    else:
        fields = tuple(check_view_field(field) for field in data_indexes)
    if len(set(fields)) != len(fields):
        raise ConfigurationError(f"data_indexes names a field twice: {list(fields)}")
    _check_name("table", name, 48)
    if schema is not None:
        _check_name("schema", schema, 63)
    spec = TableSpec(kind, name, schema, fields, additional_indexes, lists)
    meta = type("Meta", (), {"table_name": name, "schema": schema})
    class_name = "".join(part.capitalize() for part in name.split("_")) or "Table"
    return cast("type[_PgEventsModel]", type(class_name, (base,), {"Meta": meta, "pgevents_spec": spec}))


def _check_name(what: str, name: object, most: int) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        hint = ": for a table in a schema write schema='my_app', name='events'" if "." in str(name) else ""
        raise ConfigurationError(
            f"a {what}'s name consists of letters, digits and underscores and starts with no digit, "
            f"not {name!r}{hint}"
        )
    if len(name.encode()) > most:
        raise ConfigurationError(
            f"the {what}'s name {name!r} has {len(name.encode())} bytes; PostgreSQL cuts names at 63, "
            f"and what is named after it needs room: at most {most}"
        )
