"""Failovers under load: `PGEVENTS_FAILOVERS=50 pytest -s -m failover tests/failures`.

Three nodes under Patroni on this machine; it needs `patroni`, `etcd` and PostgreSQL's programs (Debian:
`patroni`, `etcd-server`, `postgresql`). Fifty failovers take about half an hour. At the end a line says what
was done and found.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path

import attrs
import pytest

from .load import Load, client_of, install, say
from .oracle import Verdict, judge, longest_gaps
from .patroni import Cluster, Node, cluster

FAILOVERS = int(os.environ.get("PGEVENTS_FAILOVERS", "6"))
KINDS = ("node", "server", "switchover")
SEED = int(os.environ.get("PGEVENTS_SEED", "1"))


@attrs.define
class Run:
    """What was done to a cluster under load, and what came of it."""

    verdict: Verdict
    counts: Counter[str]
    longest: dict[str, float]
    unexpected: list[str]

    def __str__(self) -> str:
        done = ", ".join(f"{count} {kind}" for kind, count in sorted(self.counts.items()))
        gaps = ", ".join(f"{kind} {seconds:.1f} s" for kind, seconds in sorted(self.longest.items()))
        return f"{done}; {self.verdict}; longest time until all clients went on: {gaps}"


def fail_over(made: Cluster, kind: str, rng: random.Random) -> None:
    """Take the leader away in one of three ways, wait for another one, and bring it back."""
    leader = made.leader()
    assert leader is not None
    if kind == "switchover":
        answer = made.nodes[0].ask("switchover", {"leader": leader.name}, timeout=60)
        say("switchover:", answer)
    else:
        if rng.random() < 0.5:  # what is acknowledged now would be lost if commits did not wait
            made.stop_sending(leader)
            time.sleep(rng.random())
        if kind == "node":
            leader.kill()
        else:
            leader.kill_server()
    _wait_for_another(made, leader, is_needed=kind == "node")
    if kind == "node":
        time.sleep(rng.random() * 2)
        leader.start()
    made.wait_until_healthy()


def _wait_for_another(made: Cluster, former: Node, *, is_needed: bool) -> None:
    end = time.monotonic() + 90
    while True:
        now = made.leader()
        if now is not None and now.name != former.name:
            return
        if time.monotonic() > end:
            assert not is_needed, f"nobody took over from {former.name}: {made.members()}"
            return
        time.sleep(0.2)


def run(folder: Path, failovers: int, *, is_synchronous: bool, kinds: tuple[str, ...] = KINDS) -> Run:
    """Fail over so many times under load."""
    rng = random.Random(SEED)
    moments: list[float] = []
    done: list[str] = []
    with cluster(is_synchronous=is_synchronous) as made:
        install(made.url)
        load = Load(made.url, folder)
        load.keep()
        load.wait_until_all_go_on()
        for number in range(failovers):
            time.sleep(0.5 + rng.random() * 2)
            done.append(kinds[number % len(kinds)] if number < len(kinds) else rng.choice(kinds))
            moments.append(time.monotonic())
            fail_over(made, done[-1], rng)
            load.wait_until_all_go_on()
            load.keep()
            say(f"{number + 1} {done[-1]}: whole again after {time.monotonic() - moments[-1]:.1f} s")
        wrong = load.settle()
        client = client_of(made.url)
        verdict = judge(client, folder)
        client.db.close()
    verdict.examples += wrong
    longest: dict[str, float] = {}
    for kind, gap in zip(done, longest_gaps(folder, moments), strict=True):
        longest[kind] = max(longest.get(kind, 0.0), gap)
    return Run(verdict, Counter(done), longest, load.unexpected)


@pytest.mark.failover
def test_failovers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Synchronous replication: nothing is lost, doubled or handled wrongly; clients go on by themselves, and
    a place from before is refused."""
    found = run(tmp_path, FAILOVERS, is_synchronous=True)
    print(f"synchronous: {found}")
    assert found.verdict.is_right, found.verdict.examples[:20]
    assert found.unexpected == []
    assert found.verdict.places_refused > 0
    assert found.verdict.acknowledged > 20 * FAILOVERS


@pytest.mark.failover
def test_asynchronous_replication_loses_what_was_acknowledged(tmp_path: Path) -> None:
    """The same oracle sees it: without waiting for a standby, acknowledged events are lost. What handlers in
    the same database did goes back with them."""
    found = run(tmp_path, max(3, FAILOVERS // 5), is_synchronous=False, kinds=("node", "server"))
    print(f"asynchronous: {found}")
    assert found.verdict.lost > 0
    assert found.verdict.doubled == 0
    assert sum(found.verdict.faults.values()) == 0
    assert found.unexpected == []
