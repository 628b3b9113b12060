"""Types are API: users' code is understood by mypy and pyright at their strictest, and so is the package
itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_mypy_strict() -> None:
    """`mypy --strict` finds nothing to complain of."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", "tests/typing", "pgevents"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("what", ["tests/typing", pytest.param("pgevents", marks=pytest.mark.long)])
def test_pyright_strict(what: str) -> None:
    """`pyright` in strict mode finds nothing to complain of."""
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
