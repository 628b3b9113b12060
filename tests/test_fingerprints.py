"""The lock file of reducers: it warns when one changes and its version does not."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pgevents import EventClient
from pgevents.cli.commands import cli
from pgevents.testing import ReducersChangedWarning, check_reducers

from .test_subscriptions_cli import pg_url

MODULE = '''
from pgevents import ProjectionBase, pipeline
from attrs import frozen

@frozen
class View:
    id: str
    n: int = 0

def to_n(n, event):
    """How many."""
    return n + 1

class Counted(ProjectionBase[View, dict]):
    projection_type = "COUNTED"
    version = 1
    reducers = pipeline(n=to_n)
'''


def load(folder: Path, text: str) -> Any:
    """The class as it stands in a version of the program."""
    path = folder / f"program_{abs(hash(text))}.py"
    path.write_text(text)
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.Counted  # type: ignore[attr-defined]


def test_a_change_without_a_version_warns(tmp_path: Path) -> None:
    """Of a function, or of the class; comments, layout and docstrings do not count."""
    lock = tmp_path / "reducers.lock"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_reducers(lock, load(tmp_path, MODULE)) == []
        same = MODULE.replace('    """How many."""\n', "    # counts\n")
        assert check_reducers(lock, load(tmp_path, same)) == []
        raised = MODULE.replace("n + 1", "n + 2").replace("version = 1", "version = 2")
    kept = lock.read_text()
    for other in (MODULE.replace("n + 1", "n + 2"), MODULE.replace("n=to_n", "n=lambda n, event: n - 1")):
        with pytest.warns(ReducersChangedWarning, match="raise its version"):
            assert check_reducers(lock, load(tmp_path, other)) == ["COUNTED"]
        assert lock.read_text() == kept
    changed = load(tmp_path, MODULE.replace("n + 1", "1 + n"))
    assert check_reducers(lock, changed, update=True) == [] == check_reducers(lock, changed)
    assert check_reducers(lock, load(tmp_path, raised)) == []
    assert json.loads(lock.read_text())["COUNTED"]["version"] == 2


def test_the_doctor_compares_with_the_lock_file(client: EventClient, url: str, tmp_path: Path) -> None:
    """It only reads it; a file that is none is a note, and no file is nothing."""
    lock = tmp_path / "reducers.lock"

    def found() -> list[tuple[str, str]]:
        options = ["doctor", "--json", "--reducers", str(lock)]
        out = CliRunner().invoke(cli, options, env={"PGEVENTS_DATABASE_URL": pg_url(url)}).output
        findings = [json.loads(line) for line in out.splitlines()]
        return [(one["level"], one["what"]) for one in findings if "reducers" in one["what"]]

    assert found() == []
    counted = load(tmp_path, MODULE.replace("COUNTED", "COUNTED_HERE"))
    check_reducers(lock, counted)
    assert found() == [("ok", f"reducers are as {lock} has them, or have another version")]
    text = lock.read_text().replace(json.loads(lock.read_text())["COUNTED_HERE"]["fingerprint"], "another")
    lock.write_text(text)
    assert found() == [("note", f"the reducers of COUNTED_HERE differ from {lock}, and its version does not")]
    assert lock.read_text() == text
    lock.write_text("[]")
    ((level, what),) = found()
    assert level == "note" and "cannot be read as a lock file" in what
