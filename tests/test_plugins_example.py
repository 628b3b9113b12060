"""The example plugin, as a person installs it: built, found by its entry point, its own tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "pgevents-example-plugin"

FIND = """
from pgevents import create_event_client, create_events_table, create_projections_table

tables = create_events_table(), create_projections_table()
for plugins in ((), "auto"):
    print([*create_event_client("postgresql://localhost/shop", *tables, plugins=plugins).plugins.list()])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package built and installed into a folder of its own, from a copy of its source."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("target")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--target",
        str(target),
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True, timeout=120)
    return target


def run(installed: Path, *arguments: str, **environment: str) -> str:
    """What a Python with the package on its path prints."""
    path = os.pathsep.join([str(installed), str(EXAMPLE.parents[2])])
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_plugin_is_found_when_asked_for(installed: Path) -> None:
    """`plugins="auto"` finds it, and nothing else does."""
    assert run(installed, "-c", FIND).splitlines() == ["[]", "['outbox']"]
    assert run(installed, "-c", FIND, PGEVENTS_PLUGINS_OFF="outbox").splitlines() == ["[]", "[]"]


@pytest.mark.long
def test_its_own_tests_pass(installed: Path, url: str) -> None:
    """Run against the installed package."""
    tests = shutil.copytree(
        EXAMPLE / "tests", installed / "outbox_tests", ignore=shutil.ignore_patterns("__pycache__")
    )
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests)]
    assert "3 passed" in run(installed, *arguments, PGEVENTS_DATABASE_URL=as_url(url))


def as_url(dsn: str) -> str:
    """A libpq connection string as a URL."""
    from urllib.parse import quote

    from psycopg2.extensions import parse_dsn

    parts = parse_dsn(dsn)
    name, user = parts.pop("dbname"), parts.pop("user", "")
    options = "&".join(f"{key}={quote(value, safe='')}" for key, value in parts.items())
    return f"postgresql:///{name}?user={quote(user, safe='')}&{options}"
