"""The README does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from click.testing import CliRunner
from psycopg2.extensions import parse_dsn

from pgevents import EventTypes
from pgevents.cli.commands import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[tuple[int, str]]:
    """The README's code blocks of one language, with the line where each begins."""
    found = re.finditer(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [(README[: match.start(1)].count("\n"), match[1]) for match in found]


def test_every_python_block_runs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks run in order as they stand, each going on from the ones before; the first is a program by
    itself."""
    monkeypatch.setenv("DATABASE_URL", "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote))
    monkeypatch.setattr(EventTypes, "everything", EventTypes())  # its classes are nobody else's
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for line, code in blocks("python"):
        exec(compile("\n" * line + code, "README.md", "exec", dont_inherit=True), namespace)
    assert capsys.readouterr().out.startswith("Cart(id='c1', total=750)\n")
    for name in ("client", "script"):
        namespace[name].db.close()


def test_the_console_block_runs(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command by command on an empty database, so without a schema; --follow would not end."""
    database = "postgresql:///?" + urlencode(parse_dsn(url), quote_via=quote)
    monkeypatch.chdir(tmp_path)
    ((_, block),) = blocks("console")
    for line in block.splitlines():
        program, *arguments = shlex.split(line.removeprefix("$ "), comments=True)
        arguments = [part for part in arguments if part != "--follow"]
        done = CliRunner().invoke(cli, arguments, env={"PGEVENTS_DATABASE_URL": database})
        assert program == "pgevents"
        if arguments[0] == "show":
            assert done.output.endswith(": no projection SHOPPING_CART c1 is saved\n")
        elif arguments[0] == "doctor":  # the tests' server is fast rather than durable
            assert [one for one in done.output.splitlines() if "✗" in one and "fsync" not in one] == []
        else:
            assert (done.exit_code, "Error" in done.output) == (0, False), done.output
    assert (tmp_path / "log.jsonl").read_text().count("CART_CREATED") == 1


def test_the_first_program_fits_a_screen() -> None:
    """Promise, five bullets and a whole program stand above everything else."""
    head = README[: README.index("```python")]
    assert len(re.findall(r"^- \*\*", head, re.MULTILINE)) == 5
    assert len(blocks("python")[0][1].split("\n")) <= 35


def test_two_commands_set_everything_up() -> None:
    """One command runs the demo and one the tests; what they install is there to be installed."""
    ((_, commands),) = blocks("sh")
    demo, tests = commands.splitlines()
    assert demo.endswith("pgevents demo")
    assert tests.endswith("pytest")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"\w+", " ".join(re.findall(r'"\.\[(.*?)\]"', commands))):
        assert f"\n{extra} = [" in project


def test_links_lead_somewhere() -> None:
    """Each file that the README points to exists."""
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / target).exists(), target
