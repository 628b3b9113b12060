"""Faults at random under load: `PGEVENTS_FAULTS=1000 pytest -s -m faults tests/failures`.

It needs root, for a network namespace and a small disk. A thousand faults take about half an hour; at the end
a line says what was done and found. PGEVENTS_PROGRAMS names the programs of another version.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pgevents.errors import ConnectionLostError

from . import load as loads
from .disturbances import Disturber
from .load import Load, client_of, install, say
from .machine import Machine, machine
from .oracle import Verdict, judge

FAULTS = int(os.environ.get("PGEVENTS_FAULTS", "40"))
SEED = int(os.environ.get("PGEVENTS_SEED", "1"))
LOOK_EVERY = 25
"""After so many faults everybody is given time to go on."""


def disturb(made: Machine, load: Load, faults: int, kinds: tuple[str, ...] = ()) -> Counter[str]:
    """So many faults; how often which."""
    rng = random.Random(SEED)
    disturbances = Disturber(made, load, rng).all()
    done: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    while done.total() < faults:
        kind = rng.choice(kinds or tuple(disturbances))
        begin = time.monotonic()
        try:
            disturbances[kind]()
        except psycopg2.Error as error:  # the fault before it is not over yet
            say(kind, "could not be done:", str(error).strip()[:100])
            made.revive()
            continue
        done[kind] += 1
        seconds[kind] += time.monotonic() - begin
        load.keep()
        time.sleep(rng.random() * 0.3)
        if done.total() % LOOK_EVERY == 0:
            begin = time.monotonic()
            load.wait_until_all_go_on()
            say(f"{done.total()} faults; all go on {time.monotonic() - begin:.1f} s after the last one")
            say("seconds:", {kind: round(total) for kind, total in seconds.most_common()})
    return done


def run(folder: Path, faults: int, kinds: tuple[str, ...] = ()) -> tuple[Verdict, Counter[str], list[str]]:
    with machine() as made:
        install(made.url)
        load = Load(made.url, folder, workers=2, rate=20)
        load.keep()
        load.wait_until_all_go_on()
        done = disturb(made, load, faults, kinds)
        load.wait_until_all_go_on()
        wrong = load.settle()
        client = client_of(made.url)
        version = client.db.execute_sql("SHOW server_version").fetchone()[0]
        verdict = judge(client, folder)
        client.db.close()
    verdict.examples += wrong
    print(f"PostgreSQL {version}: {done.total()} faults ({dict(done.most_common())}); {verdict}")
    return verdict, done, load.unexpected


@pytest.mark.faults
def test_whatever_breaks_what_was_told_is_true(tmp_path: Path) -> None:
    """Each acknowledged event is there once, no refused one is, decisions saw what precedes them, and events
    are handled once and in order."""
    verdict, done, unexpected = run(tmp_path, FAULTS)
    assert verdict.is_right, verdict.examples[:20]
    assert unexpected == []
    assert done.total() >= FAULTS
    assert verdict.acknowledged > FAULTS


def loses_answers(uses_keys: bool) -> Callable[..., Callable[[], Any]]:
    """How a saver saves whose connection breaks after each first commit, before it has the answer."""

    def saving(
        self: loads.Saver, markers: list[str], key: str, idempotency_key: str | None
    ) -> Callable[[], Any]:
        events = [self._event(key, marker) for marker in markers]
        answers = itertools.count()

        def save() -> Any:
            saved = self.client.save_events(events, idempotency_key=idempotency_key if uses_keys else None)
            if next(answers) == 0:
                self.client.db.close()
                raise ConnectionLostError("the connection broke after the commit")
            return saved

        return save

    return saving


def save_with_keys(*arguments: Any) -> None:
    loads.Saver._saving = loses_answers(True)  # type: ignore[method-assign]
    loads.save(*arguments)


def save_without_keys(*arguments: Any) -> None:
    loads.Saver._saving = loses_answers(False)  # type: ignore[method-assign]
    loads.save(*arguments)


@pytest.mark.faults
@pytest.mark.parametrize("saves", [save_with_keys, save_without_keys])
def test_repeats_without_a_key_are_seen(
    saves: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where answers are lost, the oracle sees events that are there twice; with keys there are none."""
    monkeypatch.setattr(loads, "SAVES", saves)
    verdict, _, unexpected = run(tmp_path, 5, ("backends terminated",))
    assert unexpected == []
    assert verdict.acknowledged > 10
    if saves is save_without_keys:
        assert verdict.doubled >= 3
    else:
        assert verdict.is_right, verdict.examples[:20]
