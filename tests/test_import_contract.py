"""The file list is the architecture."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_modules_import_only_from_those_below_them() -> None:
    """The layers of setup.cfg hold."""
    root = Path(__file__).parent.parent
    check = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", check, "--no-cache"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
