"""Packaging: what is built holds what is needed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist, and with the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "pgevents"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:  # so that what lies about in the working folder is not built in
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_bytes((ROOT / name).read_bytes())
    else:
        source = ROOT
    # Without an environment of its own, which takes most of the time; `.ci/release` builds in one.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_the_package(built: Path) -> None:
    """The wheel has all modules, `ordering.sql`, `py.typed`, the licence and the demo's data, and no
    tests."""
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pgevents").rglob("*")
        if path.suffix in {".py", ".sql", ".typed", ".gz"} and "__pycache__" not in path.parts
    }
    listed = subprocess.run(["git", "ls-files", "pgevents"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        expected &= set(listed.stdout.splitlines())
    assert (
        {"pgevents/store/sql/append.sql", "pgevents/py.typed", "pgevents/client/factory.py"}
        <= expected
        <= names
    )
    assert any(name.endswith("LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"pgevents"}


def test_the_sdist_can_be_read_and_tested(built: Path) -> None:
    """The sdist has package, metadata, licence, README and settings."""
    (sdist,) = built.glob("*.tar.gz")
    names = {name.split("/", 1)[-1] for name in tarfile.open(sdist).getnames()}
    assert {
        "pyproject.toml",
        "setup.cfg",
        "LICENSE",
        "pgevents/store/sql/append.sql",
        "pgevents/py.typed",
    } <= names


def test_the_installed_wheel_works_by_itself(built: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, the wheel's package imports, and finds its SQL beside itself."""
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import pgevents; from pgevents.store.functions import functions_sql;"
        "print(pgevents.__file__, len(functions_sql(pgevents.create_events_table('s').pgevents_spec)) > 5000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "pgevents" / "__init__.py"), "True"]


def test_what_it_needs_is_little(built: Path) -> None:
    """Five packages are required; everything else is an extra; Python 3.10 will do."""
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
    lines = archive.read(name).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert sorted(line.split()[1].split(">")[0].split("<")[0] for line in needed) == [
        "attrs",
        "cattrs",
        "peewee",
        "pluggy",
        "psycopg2-binary",
    ]
    assert "Requires-Python: >=3.10" in lines
    assert {"Provides-Extra: embedded", "Provides-Extra: cli", "Provides-Extra: test"} <= set(lines)


def test_every_public_name_exists() -> None:
    """What `__all__` promises can be imported."""
    import pgevents

    assert pgevents.__all__ == sorted(pgevents.__all__)
    for name in pgevents.__all__:
        assert getattr(pgevents, name) is not None


NAMESAKE = "Metadata-Version: 2.1\nName: pgevents\nVersion: 0.0.12\n"


def test_a_namesake_from_the_index_is_noticed(tmp_path: Path) -> None:
    """Where the other project named pgevents is installed, the first import says so, and what to do."""
    (tmp_path / "pgevents-0.0.12.dist-info").mkdir()
    (tmp_path / "pgevents-0.0.12.dist-info" / "METADATA").write_text(NAMESAKE)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", "import pgevents"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0
    assert "RuntimeWarning: the distribution pgevents 0.0.12, of another project" in done.stderr
    assert "pip uninstall pgevents pgevents-store" in done.stderr


def test_the_name_is_the_same_everywhere(built: Path) -> None:
    """Metadata and error texts name one distribution, and the template of a plugin depends on it."""
    from pgevents.distribution import NAME, install_hint

    (wheel,) = built.glob("*.whl")
    assert wheel.name.startswith(f"{NAME.replace('-', '_')}-")
    assert install_hint("cli") == f'pip install "{NAME}[cli]"'
    template = ROOT / "docs" / "examples" / "pgevents-example-plugin" / "pyproject.toml"
    assert f'dependencies = ["{NAME}"]' in template.read_text()
