"""The schema of a tenant: what it may be called, that Citus leaves it alone, and the models of its tables."""

from __future__ import annotations

from typing import Any, TypeVar

import attrs

from pgevents.errors import ConfigurationError, InvalidValueError, shown
from pgevents.store.checks import distributed_table
from pgevents.store.session import Session

__all__ = ["check_tenant", "in_schema", "refuse_citus"]

M = TypeVar("M", bound=type[Any])
LONGEST_NAME = 48
"""Bytes; `moved_<id>` and what is named after the schema need room."""
RESERVED = ("pg_", "moved_")


def check_tenant(tenant: object) -> None:
    """Check that a schema can have this name.

    Raises:
        InvalidValueError: Says what a name may be.
    """
    is_name = isinstance(tenant, str) and tenant.isidentifier() and tenant == tenant.lower()
    is_taken = str(tenant).startswith(RESERVED) or tenant in ("public", "information_schema")
    if not is_name or is_taken or len(str(tenant).encode()) > LONGEST_NAME:
        raise InvalidValueError(
            "a tenant's name consists of small letters, digits and underscores, begins with a letter, has at "
            f"most {LONGEST_NAME} bytes, and is not one of PostgreSQL's own; not {shown(tenant)}"
        )


def refuse_citus(session: Session, tenant: str) -> None:
    """Refuse tables that Citus has distributed.

    Raises:
        ConfigurationError: Says why.
    """
    name = distributed_table(session.execute, tenant)
    if name is not None:
        raise ConfigurationError(
            f"{name} is distributed by Citus, which does not keep what the guarantees rest on: final "
            "reads on another node would be wrong, and its moves lose the sequence. Keep tenants in ordinary "
            "tables, and citus.enable_schema_based_sharding off"
        )


def in_schema(model: M, schema: str) -> M:
    """A copy of a model for a table in a schema."""
    spec = attrs.evolve(model.pgevents_spec, schema=schema)
    meta = type("Meta", (), {"table_name": spec.name, "schema": schema})
    copied: Any = type(model.__name__, model.__bases__, {"Meta": meta, "pgevents_spec": spec})
    return copied  # type: ignore[no-any-return]
