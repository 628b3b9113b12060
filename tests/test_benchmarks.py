"""The benchmark itself: it runs for every contender that is installed, and all read the same carts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from attrs import asdict, evolve
from psycopg2.extensions import make_dsn, parse_dsn

from .benchmarks import hook_cost, importing
from .benchmarks.__main__ import FIGURES_PAGE, PLOT, SUMMARY_PAGE, main
from .benchmarks.carts import PLAIN, big_carts, small_carts
from .benchmarks.contenders import CONTENDERS, PEER_MISSING
from .benchmarks.drivers import Database
from .benchmarks.report import BEGIN, END, markdown, put_between_marks
from .benchmarks.runner import run_all
from .benchmarks.seeding import create_database
from .benchmarks.workloads import QUICK, workloads

SCALE = evolve(QUICK, seconds=0.01, many=2, batches=(100,), growth=(400,))
PEERS = ("dcb", "classic")


@pytest.fixture
def superuser_url(url: str) -> str:
    """The test's database, if it may be filled past the guards."""
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
    (may,) = cursor.fetchone()
    connection.close()
    if not may:
        pytest.skip("filling guarded tables takes a superuser")
    return url


@pytest.mark.parametrize("peers", [False, True], ids=["without the peer", "with the peer"])
def test_every_contender_tells_of_the_same_carts(superuser_url: str, peers: bool) -> None:
    """Who reads other rows, or folds them to something else, is no contender."""
    if peers and PEER_MISSING:
        pytest.skip(PEER_MISSING)
    keys = [key for key in CONTENDERS if (key in PEERS) == peers] + ["pgevents"]
    database = Database("carts", 2_500)
    create_database(superuser_url, database, keys)
    ids = [big_carts(database.size)[0], small_carts(database.size)[-1]]
    for cart, length in zip(ids, (1_000, 20), strict=True):
        views: list[Any] = []
        for key in keys:
            contender: Any = CONTENDERS[key](superuser_url, PLAIN)
            contender.open()
            try:
                assert len(contender.read(cart)) == length, key
                if hasattr(contender, "view"):
                    views.append(contender.view(cart))
            finally:
                contender.close()
        assert all(view == views[0] for view in views)
        assert views[0].user_id == f"u-{cart}"


@pytest.mark.long
def test_it_runs_and_reports(superuser_url: str, tmp_path: Path) -> None:
    """A benchmark that is run once a year would rot in between."""
    said: list[str] = []
    keys = ["4", "6", "7", "11", "12", "13", "14/read"]
    found = run_all(superuser_url, SCALE, keys, prefix="pgevents_smoke_", say=said.append)
    assert set(found["workloads"]) == {
        one.key for one in workloads(SCALE) if one.key in keys or one.key.partition("/")[0] in keys
    }
    for workload in found["workloads"].values():
        assert all(sum(one["units"]) + one["failed"] > 0 or one["tries"] > 0 for one in workload["slices"])
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\noutdated\n{END}\nafter\n", encoding="utf-8")
    put_between_marks(page, markdown(found))
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before") and text.endswith("after\n") and "outdated" not in text
    assert "pgevents | the unlocked check |" in text
    assert ("| classic |" in text) == (not PEER_MISSING)


def test_a_page_that_cannot_take_the_figures_is_reported_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measuring all of it takes an hour."""
    for reason in ("No such file", "has no lines"):
        with pytest.raises(SystemExit):
            main(["--only", "1", "--docs", str(tmp_path)])
        assert reason in capsys.readouterr().err
        (tmp_path / SUMMARY_PAGE).write_text("no marks\n", encoding="utf-8")


@pytest.mark.long
def test_one_command_writes_tables_and_plot_of_the_same_slices(tmp_path: Path) -> None:
    """So that no page speaks of another run than the plot beside it."""
    pytest.importorskip("matplotlib")
    for name in (SUMMARY_PAGE, FIGURES_PAGE):
        (tmp_path / name).write_text(f"before\n{BEGIN}\n{END}\nafter\n", encoding="utf-8")
    one = {"round": 0, "units": [7_331], "client_cpu": 1.0, "server_cpu": 1.0, "peak_mb": 40.0}
    about = {
        "date": "2026-11-27",
        "commit": "0123abc",
        "python": "3.12",
        "system": "Linux",
        "processors": 2,
        "server": {"server_version": "18"},
        "packages": {},
        "scale": asdict(SCALE),
        "peer_missing": "",
    }
    rates = {"limit": 9_000, "pgevents": 7_331}
    slices = [{**one, "label": label, "rate": rate} for label, rate in rates.items()]
    (tmp_path / "run.json").write_text(json.dumps({"about": about, "workloads": {"1": {"slices": slices}}}))
    main(["--read", str(tmp_path / "run.json"), "--docs", str(tmp_path)])
    for name in (SUMMARY_PAGE, FIGURES_PAGE):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "7,331" in text and "Commit 0123abc, 2026-11-27." in text, name
    assert "<svg" in (tmp_path / PLOT).read_text(encoding="utf-8")


def test_what_hooks_cost_can_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The measurement of hooks runs, too."""
    hook_cost.main(0.05)
    told = capsys.readouterr().out
    assert all(name in told for name in ("hook calls removed", "no plugin", "one empty hook"))


def test_every_goal_names_those_who_run() -> None:
    """A goal against a contender that does not run would never be looked at."""
    for one in workloads(QUICK):
        labels = set(one.runs)
        for goal in one.goals:
            assert {goal.label, *goal.of} <= labels, one.key
        assert set(one.limits) & labels or one.key.startswith("14/")


@pytest.mark.long
def test_it_goes_on_in_the_next_round_and_leaves_nothing_behind(superuser_url: str) -> None:
    """A contender that connects anew knows how far its carts are; the server is left as it was found."""
    run_all(superuser_url, evolve(SCALE, rounds=2), ["2"], prefix="pgevents_smoke_", say=lambda _: None)
    connection = psycopg2.connect(make_dsn(**parse_dsn(superuser_url)))
    cursor = connection.cursor()
    cursor.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'pgevents_smoke_%'")
    assert cursor.fetchone() == (0,)
    connection.close()


@pytest.mark.long
def test_an_import_is_measured_beside_a_copy(url: str) -> None:
    """Both fill their tables with all events."""
    figures = importing.measure(url, 300, 1)
    assert figures.ratio > 0
    assert set(figures.sizes) == {"import", "COPY", "direct saves"}
