"""The databases of a run's tests: one that is empty, and one with tables that are kept from test to test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

if TYPE_CHECKING:
    import peewee

    from pgevents.client import EventClient

__all__ = ["EMPTY_SQL", "Databases", "MakeClient"]

MakeClient = Callable[["peewee.PostgresqlDatabase"], "EventClient"]
"""Makes the client whose tables a test needs."""

END_CONNECTIONS_SQL = """
DO $$
DECLARE
    _deadline timestamptz := clock_timestamp() + interval '5 s';
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid();
    LOOP  -- until they have ended: till then they keep their locks
        PERFORM pg_stat_clear_snapshot();
        EXIT WHEN clock_timestamp() > _deadline OR NOT EXISTS (
            SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid());
        PERFORM pg_sleep(0.001);
    END LOOP;
END $$;
"""

# Dropping what a test made, and making tables anew, takes a third of the time of CREATE DATABASE ... TEMPLATE
# or less: that copies some 300 files.
DROP_ALL_SQL = """
DO $$
DECLARE
    _schema name;
BEGIN
    SET LOCAL client_min_messages = warning;
    SET LOCAL lock_timeout = '5s';
    FOR _schema IN
        SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', _schema);
    END LOOP;
    CREATE SCHEMA public AUTHORIZATION pg_database_owner;
    GRANT USAGE ON SCHEMA public TO PUBLIC;
    COMMENT ON SCHEMA public IS 'standard public schema';
    EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
END $$
"""
EMPTY_SQL = END_CONNECTIONS_SQL + DROP_ALL_SQL

# A table that was never written to has no bytes. The guards of a log let TRUNCATE pass under maintenance, and
# their triggers may write to another table: hence the passes.
REMOVE_ROWS_SQL = """
DO $$
DECLARE
    _tables text;
BEGIN
    SET LOCAL client_min_messages = warning;
    SET LOCAL lock_timeout = '5s';
    PERFORM set_config('pgevents.maintenance', 'the rows of a test are removed', true);
    FOR _pass IN 1..5 LOOP
        SELECT string_agg(oid::regclass::text, ', ') INTO _tables FROM pg_class
        WHERE oid >= 16384 AND relkind = 'r' AND pg_relation_size(oid) > 0;
        EXIT WHEN _tables IS NULL;
        EXECUTE 'TRUNCATE ' || _tables || ' CASCADE';
    END LOOP;
    PERFORM setval(seqrelid, seqstart, false) FROM pg_sequence;
    -- TRUNCATE forgets what CREATE INDEX noted of an empty table, by which plans are made.
    PERFORM pg_restore_relation_stats(
        'schemaname', n.nspname::text, 'relname', c.relname::text, 'reltuples', 0::real,
        'relpages', (pg_relation_size(c.oid) / current_setting('block_size')::int)::int)
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid >= 16384 AND c.relkind = 'i' AND c.reltuples < 0 AND n.nspname <> 'pg_toast';
END $$
"""
KEEPING_VERSION = 180000
"""Of the first server that has `pg_restore_relation_stats`."""

# Whether there are rows, and a digest of all that the catalogs say of the database. What TRUNCATE changes is
# left out where no plan depends on it: the numbers of files, the sizes in pg_toast. 16384 is the first oid of
# what is not PostgreSQL's own.
STATE_SQL = """
SELECT
    EXISTS (
        SELECT FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'm') AND pg_relation_size(oid) > 0)
    OR EXISTS (SELECT FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL) AS has_rows,
    (SELECT concat(count(*), ' ', sum(hashtextextended(found, 0))) FROM (
        SELECT ROW(
            oid, relname, relnamespace, reltype, reloftype, relowner, relam, reltablespace, reltoastrelid,
            CASE WHEN relnamespace <> 'pg_toast'::regnamespace THEN ROW(relpages, reltuples) END, relhasindex,
            relpersistence, relkind, relnatts, relchecks, relhasrules, relhastriggers, relhassubclass,
            relrowsecurity, relforcerowsecurity, relispopulated, relreplident, relispartition, relacl,
            reloptions, relpartbound)::text
        FROM pg_class WHERE oid >= 16384
        UNION ALL SELECT a::text FROM pg_attribute AS a WHERE attrelid >= 16384
        UNION ALL SELECT d::text FROM pg_attrdef AS d
        UNION ALL SELECT c::text FROM pg_constraint AS c WHERE oid >= 16384
        UNION ALL SELECT i::text FROM pg_index AS i WHERE indexrelid >= 16384
        UNION ALL SELECT s::text FROM pg_sequence AS s
        UNION ALL SELECT t::text FROM pg_trigger AS t
        UNION ALL SELECT r::text FROM pg_rewrite AS r WHERE oid >= 16384
        UNION ALL SELECT p::text FROM pg_policy AS p
        UNION ALL SELECT p::text FROM pg_proc AS p WHERE oid >= 16384
        UNION ALL SELECT t::text FROM pg_type AS t WHERE oid >= 16384
        UNION ALL SELECT d::text FROM pg_description AS d
            WHERE objoid >= 16384 AND classoid <> 'pg_namespace'::regclass  -- public may have been made anew
        UNION ALL SELECT d::text FROM pg_depend AS d WHERE objid >= 16384
        UNION ALL SELECT ROW(nspname, nspowner, nspacl)::text FROM pg_namespace WHERE nspname !~ '^pg_'
        UNION ALL SELECT e::text FROM pg_extension AS e
        UNION ALL SELECT e::text FROM pg_event_trigger AS e
        UNION ALL SELECT p::text FROM pg_publication AS p
        UNION ALL SELECT a::text FROM pg_default_acl AS a
        UNION ALL SELECT l::text FROM pg_largeobject_metadata AS l
        -- Instead of pg_statistic, which not every role may read.
        UNION ALL SELECT concat(oid, ' ', pg_stat_get_analyze_count(oid) + pg_stat_get_autoanalyze_count(oid))
            FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'm')
        UNION ALL SELECT s::text FROM pg_db_role_setting AS s JOIN pg_database AS d ON d.oid = s.setdatabase
            WHERE d.datname = current_database()
        UNION ALL SELECT datacl::text FROM pg_database WHERE datname = current_database()
        UNION ALL SELECT gid FROM pg_prepared_xacts WHERE database = current_database()
        UNION ALL SELECT slot_name FROM pg_replication_slots WHERE database = current_database()
    ) AS parts(found)) AS catalogs
"""


class _Database:
    """A database that is lent to one test after the other, and the connection that empties it."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.connection = _open(parts)
        self._execute(f"PREPARE pgevents_state AS {STATE_SQL}")  # planning takes longer than running
        self.url = "postgresql:///?" + urlencode(parts, quote_via=quote)
        self._empty = self._state()
        self._tables_of: MakeClient | None = None
        self._fresh: object = None  # its state with these tables, before anything was done with them

    def make_tables(self, make_client: MakeClient) -> None:
        """Make the tables of a client, unless they are there."""
        if self._tables_of is make_client:
            return
        if self._tables_of is not None:
            self.drop_all()
        create_tables(make_client, self.url)
        self._execute(END_CONNECTIONS_SQL)
        has_rows, _ = self._fresh = self._state()
        if not has_rows and self.connection.server_version >= KEEPING_VERSION:
            self._tables_of = make_client

    def remove_rows(self) -> bool:
        """Remove all rows; False if that does not make it what it was with its tables just made."""
        if self._tables_of is None:
            return False
        self._execute(END_CONNECTIONS_SQL)
        self._execute(REMOVE_ROWS_SQL)
        return bool(self._state() == self._fresh)

    def drop_all(self) -> bool:
        """Drop all that is in it; False if something is left that belongs to no schema."""
        self._tables_of = None
        self._execute(EMPTY_SQL)
        return bool(self._state() == self._empty)

    def _state(self) -> Any:
        return self._execute("EXECUTE pgevents_state").fetchone()

    def _execute(self, sql: str) -> Any:
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return cursor


class Databases:
    """Lends a database to each test: an empty one, or one with tables that are made once.

    Args:
        server: Connection string of a role that may create databases.
    """

    def __init__(self, server: str) -> None:
        from psycopg2.extensions import parse_dsn

        self._parts = parse_dsn(server)
        self._server = _open(self._parts)
        self._numbers = itertools.count(1)
        self._names: list[str] = []
        self._unused: dict[bool, _Database] = {}  # by whether it is for tables
        self._lent: tuple[bool, _Database] | None = None

    def lend(self, make_client: MakeClient | None = None) -> str:
        """The URL of a database that is empty, or has the tables of a client and no rows.

        Args:
            make_client: What makes the client. Its tables are kept for the next test that names the same
                function, if the test changes nothing but rows.
        """
        for_tables = make_client is not None
        database = self._unused.pop(for_tables, None) or self._create()
        self._lent = for_tables, database
        if make_client is not None:
            database.make_tables(make_client)
        return database.url

    def has_tables(self) -> bool:
        """Whether what was lent has the tables of a client."""
        return self._lent is not None and self._lent[0]

    def take_back(self) -> None:
        """Make what was lent ready for the next test; connections that are still open are ended."""
        if self._lent is None:
            return
        (for_tables, database), self._lent = self._lent, None
        for make_ready in (database.remove_rows, database.drop_all):
            # An error: a prepared transaction, a schema of another owner, a table that refuses TRUNCATE.
            with suppress(Exception):
                if make_ready():
                    self._unused[for_tables] = database
                    return
        database.connection.close()  # the next test gets another one

    def close(self) -> None:
        """Drop all databases."""
        for database in self._unused.values():
            database.connection.close()
        for name in self._names:
            with suppress(Exception):
                self._server.cursor().execute(f"DROP DATABASE {name} WITH (FORCE)")
        self._server.close()

    def _create(self) -> _Database:
        name = f"pgevents_test_{os.getpid()}_{os.urandom(3).hex()}_{next(self._numbers)}"
        self._names.append(name)
        self._server.cursor().execute(f"CREATE DATABASE {name}")
        return _Database({**self._parts, "dbname": name})


def create_tables(make_client: MakeClient, url: str) -> None:
    """Make the tables of a client in a database."""
    db = open_database(url)
    make_client(db).create_tables()
    db.close()


def open_database(url: str) -> Any:
    """A Peewee database; nothing connects yet."""
    from peewee import PostgresqlDatabase
    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(url)
    return PostgresqlDatabase(parts.pop("dbname"), **parts)


def _open(parts: dict[str, Any]) -> Any:
    import psycopg2

    connection: Any = psycopg2.connect(**parts)
    connection.autocommit = True
    return connection
