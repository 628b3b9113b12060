"""A server on what looks like a machine of its own: a network namespace and a small disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import psycopg2
import pytest

from ..consistency.servers import account, give_away, programs
from .patroni import children, kill_all

DISK = "400m"
SETTINGS = {
    "max_connections": "30",
    "superuser_reserved_connections": "3",
    "shared_buffers": "32MB",
    "max_wal_size": "64MB",
    "min_wal_size": "16MB",
    "listen_addresses": "*",
    "port": "5432",
    "tcp_user_timeout": "3000",
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "restart_after_crash": "on",
}


def command(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr or done.stdout}"


@attrs.define
class Machine:
    """A server in a network namespace, its data on a tmpfs that can be filled, reached over a cable (a veth
    pair) that can be pulled.

    Attributes:
        folder: Where the small disk is mounted.
        name: Of the namespace.
        network: The first three numbers of the addresses of both ends.
    """

    folder: Path
    name: str
    network: str

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        """What clients connect to, over the cable, as an ordinary user who gets no reserved connection."""
        return (
            f"postgresql://shop@{self.network}.2:5432/shop?connect_timeout=3&tcp_user_timeout=3000"
            "&keepalives_idle=2&keepalives_interval=1&keepalives_count=3"
        )

    def connect(self, name: str = "shop") -> psycopg2.extensions.connection:
        """A superuser's connection by the machine's own socket."""
        made = psycopg2.connect(host=str(self.folder), user="postgres", dbname=name, connect_timeout=5)
        made.autocommit = True
        return made

    def sql(self, statement: str, name: str = "shop") -> None:
        connection = self.connect(name)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def start(self) -> None:
        options = " ".join(f"-c {name}='{value}'" for name, value in SETTINGS.items())
        options += f" -c unix_socket_directories='{self.folder}'"
        where = ("-D", self.data, "-l", "/dev/null", "-o", options)
        self._run_as_server("pg_ctl", *where, "-w", "-t", 120, "start")

    def _run_as_server(self, program: str, *arguments: object) -> None:
        owner = account()
        as_owner = [f"--reuid={owner['user']}", f"--regid={owner['group']}", "--clear-groups"]
        inside = ["ip", "netns", "exec", self.name, "setpriv", *as_owner]
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                [*inside, str(programs() / program), *map(str, arguments)], stdout=said, stderr=said, cwd="/"
            )
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read().decode()[-2000:]}"

    def processes(self) -> list[int]:
        """The postmaster and its children, or nothing if it does not run."""
        with suppress(OSError, ValueError, IndexError):
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
            if "postgres" in Path(f"/proc/{postmaster}/cmdline").read_text():
                return [postmaster, *children(postmaster)]
        return []

    def kill(self) -> None:
        """kill -9 of all that the server is."""
        found = self.processes()
        kill_all(found)
        end = time.monotonic() + 10
        while any(Path(f"/proc/{pid}").exists() for pid in found) and time.monotonic() < end:
            kill_all(children(found[0]))
            time.sleep(0.01)

    def signal_all(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pull_cable(self) -> None:
        command("ip", "link", "set", f"{self.name}a", "down")

    def plug_cable(self) -> None:
        command("ip", "link", "set", f"{self.name}a", "up")

    def fill_disk(self) -> None:
        """Take what is free until there is no byte left."""
        with suppress(OSError), (self.folder / "ballast").open("wb") as ballast:
            for _ in range(20):  # the server writes meanwhile, and frees files
                free = os.statvfs(self.folder)
                size = ballast.seek(0, os.SEEK_END)
                os.posix_fallocate(ballast.fileno(), size, free.f_bavail * free.f_bsize)

    def free_disk(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def revive(self) -> None:
        """Start the server if it does not run, and wait until it answers by its socket."""
        end = time.monotonic() + 120
        while True:
            if not self.processes():
                with suppress(AssertionError):  # something of the former one is still there
                    self.start()
            with suppress(psycopg2.Error):
                self.connect("postgres").close()
                return
            assert time.monotonic() < end, "the server does not come back"
            time.sleep(0.1)


@contextmanager
def machine() -> Iterator[Machine]:
    """A running machine; skips where this process may not make one."""
    if os.geteuid() != 0 or not all(shutil.which(name) for name in ("ip", "setpriv", "mount")):
        # No stand-in: a cut network and a full disk are the kernel's, and only root may make them.
        pytest.skip("network namespaces and small disks need root, iproute2 and util-linux")
    folder = Path(tempfile.mkdtemp(prefix="pgevents-test-", dir="/tmp"))
    number = os.getpid() % 250 + 1
    made = Machine(folder, f"pgt{number}", f"10.231.{number}")
    cable, other = f"{made.name}a", f"{made.name}b"
    try:
        command("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder)
        give_away(folder)
        folder.chmod(0o755)
        command("ip", "netns", "add", made.name)
        command("ip", "link", "add", cable, "type", "veth", "peer", "name", other, "netns", made.name)
        command("ip", "addr", "add", f"{made.network}.1/30", "dev", cable)
        made.plug_cable()
        for words in (
            ("addr", "add", f"{made.network}.2/30", "dev", other),
            ("link", "set", other, "up"),
            ("link", "set", "lo", "up"),
        ):
            command("ip", "netns", "exec", made.name, "ip", *words)
        made._run_as_server(
            "initdb", "-D", made.data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--wal-segsize=1"
        )
        with (made.data / "pg_hba.conf").open("a") as hba:
            hba.write(f"host all all {made.network}.0/30 trust\n")
        made.start()
        made.sql("CREATE ROLE shop LOGIN", "postgres")
        made.sql("CREATE DATABASE shop OWNER shop", "postgres")
        yield made
    finally:
        with suppress(Exception):
            made.kill()
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)
        subprocess.run(["ip", "netns", "del", made.name], capture_output=True)
        subprocess.run(["ip", "link", "del", cable], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)
