"""The documentation does what it says: each page's code runs, in order, and the site builds without a
    warning.

A page is run by a process of its own, in an empty folder, with an empty database `shop` that libpq finds by
itself (`PostgresqlDatabase("shop")`, `postgresql:///shop`). To run one by hand: `python tests/test_docs.py
docs/index.md`. In the suite these processes are forked from one that has imported pgevents and nothing else,
because the import takes longer than most pages.

What is run, page by page from the top, in one namespace:

- `python` blocks; one with a `title="shop.py"` is a file, which is written, and continued by `title="shop.py,
    continued"`;
- `pycon` blocks: each result must be the one shown (`...` stands for anything);
- `sql` blocks, on the database; `shell` blocks, in the folder;
- a block with `title="output"` is what the block before it must have printed.

An HTML comment in front says what a reader does not have to see:

- `<!-- setup: shop.py -->`: the page goes on from the tutorial, whose file it finds in the folder;
- `<!-- setup: shop -->`: and there are a client and the names of `shop.py`;
- `<!-- not run: why -->`: the next block is not run.
"""

from __future__ import annotations

import ast
import sys

if __name__ == "__main__":  # else tests/typing would stand for the module typing
    sys.path[0] = ""

import contextlib
import doctest
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "examples" not in page.relative_to(DOCS).parts)
FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>\w*)(?P<options>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!--\s*(not run|setup):\s*(.*?)\s*-->\s*$")
SETUP = """
from peewee import PostgresqlDatabase
from pgevents import stream
from shop import *

client = shop_client(PostgresqlDatabase("shop"))
client.create_tables()
"""


class Block(NamedTuple):
    """A block of code, and what its page says about it."""

    line: int
    language: str
    title: str
    code: str
    comment: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for fence in FENCE.finditer(text):
        comment = COMMENT.search(text[: fence.start()].rstrip() + " ")
        title = re.search(r'title="(.*?)"', fence["options"])
        code = textwrap.dedent(fence["code"])
        line = text.count("\n", 0, fence.start("code"))
        found.append(
            Block(
                line,
                fence["language"],
                title[1] if title else "",
                code,
                *(comment.groups() if comment else ("", "")),
            )
        )
    return found


def files(page: Path) -> dict[str, str]:
    """The files that a page has its reader write."""
    made: dict[str, str] = {}
    for block in blocks(page):
        if block.language == "python" and block.title and block.title != "output":
            name = block.title.removesuffix(", continued")
            made[name] = made[name] + "\n\n" + block.code if block.title != name else block.code
    return made


# -- in a process of its own


class Page:
    """Runs the blocks of a page."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed = ""

    def run(self) -> None:
        for setup in re.findall(r"<!--\s*setup:\s*(.*?)\s*-->", self.page.read_text(encoding="utf-8")):
            assert setup in ("shop", "shop.py"), f"{self.page}: no such setup: {setup}"
            Path("shop.py").write_text(files(DOCS / "tutorial" / "script.md")["shop.py"], encoding="utf-8")
            exec(SETUP if setup == "shop" else "", self.names)
        written: set[str] = set()
        for block in blocks(self.page):
            if block.comment == "not run":
                continue
            if block.title == "output":
                self.compare(block)
            elif block.title and block.language == "python":
                name = block.title.removesuffix(", continued")
                before = Path(name).read_text(encoding="utf-8") + "\n\n" if name in written else ""
                written.add(name)
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                Path(name).write_text(before + block.code, encoding="utf-8")
                compile("\n" * block.line + block.code, str(self.page), "exec", dont_inherit=True)
            else:
                output = io.StringIO()
                with contextlib.redirect_stdout(output):
                    getattr(self, f"run_{block.language}", lambda _: None)(block)
                self.printed = output.getvalue()

    def compare(self, block: Block) -> None:
        checker, flags = doctest.OutputChecker(), doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        if not checker.check_output(block.code, self.printed, flags):
            raise SystemExit(
                f"{self.page}:{block.line}: the page says\n{block.code}\nbut there came\n{self.printed}"
            )

    def run_python(self, block: Block) -> None:
        exec(compile("\n" * block.line + block.code, str(self.page), "exec", dont_inherit=True), self.names)

    def run_pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.code, self.names, self.page.name, str(self.page), block.line
        )
        test.globs = self.names
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        report = io.StringIO()
        if doctest.DocTestRunner(optionflags=flags).run(test, out=report.write, clear_globs=False).failed:
            raise SystemExit(report.getvalue())

    def run_sql(self, block: Block) -> None:
        import psycopg2

        connection = psycopg2.connect("postgresql:///shop")
        connection.autocommit = True
        connection.cursor().execute(block.code)
        connection.close()

    def run_shell(self, block: Block) -> None:
        environment = {
            **os.environ,
            "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
        }
        done = subprocess.run(["bash", "-ec", block.code], capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{self.page}:{block.line}: {block.code}\n{done.stdout}\n{done.stderr}")
        print(done.stdout)


def pages_to_run() -> Iterator[Path]:
    """The page that the command line names.

    Without one, those that the standard input names, in a forked process each. A line is a page, the folder
    to run it in, and a file for what it prints. The answer is the exit code.
    """
    if sys.argv[1:]:
        yield Path(sys.argv[1]).resolve()
        return
    import pgevents  # noqa: F401

    for line in sys.stdin:
        page, folder, printed = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(120)  # ends a page that hangs
            os.chdir(folder)
            for descriptor, (path, flags) in enumerate(
                [(os.devnull, os.O_RDONLY), (printed, os.O_WRONLY | os.O_CREAT), (printed, os.O_WRONLY)]
            ):
                os.dup2(os.open(path, flags | os.O_APPEND), descriptor)
            yield Path(page)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    for page in pages_to_run():
        Page(page).run()
    sys.exit()


# -- in the suite

from collections.abc import Callable  # noqa: E402

import psycopg2  # noqa: E402
import pytest  # noqa: E402

import pgevents  # noqa: E402
from pgevents import errors  # noqa: E402
from pgevents.embedded import embedded_database  # noqa: E402
from pgevents.testing import EMPTY_SQL  # noqa: E402


@pytest.fixture(scope="module")
def shop_database() -> Iterator[Any]:
    """A server with the database that the pages speak of, and a connection to empty it."""
    with embedded_database(database="shop", durable=False) as db:
        connection = psycopg2.connect(db.url)
        connection.autocommit = True
        yield connection
        connection.close()


@pytest.fixture(scope="module")
def environment(shop_database: Any) -> dict[str, str]:
    """Where libpq finds that server without being told."""
    parts = shop_database.get_dsn_parameters()
    known = {"PGHOST": parts["host"], "PGPORT": parts["port"], "PGUSER": parts["user"], "PGDATABASE": "shop"}
    known["PGEVENTS_DATABASE_URL"] = "postgresql:///shop"  # for the tests that pages show
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "DATABASE_URL"))
    }
    return {
        **inherited,
        **known,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


RunPage = Callable[[Path, Path], tuple[int, str]]


@pytest.fixture(scope="module")
def run_page(environment: dict[str, str]) -> Iterator[RunPage]:
    """Runs a page in a folder, and gives its exit code and what it printed."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None

    def run(page: Path, folder: Path) -> tuple[int, str]:
        printed = folder.parent / f"{folder.name}.txt"
        server.stdin.write(json.dumps([str(page), str(folder), str(printed)]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline()), printed.read_text(encoding="utf-8")

    yield run
    server.stdin.close()
    server.wait()


def page_id(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=page_id)
def test_the_code_of_every_page_runs(
    page: Path, run_page: RunPage, shop_database: Any, tmp_path: Path
) -> None:
    """From the top to the bottom, as a reader would go through it."""
    shop_database.cursor().execute(EMPTY_SQL)
    folder = tmp_path / "page"
    folder.mkdir()
    code, printed = run_page(page, folder)
    assert code == 0, printed


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_code_that_is_not_run_has_a_reason(page: Path) -> None:
    """And no block is in a language that would go unnoticed."""
    known = {
        "python",
        "pycon",
        "sql",
        "shell",
        "mermaid",
        "text",
        "toml",
        "ini",
        "json",
        "typescript",
        "yaml",
    }
    for block in blocks(page):
        assert block.language in known, f"{page}:{block.line}: {block.language!r}"
        assert block.comment != "not run" or len(block.reason) > 10, f"{page}:{block.line}"


@pytest.mark.parametrize("module", sorted((ROOT / "pgevents").rglob("*.py")), ids=lambda path: path.stem)
def test_examples_of_docstrings_are_python_and_import_what_exists(module: Path) -> None:
    """They are parts, to be read in their place, so they are compiled, and only their imports of pgevents are
    run."""
    for docstring in re.findall(r'"""(.*?)"""', module.read_text(encoding="utf-8"), re.DOTALL):
        for fence in FENCE.finditer(docstring):
            code = textwrap.dedent(fence["code"])
            compile(code, str(module), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            for line in re.findall(r"^from pgevents[\w.]* import [\w, ]+$", code, re.MULTILINE):
                exec(line, {})


def test_the_types_of_the_tutorial_are_inferred(tmp_path: Path) -> None:
    """`mypy --strict` takes its files as they stand."""
    pytest.importorskip("mypy", reason="needs pgevents-store[test]")
    written = {**files(DOCS / "tutorial" / "script.md"), **files(DOCS / "howto" / "combine-streams.md")}
    for name, code in written.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), *written]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Every link leads somewhere, every page is in the navigation, every name of the reference exists."""
    pytest.importorskip("material", reason="needs pgevents-store[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PGEVENTS_MERMAID"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = re.compile(r"""(?:src|href)=["']?https?://(?!squidfunk\.github\.io)""")
    assert not [
        page
        for page in tmp_path.rglob("*.html")
        if "<link" in (text := page.read_text()) and loaded.search(_head(text))
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files(page: Path) -> None:
    """Those to other pages, without their headings, which the build of the site looks at."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target


def test_every_diagram_is_drawn() -> None:
    """By its block as it stands; drawings of blocks that are gone are gone, too."""
    specification = importlib.util.spec_from_file_location("draw_diagrams", DOCS / "draw_diagrams.py")
    assert specification is not None and specification.loader is not None
    diagrams = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(diagrams)
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    drawn = {diagrams.file_of(block[1]).name for block in diagrams.BLOCK.finditer(pages)}
    assert drawn == {path.name for path in (DOCS / "diagrams").glob("*.svg")}


def _head(html: str) -> str:
    """What a browser loads for a page before and after its text: heads, and scripts."""
    return html.split("</head>")[0] + "".join(re.findall(r"<script[^>]*src=[^>]*>", html))


def test_every_public_name_has_its_place_in_the_reference() -> None:
    """What `from pgevents import ...` offers is documented, once."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    places = [
        name for name in re.findall(r"^::: pgevents\.(\w+)$", text, re.MULTILINE) if name in pgevents.__all__
    ]
    of_modules = {*errors.__all__, "hookimpl"}  # these pages show whole modules
    assert sorted(set(pgevents.__all__) - of_modules - set(places)) == []
    assert len(places) == len(set(places))


def test_every_call_of_the_client_has_its_place_in_the_reference() -> None:
    """The page names the calls in the order in which one meets them; none is left out."""
    text = (DOCS / "reference" / "client.md").read_text(encoding="utf-8")
    shown = re.findall(r"^        - (\w+)$", text, re.MULTILINE)
    internal = {"save_snapshot", "check_installed"}
    public = {name for name in dir(pgevents.EventClient) if not name.startswith("_")}
    assert sorted(shown) == sorted(public - internal)


def test_every_error_and_every_hook_is_explained() -> None:
    """The pages of errors and hooks say what to do about each, beside what the docstrings say."""
    for page, names in (("errors.md", errors.__all__), ("hooks.md", sorted(pgevents.hooks.specs.SPECS))):
        text = (DOCS / "reference" / page).read_text(encoding="utf-8")
        assert [name for name in names if f"`{name}`" not in text] == []
