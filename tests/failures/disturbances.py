"""What is done to a server and its clients at random, and undone again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs
import psycopg2

from .load import Load
from .machine import Machine


@attrs.frozen
class Disturber:
    """Disturbs one machine and the clients of one load; each call ends with what it broke made whole."""

    machine: Machine
    load: Load
    rng: random.Random

    def kill_server(self) -> None:
        """kill -9 of the whole server, and a start at once."""
        self.machine.kill()
        self.machine.revive()

    def kill_backend(self) -> None:
        """kill -9 of one backend: the server ends all others and recovers by itself."""
        backends = self.machine.processes()[1:]
        with suppress(ProcessLookupError):
            os.kill(self.rng.choice(backends), signal.SIGKILL)
        time.sleep(0.2)
        self.machine.revive()

    def kill_client(self) -> None:
        """kill -9 of a process that saves, or of one that handles events."""
        self.load.kill(self.rng.choice([name for name in self.load.processes if name[0] in "sw"]))

    def stop_client(self) -> None:
        """SIGSTOP of a client for up to a second."""
        pid = self.rng.choice(list(self.load.processes.values())).pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.random())
        os.kill(pid, signal.SIGCONT)

    def stop_server(self) -> None:
        """SIGSTOP of all of the server's processes for up to a second."""
        self.machine.signal_all(signal.SIGSTOP)
        time.sleep(self.rng.random())
        self.machine.signal_all(signal.SIGCONT)

    def stop_backend(self) -> None:
        """SIGSTOP of one of the server's processes for up to half a second."""
        backends = self.machine.processes()[1:]
        with suppress(ProcessLookupError):
            pid = self.rng.choice(backends)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self.rng.random() / 2)
            os.kill(pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Terminated backends: each of the clients' with a chance of one half."""
        self.machine.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop' AND random() < 0.5"
        )

    def fill_disk(self) -> None:
        """No byte left on the server's disk for up to 0.7 s."""
        self.machine.fill_disk()
        time.sleep(self.rng.random() * 0.7)
        self.machine.free_disk()
        time.sleep(0.1)
        self.machine.revive()

    def use_up_connections(self) -> None:
        """All connections in use for up to 0.7 s, while half of the clients have lost theirs."""
        taken: list[Any] = []
        try:
            self.terminate()
            for _ in range(60):
                with suppress(psycopg2.Error):
                    taken.append(psycopg2.connect(self.machine.url, connect_timeout=2))
                    continue
                break
            self.terminate_all_but(taken)
            time.sleep(self.rng.random() * 0.7)
        finally:
            for connection in taken:
                connection.close()

    def terminate_all_but(self, taken: list[Any]) -> None:
        """Let clients look for a connection anew while there is none, except those that were just taken."""
        pids = [connection.info.backend_pid for connection in taken if not connection.closed] or [0]
        self.machine.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shop' "
            f"AND pid NOT IN ({', '.join(map(str, pids))}) AND random() < 0.3"
        )

    def cut_network(self) -> None:
        """The cable is out: for a moment, or for longer than anybody waits for an answer."""
        self.machine.pull_cable()
        time.sleep(self.rng.choice([0.1, 0.3, 1.0, 4.0]) * self.rng.random())
        self.machine.plug_cable()

    def all(self) -> dict[str, Callable[[], None]]:
        """Every disturbance by its name."""
        return {
            "server killed": self.kill_server,
            "backend killed": self.kill_backend,
            "client killed": self.kill_client,
            "client stopped": self.stop_client,
            "server stopped": self.stop_server,
            "backend stopped": self.stop_backend,
            "backends terminated": self.terminate,
            "disk full": self.fill_disk,
            "connections used up": self.use_up_connections,
            "network cut": self.cut_network,
        }
