"""pgevents in a Flask app: connections, errors, metadata, commands."""

from __future__ import annotations

import contextlib
import contextvars
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any
from urllib.parse import quote, urlencode

import psycopg2
import pytest
from flask import Flask, copy_current_request_context, request
from psycopg2.extensions import parse_dsn
from werkzeug.exceptions import NotFound

import pgevents.flask
from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    DatabaseUnavailableError,
    RetryableError,
    create_events_table,
    hookimpl,
    stream,
)
from pgevents.flask import PgEvents, UnavailableError, current_events, get_or_404, request_id

from .shop import CartCreated, CartEvent, CartProjection, ItemAddedToCart


def as_url(dsn: str) -> str:
    """A libpq connection string as a URL."""
    parts = parse_dsn(dsn)
    login = ":".join(quote(parts.pop(name), safe="") for name in ("user", "password") if name in parts)
    return f"postgresql://{login}@/{parts.pop('dbname')}?{urlencode(parts)}"


@pytest.fixture
def make_app(url: str) -> Iterator[Callable[..., Flask]]:
    """Apps on the test's database, tables made."""
    apps: list[Flask] = []

    def make(config: dict[str, Any] | None = None, **options: Any) -> Flask:
        app = Flask(f"app{len(apps)}")
        app.config.from_mapping(
            TESTING=True,
            PROPAGATE_EXCEPTIONS=False,
            PGEVENTS_DATABASE_URL=as_url(url),
            PGEVENTS_SCHEMA="my_app",
            PGEVENTS_DATA_INDEXES=["cart_id"],
            **(config or {}),
        )
        PgEvents(app, event_types=CartEvent, **options)
        apps.append(app)
        with app.app_context():
            current_events.create_tables()

        @app.get("/pid")
        def pid() -> dict[str, int]:
            return {"pid": current_events.db.execute_sql("SELECT pg_backend_pid()").fetchone()[0]}

        @app.post("/carts/<cart_id>")
        def create(cart_id: str) -> dict[str, Any]:
            key = request.headers.get("Idempotency-Key")
            saved = current_events.save_event(CartCreated(cart_id, "u1"), idempotency_key=key)
            return {"id": saved.id, "metadata": saved.metadata}

        return app

    yield make
    for app in apps:
        pool_of(app).close_all()


def pool_of(app: Flask) -> Any:
    return app.extensions["pgevents"].client.db


def taken_and_idle(app: Flask) -> tuple[int, int]:
    pool = pool_of(app)
    return len(pool.lent), len(pool.idle)


def test_the_example_of_the_module_runs(url: str) -> None:
    """What stands in its docstring, on the test's database."""
    program = pgevents.flask.__doc__.split("```python")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "example"}
    exec(program.replace("postgresql://localhost/shop", as_url(url)), names)
    app = names["app"]
    assert app.test_cli_runner().invoke(args=["pgevents", "init"]).exit_code == 0
    assert app.test_client().post("/carts/c1").json == {"event": 1}
    pool_of(app).close_all()


# -- connections ------------------------------------------------------------


def test_requests_share_the_connections_of_a_pool(make_app: Callable[..., Flask]) -> None:
    """One connection serves one request after the other, and lies in the pool between them."""
    app = make_app()
    pids = {app.test_client().get("/pid").json["pid"] for _ in range(3)}  # type: ignore[index]
    assert len(pids) == 1
    assert taken_and_idle(app) == (0, 1)


def test_a_request_that_asks_nothing_connects_nowhere() -> None:
    """A database that is away does not disturb a page that does not need it."""
    app = Flask("idle")
    app.config["PGEVENTS_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nowhere"
    PgEvents(app)
    app.add_url_rule("/", view_func=lambda: "hello")
    assert app.test_client().get("/").text == "hello"


@pytest.mark.parametrize("way", ["raise", "begin", "broken", "atomic"])
def test_the_connection_goes_back_whatever_happens(make_app: Callable[..., Flask], way: str) -> None:
    """After an exception, or with a transaction left open or broken, the next request finds a clean
    connection."""
    app = make_app()

    @app.post("/fail")
    def fail() -> str:
        if way == "atomic":
            current_events.db.atomic().__enter__()
        elif way != "raise":
            current_events.db.begin()
        current_events.save_event(CartCreated("c1", "u1"))
        if way == "broken":
            current_events.db.execute_sql("SELECT 1 / 0")
        if way in {"raise", "atomic"}:
            raise ValueError
        return "left open"

    browser = app.test_client()
    assert browser.post("/fail").status_code == (200 if way == "begin" else 500)
    assert taken_and_idle(app) == (0, 1)
    assert browser.post("/carts/c2").status_code == 200
    with app.app_context():
        saved = [event.data.cart_id for event in current_events.get_event_stream(CartCreated)]
        assert saved == (["c1", "c2"] if way == "raise" else ["c2"])


@pytest.mark.parametrize("order", ["before", "after"])
def test_teardown_functions_of_the_app_may_ask_and_may_fail(url: str, order: str) -> None:
    """Whichever comes first: at the latest, the connection goes back with the context itself."""
    app = Flask("teardown")
    app.config["PGEVENTS_DATABASE_URL"] = as_url(url)
    asked: list[object] = []

    def ask(error: BaseException | None) -> None:
        asked.append(current_events.db.execute_sql("SELECT 1").fetchone())
        if error is not None:
            raise ValueError

    if order == "before":
        app.teardown_appcontext(ask)
    PgEvents(app)
    if order == "after":
        app.teardown_appcontext(ask)
    with app.app_context():
        pass
    assert taken_and_idle(app) == (0, 1)
    with contextlib.suppress(ValueError), app.app_context():
        current_events.db.begin()
        raise KeyError
    assert taken_and_idle(app) == (0, 1)
    assert asked == [(1,), (1,)]
    pool_of(app).close_all()


def test_a_request_inside_a_context_leaves_its_connection_and_transaction_alone(
    make_app: Callable[..., Flask],
) -> None:
    """As in a test that holds a context: what the inner context did not open, it does not end."""
    app = make_app()
    with app.app_context(), current_events.db.atomic() as transaction:
        assert app.test_client().post("/carts/c1").status_code == 200
        assert taken_and_idle(app) == (1, 0)
        transaction.rollback()
        assert current_events.get_latest_event() is None
    assert taken_and_idle(app) == (0, 1)


def test_a_thread_of_the_request_cannot_keep_a_connection(make_app: Callable[..., Flask]) -> None:
    """Threads see the request's context (so does an async view, which runs in one); its end is theirs."""
    app = make_app()
    seen: list[str] = []

    @app.get("/threads")
    def threads() -> str:
        @copy_current_request_context
        def copied() -> None:
            seen.append(str(current_events.get_latest_event()))

        inherited = contextvars.copy_context()
        for target in (
            copied,
            lambda: inherited.run(lambda: seen.append(str(current_events.get_latest_event()))),
        ):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        return "done"

    assert app.test_client().get("/threads").text == "done"
    assert seen == ["None", "None"]
    assert taken_and_idle(app)[0] == 0


def test_outside_a_context_the_client_says_what_to_do(make_app: Callable[..., Flask]) -> None:
    """Nobody would give such a connection back."""
    with pytest.raises(RuntimeError, match="with app.app_context"):
        current_events.get_latest_event()
    with Flask("bare").app_context(), pytest.raises(RuntimeError, match="has no PgEvents"):
        current_events.get_latest_event()
    app, other = make_app(), make_app()
    client = app.extensions["pgevents"].client
    with pytest.raises(RuntimeError, match="with app.app_context"):
        client.get_latest_event()
    with other.app_context(), pytest.raises(RuntimeError, match="context of its app"):
        client.get_latest_event()


def test_a_used_up_pool_is_503_after_a_short_wait(make_app: Callable[..., Flask]) -> None:
    """The response says when to come again, and the next one is served."""
    app = make_app({"PGEVENTS_MAX_CONNECTIONS": 1, "PGEVENTS_POOL_TIMEOUT": 0.05})
    done = threading.Event()
    held = threading.Event()

    def hold() -> None:
        with app.app_context():
            current_events.get_latest_event()
            held.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    answer = app.test_client().get("/pid")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "busy" in answer.text
    done.set()
    holder.join()
    assert app.test_client().get("/pid").status_code == 200


def test_no_server_is_503_and_says_nothing_of_it() -> None:
    """The log has the reason, the response has not."""
    app = Flask("away")
    app.config["PGEVENTS_DATABASE_URL"] = "postgresql://nobody:secret@127.0.0.1:1/nowhere"
    PgEvents(app)
    app.add_url_rule("/", view_func=lambda: str(current_events.get_latest_event()))
    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "127.0.0.1" not in answer.text
    assert "cannot be reached" in answer.text and "busy" not in answer.text
    with app.app_context(), pytest.raises(DatabaseUnavailableError, match="refused") as caught:
        current_events.get_latest_event()
    assert "secret" not in str(caught.value) and not isinstance(caught.value, UnavailableError)


def test_a_restart_of_the_server_between_requests_goes_unnoticed(
    make_app: Callable[..., Flask], url: str
) -> None:
    """A connection that died in the pool is replaced; one that dies in a request is 503, with nothing
    promised."""
    app = make_app()

    @app.post("/die")
    def die() -> str:
        kill(current_events.db.execute_sql("SELECT pg_backend_pid()").fetchone()[0])
        return str(current_events.save_event(CartCreated("c1", "u1")).id)

    def kill(pid: int) -> None:
        admin = psycopg2.connect(url)
        admin.autocommit = True
        admin.cursor().execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        admin.close()

    browser = app.test_client()
    first = browser.get("/pid").json["pid"]  # type: ignore[index]
    kill(first)
    assert browser.get("/pid").json["pid"] != first  # type: ignore[index]
    answer = browser.post("/die")
    assert answer.status_code == 503
    assert "Retry-After" not in answer.headers
    assert browser.get("/pid").status_code == 200


def test_a_forked_worker_has_connections_of_its_own(make_app: Callable[..., Flask]) -> None:
    """As under `gunicorn --preload`, when the app has asked something before the fork."""
    app = make_app()
    before = app.test_client().get("/pid").json["pid"]  # type: ignore[index]
    fork = multiprocessing.get_context("fork")
    answers: Any = fork.SimpleQueue()

    def work() -> None:
        answers.put(app.test_client().get("/pid").json["pid"])  # type: ignore[index]

    workers = [fork.Process(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    pids = {answers.get() for _ in workers}
    for worker in workers:
        worker.join()
    assert len(pids | {before}) == 3
    assert app.test_client().get("/pid").json["pid"] == before  # type: ignore[index]


SPOIL = {
    "setting": "SET application_name = 'spoiled'",
    "read only": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "isolation": "SET default_transaction_isolation = 'serializable'",
    "schema": "SET search_path = pg_temp",
    "temporary table": "CREATE TEMPORARY TABLE spoiled (x int)",
    "lock": "SELECT pg_advisory_lock(4711)",
    "role": "SET ROLE pg_monitor",
    "session": "SET SESSION AUTHORIZATION pg_monitor",
    "statement": "PREPARE spoiled AS SELECT 1",
    "cursor": "DECLARE spoiled CURSOR WITH HOLD FOR SELECT 1",
    "listener": "LISTEN spoiled",
    "encoding": "SET client_encoding = 'LATIN1'",
    "date style": "SET DateStyle TO German",
}
DRIVER: dict[str, Callable[[Any], None]] = {
    "driver": lambda connection: connection.set_session(readonly=True),
    "driver's encoding": lambda connection: connection.set_client_encoding("LATIN1"),
}
STATE = """
SELECT current_setting('application_name'), current_setting('transaction_read_only'), current_user,
    current_setting('transaction_isolation'), current_setting('search_path'), session_user,
    to_regclass('pg_temp.spoiled'), (SELECT count(*) FROM pg_prepared_statements WHERE name = 'spoiled'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711),
    (SELECT count(*) FROM pg_cursors WHERE name = 'spoiled'), (SELECT count(*) FROM pg_listening_channels()),
    current_setting('client_encoding'), current_setting('DateStyle')
"""


@pytest.mark.parametrize("what", [*SPOIL, *DRIVER])
def test_what_a_request_does_to_its_session_does_not_pass_to_the_next(
    make_app: Callable[..., Flask], what: str
) -> None:
    """Settings, temporary tables, locks, roles: the connection goes back as it was made."""
    app = make_app()

    def state() -> Any:
        with app.app_context():
            return current_events.db.execute_sql(STATE).fetchone()

    before = state()
    with app.app_context():
        if what in DRIVER:
            DRIVER[what](current_events.db.connection())
        else:
            current_events.db.execute_sql(SPOIL[what])
        if what not in ("role", "session"):
            assert current_events.db.execute_sql(STATE).fetchone() != before
    assert taken_and_idle(app) == ((0, 0) if what in DRIVER else (0, 1))
    assert state() == before
    assert app.test_client().post("/carts/c1").status_code == 200


def test_a_roles_date_style_does_not_come_back_with_a_clean_connection(
    make_app: Callable[..., Flask], url: str
) -> None:
    """RESET gives back the role's own, which the driver had overridden when it connected."""
    database = parse_dsn(url)["dbname"]
    with contextlib.closing(psycopg2.connect(url)) as owner, owner, owner.cursor() as cursor:
        cursor.execute(f"ALTER DATABASE {database} SET DateStyle TO 'German, DMY'")
    app = make_app()
    for _ in range(3):
        assert app.test_client().post("/carts/c1").status_code == 200
    assert taken_and_idle(app) == (0, 1)


# -- errors ------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        ("/carts/%00", {}, 422),
        ("/carts/c1", {"headers": {"Idempotency-Key": "k" * 501}}, 400),
        ("/decide/%00", {}, 400),
        ("/after/-1", {}, 400),
        ("/after/99999999999999999999", {}, 400),
    ],
)
def test_bad_values_of_a_request_are_not_errors_of_the_server(
    make_app: Callable[..., Flask], path: str, options: dict[str, Any], code: int
) -> None:
    """A text that PostgreSQL cannot hold, a key that is too long, an id that is none: 400 or 422."""
    app = make_app()

    @app.post("/decide/<cart_id>")
    def decide(cart_id: str) -> str:
        current_events.decide(
            CartProjection(cart_id, current_events), lambda cart: CartCreated(cart.id, "u1")
        )
        return "done"

    @app.post("/after/<after>")
    def after(after: str) -> str:
        return str(len(current_events.get_event_stream(CartCreated, after=int(after), cart_id="c1")))

    answer = app.test_client().post(path, **options)
    assert answer.status_code == code
    assert "Nothing was changed" in answer.text and "NUL" not in answer.text


def test_plugins_of_installed_packages_are_found(
    make_app: Callable[..., Flask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`plugins="auto"` is as for a client; another text is refused."""

    class Found:
        @hookimpl
        def pgevents_before_save(self, events: Any) -> None:
            seen.extend(events)

    seen: list[Any] = []
    point = EntryPoint("found", "somewhere:Found", "pgevents")
    monkeypatch.setattr(EntryPoint, "load", lambda self: Found)
    monkeypatch.setattr("pgevents.hooks.registry.entry_points", lambda group: [point])
    app = make_app(plugins="auto")
    app.test_client().post("/carts/c1")
    assert [event.type for event in seen] == ["CART_CREATED"]
    with pytest.raises(ConfigurationError, match='"auto"'):
        PgEvents(plugins="automatic")  # type: ignore[arg-type]


@pytest.fixture
def conflicting(make_app: Callable[..., Flask]) -> Flask:
    """An app with a view that always decides on what is past."""
    app = make_app()

    @app.post("/late")
    def late() -> str:
        current_events.save_event(CartCreated("c1", "u1"))
        current_events.save_event_with_stream_validation(
            CartCreated("c1", "u1"), None, [stream(cart_id="c1")]
        )
        return "never"

    @app.post("/busy")
    def busy() -> str:
        raise RetryableError("a deadlock: process 1 waits for process 2; nothing was written")

    return app


def test_a_conflict_is_409_with_the_ids_in_the_form_that_is_asked_for(conflicting: Flask) -> None:
    """JSON for a program, a page for a browser."""
    browser = conflicting.test_client()
    asks: list[dict[str, Any]] = [{"headers": {"Accept": "application/json"}}, {"json": {}}]
    for options in asks:
        answer = browser.post("/late", **options)
        assert answer.status_code == 409
        assert answer.json is not None and answer.json["error"] == "Conflict"
        assert answer.json["conflicting_ids"] and answer.json["conflicting_ids"][0] == 1
    answer = browser.post("/late", headers={"Accept": "text/html,*/*;q=0.8"})
    assert (answer.status_code, answer.mimetype) == (409, "text/html")
    assert "events 1, 2, 3" in answer.text


def test_what_may_be_tried_again_is_503_and_says_when(conflicting: Flask) -> None:
    """Details stay in the log."""
    answer = conflicting.test_client().post("/busy", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "deadlock" not in answer.text


def test_the_apps_own_page_for_the_code_is_shown_and_its_own_handler_stays(conflicting: Flask) -> None:
    """`errorhandler(409)` shapes the page; a handler of the error itself takes over altogether."""
    conflicting.register_error_handler(409, lambda error: (f"Sorry: {error.__cause__.conflicting_ids}", 409))
    conflicting.register_error_handler(503, lambda error: ("Later!", 503))
    browser = conflicting.test_client()
    assert browser.post("/late").text == "Sorry: (1,)"
    answer = browser.post("/busy")
    assert (answer.text, answer.headers["Retry-After"]) == ("Later!", "1")
    own = Flask("own")
    own.config["PGEVENTS_DATABASE_URL"] = "postgresql://localhost/nowhere"
    own.register_error_handler(ConcurrencyError, lambda error: ("own", 418))
    PgEvents(own)
    own.add_url_rule("/", view_func=lambda: (_ for _ in ()).throw(ConcurrencyError("late")))
    assert own.test_client().get("/").status_code == 418


def test_an_idempotency_key_for_something_else_is_422(make_app: Callable[..., Flask]) -> None:
    """And a repeated request gets what the first one saved, though its request id is another."""
    browser = make_app().test_client()
    key = {"Idempotency-Key": "k1"}
    first = browser.post("/carts/c1", headers=key | {"X-Request-ID": "a"}).json
    assert browser.post("/carts/c1", headers=key | {"X-Request-ID": "b"}).json == first
    answer = browser.post("/carts/c2", headers=key | {"Accept": "application/json"})
    assert answer.status_code == 422


def test_missing_tables_name_the_command_that_makes_them(url: str) -> None:
    """A new user's first request."""
    app = Flask("new")
    app.config["PGEVENTS_DATABASE_URL"] = as_url(url)
    PgEvents(app)
    app.add_url_rule("/", view_func=lambda: str(current_events.get_latest_event()))
    answer = app.test_client().get("/")
    assert answer.status_code == 503
    assert "flask pgevents init" in answer.text


def test_unknown_ids_are_404(make_app: Callable[..., Flask]) -> None:
    """An id without any event is unknown; so is text that PostgreSQL cannot hold. A snapshot is enough."""
    app = make_app()

    @app.get("/carts/<cart_id>")
    def cart(cart_id: str) -> dict[str, Any]:
        return get_or_404(CartProjection, cart_id, "No such cart.").as_json()

    browser = app.test_client()
    browser.post("/carts/c1")
    assert browser.get("/carts/c1").json == {
        "id": "c1",
        "user_id": "u1",
        "items": [],
        "is_checked_out": False,
        "total": 0,
    }
    assert browser.get("/carts/c2").status_code == browser.get("/carts/%00").status_code == 404
    assert "No such cart." in browser.get("/carts/c2").text
    with app.app_context(), pytest.raises(NotFound, match="There is no SHOPPING_CART 'c2'"):
        get_or_404(CartProjection, "c2")
    with app.app_context():
        CartProjection("c1", current_events).save_projection()
    assert browser.get("/carts/c1").status_code == 200


# -- metadata ------------------------------------------------------------


def test_events_say_in_which_request_they_were_saved_and_by_whom(make_app: Callable[..., Flask]) -> None:
    """The id is the caller's where he gives a decent one, and the response repeats it."""
    browser = make_app(user=lambda: request.headers.get("X-User")).test_client()
    answer = browser.post("/carts/c1", headers={"X-Request-ID": "r-1", "X-User": "ann"})
    assert answer.json is not None and answer.json["metadata"] == {"request_id": "r-1", "user": "ann"}
    assert answer.headers["X-Request-ID"] == "r-1"
    for bad in ("", "x" * 129, "a b", "ä"):
        answer = browser.post("/carts/c1", headers={"X-Request-ID": bad})
        assert answer.json is not None
        made = answer.json["metadata"]
        assert list(made) == ["request_id"] and len(made["request_id"]) == 32
        assert answer.headers["X-Request-ID"] == made["request_id"]


def test_metadata_of_the_caller_go_before_and_outside_requests_there_are_none(
    make_app: Callable[..., Flask],
) -> None:
    """A command or a background task has no request."""
    app = make_app(user=lambda: 7)
    with app.test_request_context():
        saved = current_events.save_event(CartCreated("c1", "u1"), metadata={"user": "import", "row": 3})
        assert saved.metadata == {"user": "import", "row": 3, "request_id": request_id()}
    with app.app_context():
        assert current_events.save_event(CartCreated("c1", "u1")).metadata == {}


# -- apps ------------------------------------------------------------


def test_several_apps_of_one_process_keep_their_events_apart(
    make_app: Callable[..., Flask], url: str
) -> None:
    """One extension object serves all apps of a factory, each with a client and a pool of its own."""
    extension = PgEvents(event_types=CartEvent)
    apps = []
    for schema in ("one", "two"):
        app = Flask(schema)
        app.config.from_mapping(PGEVENTS_DATABASE_URL=as_url(url), PGEVENTS_SCHEMA=schema)
        extension.init_app(app)
        apps.append(app)
        with app.app_context():
            current_events.create_tables()
    one, two = apps
    with one.app_context():
        current_events.save_event(CartCreated("c1", "u1"))
        with two.app_context():
            assert current_events.get_latest_event() is None
            current_events.save_event(CartCreated("c2", "u1"))
        assert [event.data.cart_id for event in current_events.get_event_stream(CartCreated)] == ["c1"]
    assert taken_and_idle(one) == taken_and_idle(two) == (0, 1)
    for app in apps:
        pool_of(app).close_all()


def test_models_and_a_database_of_ones_own_are_taken(make_client: Any, url: str) -> None:
    """Then the connections are its owner's as well."""
    client = make_client()
    client.create_tables()
    app = Flask("own")
    events = create_events_table(schema="my_app", name="events", data_indexes=["cart_id", "product_id"])
    PgEvents(app, events=events, projections=client.projections, event_types=CartEvent, database=client.db)
    with app.app_context():
        assert current_events.db is client.db
        assert current_events.save_event(ItemAddedToCart("c1", "p1", 1, 5)).id == events.select().get().id
    assert not client.db.is_closed()


def test_what_cannot_be_configured_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing or broken URL, a second initialisation; and the environment may give the URL."""
    monkeypatch.delenv("PGEVENTS_DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="PGEVENTS_DATABASE_URL"):
        PgEvents(Flask("none"))
    broken = Flask("broken")
    broken.config["PGEVENTS_DATABASE_URL"] = "mysql://x"
    with pytest.raises(ConfigurationError, match="postgresql://"):
        PgEvents(broken)
    monkeypatch.setenv("PGEVENTS_DATABASE_URL", "postgresql://localhost/shop")
    app = Flask("twice")
    PgEvents(app)
    with pytest.raises(ConfigurationError, match="already"):
        PgEvents(app)


def test_the_server_of_the_apps_own_starts_when_it_is_needed(tmp_path: Any) -> None:
    """With the URL `embedded` there is nothing to install and nothing to start."""
    app = Flask("embedded", instance_path=str(tmp_path / "instance"))
    app.config["PGEVENTS_DATABASE_URL"] = f"embedded:{tmp_path / 'data'}"
    PgEvents(app)
    assert not (tmp_path / "data").exists()
    with app.app_context():
        current_events.create_tables()
        assert current_events.save_event({"type": "STARTED"}).id == 1
    assert (tmp_path / "data" / "pgdata").exists()


# -- commands ------------------------------------------------------------


def test_the_commands_make_fill_and_show_the_store(make_app: Callable[..., Flask]) -> None:
    """`flask pgevents init | demo | events | projections`."""

    def demo() -> None:
        added = ItemAddedToCart("c1", "p1", 2, 5)
        current_events.save_events([CartCreated("c1", "u1"), CartCreated("c2", "u1"), added])
        CartProjection("c1", current_events).save_projection()

    app = make_app(demo=demo)
    runner = app.test_cli_runner()

    def run(*arguments: str) -> str:
        result = runner.invoke(args=["pgevents", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    assert "ready" in run("init")
    assert "CREATE SCHEMA" in run("init", "--sql")
    assert run("events") == "No events.\n"
    assert run("projections") == "No projections.\n"
    assert "Done" in run("demo")
    assert [line.split()[0] for line in run("events").splitlines()] == ["1", "2", "3"]
    assert [line.split()[0] for line in run("events", "--limit", "1").splitlines()] == ["3"]
    assert [
        line.split()[0] for line in run("events", "cart_id=c1", "--type", "CART_CREATED").splitlines()
    ] == ["1"]
    assert len(run("events", "cart_id=c1", "cart_id=c2").splitlines()) == 3
    assert run("projections").startswith("SHOPPING_CART c1  version 1, up to event 3")
    assert '"total": 10' in run("projections", "SHOPPING_CART", "c1")
    assert run("projections", "ORDER") == "No projections.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo"], "PgEvents(app, demo=function)"),
        (["events", "c1"], "FIELD=VALUE"),
        (["events", "a'b=1"], "field names"),
    ],
)
def test_a_command_that_fails_says_why_in_one_line(
    make_app: Callable[..., Flask], arguments: list[str], said: str
) -> None:
    """No traceback."""
    result = make_app().test_cli_runner().invoke(args=["pgevents", *arguments])
    assert result.exit_code in {1, 2}
    assert said in result.output and "Traceback" not in result.output


def test_a_command_without_a_server_says_why_in_one_line() -> None:
    """As when the URL is wrong."""
    app = Flask("away")
    app.config["PGEVENTS_DATABASE_URL"] = "postgresql://nobody@127.0.0.1:1/nowhere"
    PgEvents(app)
    result = app.test_cli_runner().invoke(args=["pgevents", "init"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: no connection to the database")
