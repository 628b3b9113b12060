"""PostgreSQL servers and a PgBouncer of a test's own: to be stopped, copied and badly set up."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import psycopg2
import pytest
from psycopg2.extensions import make_dsn, parse_dsn

from pgevents.embedded import EmbeddedServerError
from pgevents.embedded.server import _find_programs


def account(neighbour: str = "") -> dict[str, Any]:
    """Whom a server runs as: ourselves, but PostgreSQL and PgBouncer refuse root; then who owns the
    neighbour's folder."""
    if os.geteuid() != 0:
        return {}
    if neighbour.startswith("/") and os.stat(neighbour).st_uid:
        owner = os.stat(neighbour)
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL refuses to run as root, and there is no other user")


def give_away(folder: Path, neighbour: str = "") -> None:
    """Make a folder the server's own."""
    owner = account(neighbour)
    if owner:
        os.chown(folder, owner["user"], owner["group"])


def programs() -> Path:
    """The folder of PostgreSQL's programs: that which PGEVENTS_PROGRAMS names, or the embedded ones, or those
    on the PATH."""
    named = os.environ.get("PGEVENTS_PROGRAMS")
    candidates = [Path(named)] if named else []
    with suppress(EmbeddedServerError):
        candidates.append(Path(_find_programs()) / "bin")
    on_path = shutil.which("initdb")
    if on_path:
        candidates.append(Path(on_path).resolve().parent)
    for candidate in candidates:
        with suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([candidate / "initdb", "--version"], check=True, capture_output=True, **account())
            return candidate
    pytest.skip("no PostgreSQL programs that the server's user can run")


def programs_of(version: int) -> Path:
    """The folder of all of PostgreSQL's programs of one version: embedded ones, or Debian's."""
    folders = [Path(f"/usr/lib/postgresql/{version}/bin")]
    with suppress(EmbeddedServerError):
        folders += [folder / "bin" for folder in Path(_find_programs()).parent.glob("pginstall*")]
    for folder in folders:
        with suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.check_output([folder / "initdb", "--version"], text=True, **account())
            if f" {version}." in said:
                return folder
    # A test between two versions needs a second server, which `pip install` does not bring along.
    pytest.skip(f"there are no programs of PostgreSQL {version}")


def client_programs(url: str) -> Path:
    """The folder of `pg_dump` and `psql` of a server's version, which run as ourselves."""
    connection = psycopg2.connect(url)
    version = connection.info.server_version // 10_000
    connection.close()
    folders: list[Path] = []
    with suppress(EmbeddedServerError):
        folders.append(Path(_find_programs()) / "bin")
    on_path = shutil.which("pg_dump")
    if on_path:
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        with suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.check_output([folder / "pg_dump", "--version"], text=True)
            if int(said.split()[-1].split(".")[0]) == version:
                return folder
    # The server may be one that PGEVENTS_DATABASE_URL names, and pg_dump refuses a server newer than itself.
    pytest.skip(f"there is no pg_dump of PostgreSQL {version}")


def run(*command: object, **options: Any) -> str:
    """Run a program as the server's user; what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        **{"cwd": "/", **account(), **options},
    )
    assert done.returncode == 0, f"{command[0]}: {done.stderr or done.stdout}"
    return done.stdout


@attrs.define
class Server:
    """A PostgreSQL server in a folder of its own."""

    folder: Path
    settings: Mapping[str, str]
    programs: Path = attrs.field(factory=programs)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return make_dsn(host=str(self.folder), port=5432, user="postgres", dbname="postgres")

    def start(self) -> None:
        fixed = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "port": "5432"}
        options = " ".join(f"-c {name}='{value}'" for name, value in {**self.settings, **fixed}.items())
        log = self.folder / "log"
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        run(self.programs / "pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")


@contextmanager
def server(
    copy_of: Server | None = None, version: int | None = None, checksums: bool = False, **settings: str
) -> Iterator[Server]:
    """A running server, of a given version or that of `programs`; a standby, if it is the copy of another."""
    found = programs() if version is None else programs_of(version)
    folder = Path(tempfile.mkdtemp(prefix="pgevents-test-", dir="/tmp"))
    give_away(folder)
    made = Server(folder, {"max_connections": "60", "shared_buffers": "32MB", **settings}, found)
    try:
        if copy_of is None:
            options = ["--data-checksums"] if checksums else []
            run(found / "initdb", "-D", made.data, "-A", "trust", "-U", "postgres", "-N", *options)
        else:
            run(
                found / "pg_basebackup",
                "-D",
                made.data,
                "-d",
                copy_of.url,
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
            )
        made.start()
        yield made
    finally:
        with suppress(AssertionError):
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def pgbouncer(url: str) -> Iterator[str]:
    """A PgBouncer in transaction mode in front of a database; the URL through it."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    target = parse_dsn(url)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="pgevents-test-", dir="/tmp"))
    user = target.get("user", getpass.getuser())
    settings = folder / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{target['dbname']} = {make_dsn(**{**target, 'user': user})}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = 5\nmax_client_conn = 100\nlogfile = {folder}/log\n"
    )
    host = target.get("host", "")
    give_away(folder, host)
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([program, str(settings)], cwd="/", **silent, **account(host))
    through = make_dsn(host="127.0.0.1", port=port, user=user, dbname=target["dbname"])
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with suppress(psycopg2.OperationalError):
                psycopg2.connect(through, connect_timeout=2).close()
                break
            time.sleep(0.05)
        else:
            pytest.fail(f"pgbouncer does not answer: {(folder / 'log').read_text()}")
        yield through
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
