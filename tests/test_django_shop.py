"""The Django example: its migrations, its own tests, and a database that psycopg 3 would take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg2.extensions import parse_dsn

from .conftest import database

pytest.importorskip("django")
pytestmark = pytest.mark.long

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "django_shop"
WITHOUT_PSYCOPG3 = 'raise ImportError("Django shall take psycopg2")\n'


@pytest.fixture
def manage(url: str, tmp_path: Path):
    """Runs `manage.py` in a process of its own on the test's database; what it prints."""
    (tmp_path / "psycopg.py").write_text(WITHOUT_PSYCOPG3)
    parts = parse_dsn(url)
    settings = {f"PG{name}": parts[key] for name, key in (("HOST", "host"), ("USER", "user")) if key in parts}
    settings |= {"PGDATABASE": parts["dbname"]}
    settings |= {f"PG{name.upper()}": parts[name] for name in ("port", "password") if name in parts}

    def run(*arguments: str, psycopg3: bool = False, fails: bool = False) -> str:
        paths = [str(EXAMPLE.parents[2])] + ([] if psycopg3 else [str(tmp_path)])
        done = subprocess.run(
            [sys.executable, str(EXAMPLE / "manage.py"), *arguments],
            env={
                **os.environ,
                **settings,
                "PYTHONPATH": os.pathsep.join(paths),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            cwd=EXAMPLE,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_migrations_hold_the_tables(manage, url: str) -> None:
    """They make the tables, `makemigrations` sees no change, and going back leaves the events."""
    assert "shop.0001_initial... OK" in manage("migrate")
    assert "No changes detected" in manage("makemigrations", "--check", "--dry-run")
    code = "from shop.store import *; client.save_event(TinsDelivered('Sencha', 3)); client.db.close()"
    manage("shell", "-c", code)
    manage("migrate", "shop", "zero")
    manage("migrate")
    db = database(url)
    assert db.execute_sql("SELECT count(*) FROM shop_events").fetchone() == (1,)
    db.close()


def test_its_own_tests_pass(manage) -> None:
    """Run on the database that Django makes for tests."""
    assert "Ran 5 tests" in manage("test", "shop")


def test_psycopg_3_is_refused_before_anything_is_written(manage, url: str) -> None:
    """Django takes it where it is installed; the message says so."""
    pytest.importorskip("psycopg")
    assert "have the program connect by psycopg2" in manage("migrate", psycopg3=True, fails=True)
    db = database(url)
    assert db.execute_sql("SELECT to_regclass('shop_events')").fetchone() == (None,)
    db.close()
