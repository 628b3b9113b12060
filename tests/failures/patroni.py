"""A Patroni cluster of three nodes with an etcd, all on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import psycopg2
import pytest

from ..consistency.servers import account, give_away

TTL, LOOP_WAIT, RETRY_TIMEOUT = 20, 2, 8
"""Patroni's times in seconds: a dead node is noticed after TTL. TTL 20 is the least that Patroni takes."""
SETTINGS = {
    "max_connections": 60,
    "shared_buffers": "32MB",
    "wal_log_hints": "on",
    "wal_keep_size": "256MB",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "checkpoint_timeout": "30s",
}


def programs() -> Path:
    """The folder of PostgreSQL's programs that Patroni can use."""
    found = [Path(os.environ["PGEVENTS_PROGRAMS"])] if "PGEVENTS_PROGRAMS" in os.environ else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for name in ("patroni", "etcd"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")  # a system's package: the failover page says which
    if not found:
        # Patroni runs pg_rewind and pg_basebackup, which a system's package has.
        pytest.skip("no PostgreSQL in /usr/lib/postgresql, and PGEVENTS_PROGRAMS names none")
    return found[0]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@attrs.define
class Node:
    """A machine of the cluster: Patroni and its PostgreSQL."""

    name: str
    folder: Path
    port: int
    rest_port: int
    process: Any = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["patroni", str(self.folder / "patroni.json")],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account(),
            )

    def server_processes(self) -> list[int]:
        """The postmaster and its children."""
        with suppress(OSError, ValueError, IndexError):
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
            if Path(f"/proc/{postmaster}").exists():
                return [postmaster, *children(postmaster)]
        return []

    def kill_server(self) -> None:
        """kill -9 of PostgreSQL; Patroni stays and sees it."""
        kill_all(self.server_processes())

    def kill(self) -> None:
        """kill -9 of all that runs there, as when the machine loses its power."""
        server = self.server_processes()
        self.process.kill()
        kill_all(server)
        self.process.wait()

    def ask(self, path: str, body: Any = None, timeout: float = 5.0) -> Any:
        """What Patroni's API answers; None if it does not."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.rest_port}/{path}", data, headers)
        with suppress(OSError, ValueError):
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                said = answer.read().decode()
                return json.loads(said) if said.startswith("{") else said
        return None

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres", connect_timeout=3
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()


@attrs.define
class Cluster:
    """Three nodes.

    Attributes:
        nodes: The nodes.
        is_synchronous: Whether a commit waits for one standby, and only that one may take over.
    """

    nodes: list[Node]
    is_synchronous: bool

    @property
    def url(self) -> str:
        """What clients connect to: all nodes, of which libpq takes the one that can be written to."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return (
            f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write&connect_timeout=3"
            "&tcp_user_timeout=5000&keepalives_idle=5&keepalives_interval=2&keepalives_count=3"
        )

    def members(self) -> list[dict[str, Any]]:
        for node in self.nodes:
            answer = node.ask("cluster")
            if answer:
                return list(answer["members"])
        return []

    def leader(self) -> Node | None:
        names = [member["name"] for member in self.members() if member["role"] == "leader"]
        return next((node for node in self.nodes if node.name in names), None)

    def is_healthy(self) -> bool:
        """All three run on one timeline, and one standby is synchronous if one has to be."""
        members = self.members()
        roles = [member["role"] for member in members]
        running = all(member["state"] in ("running", "streaming") for member in members)
        timelines = {member.get("timeline") for member in members}
        in_sync = roles.count("sync_standby") == 1 if self.is_synchronous else True
        whole = len(members) == len(self.nodes) and running and len(timelines) == 1 and in_sync
        if not whole or roles.count("leader") != 1:
            return False
        leader = self.leader()
        with suppress(psycopg2.Error):
            return leader is not None and leader.sql("SELECT count(*) FROM pg_stat_replication")[0][0] == 2
        return False

    def wait_until_healthy(self, timeout: float = 300.0) -> None:
        end = time.monotonic() + timeout
        while not self.is_healthy():
            assert time.monotonic() < end, f"the cluster is not whole: {self.members()}\n{self.logs()}"
            time.sleep(0.3)

    def logs(self) -> str:
        """The last lines of all logs, for the error."""
        paths = [self.nodes[0].folder.parent / "etcd.log", *(node.folder / "log" for node in self.nodes)]
        return "\n".join(f"{path}: {path.read_text(errors='replace')[-1500:]}" for path in paths)

    def stop_sending(self, leader: Node) -> None:
        """Let the leader's WAL go no further, as when the network to the standbys stalls."""
        for (pid,) in leader.sql("SELECT pid FROM pg_stat_replication"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)


def _settings(
    node: Node, etcd_port: int, folder: Path, bin_dir: Path, *, is_synchronous: bool
) -> dict[str, Any]:
    here = "127.0.0.1"
    dcs = {
        "ttl": TTL,
        "loop_wait": LOOP_WAIT,
        "retry_timeout": RETRY_TIMEOUT,
        "primary_start_timeout": 0,  # a killed server is not started again as the leader
        "maximum_lag_on_failover": 1 << 30,
        "synchronous_mode": is_synchronous,
        "synchronous_mode_strict": is_synchronous,
        "postgresql": {"use_pg_rewind": True, "use_slots": True, "parameters": SETTINGS},
    }
    hba = [f"host {what} all 127.0.0.1/32 trust" for what in ("all", "replication")] + ["local all all trust"]
    password = {"password": "x"}
    return {
        "scope": "pgevents",
        "name": node.name,
        "etcd3": {"host": f"{here}:{etcd_port}"},
        "restapi": {
            "listen": f"{here}:{node.rest_port}",
            "connect_address": f"{here}:{node.rest_port}",
        },
        "bootstrap": {
            "dcs": dcs,
            "initdb": [{"encoding": "UTF8"}, "data-checksums", {"auth": "trust"}, "no-sync"],
        },
        "postgresql": {
            "listen": f"{here}:{node.port}",
            "connect_address": f"{here}:{node.port}",
            "data_dir": str(node.data),
            "bin_dir": str(bin_dir),
            "pgpass": str(node.folder / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", **password},
                "replication": {"username": "replicator", **password},
            },
            "pg_hba": hba,
            "parameters": {"unix_socket_directories": str(node.folder)},
            "remove_data_directory_on_rewind_failure": True,
            "remove_data_directory_on_diverged_timelines": True,
        },
        "watchdog": {"mode": "off"},
    }


@contextmanager
def cluster(*, is_synchronous: bool) -> Iterator[Cluster]:
    """A running cluster."""
    bin_dir = programs()
    folder = Path(tempfile.mkdtemp(prefix="pgevents-test-", dir="/tmp"))
    give_away(folder)
    ports = free_ports(8)
    nodes = [Node(f"n{n}", folder / f"n{n}", ports[n], ports[n + 3]) for n in range(3)]
    client, peer = (f"http://127.0.0.1:{port}" for port in ports[6:])
    etcd_log = (folder / "etcd.log").open("wb")
    command = ["etcd", "--data-dir", str(folder / "etcd"), "--listen-client-urls", client]
    command += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
    command += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    etcd = subprocess.Popen(command, cwd=folder, stdout=etcd_log, stderr=etcd_log, **account())
    made = Cluster(nodes, is_synchronous)
    try:
        for node in nodes:
            node.folder.mkdir()
            settings = _settings(node, ports[6], folder, bin_dir, is_synchronous=is_synchronous)
            (node.folder / "patroni.json").write_text(json.dumps(settings))
            give_away(node.folder)
            node.start()
        made.wait_until_healthy()
        yield made
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()
        etcd.kill()
        etcd.wait()
        etcd_log.close()
        shutil.rmtree(folder, ignore_errors=True)
