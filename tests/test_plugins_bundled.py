"""The bundled plugins that need little: logging, metadata, snapshots, schema, OpenTelemetry."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from pgevents import ConcurrencyError, ConfigurationError, EventClient, EventEncodeError, stream
from pgevents.plugins.encryption import Encryption, Personal
from pgevents.plugins.logging import Logging
from pgevents.plugins.metadata import Metadata, current, event_context
from pgevents.plugins.opentelemetry import OpenTelemetry
from pgevents.plugins.schema import SchemaValidation
from pgevents.plugins.snapshots import SnapshotPolicy

from .shop import CartCreated, CartProjection, ItemAddedToCart

C1 = CartCreated("c1", "u1")


@pytest.fixture
def open_client(pgevents_tables: None, make_client: Callable[..., EventClient]) -> Callable[..., EventClient]:
    """Clients with plugins, on tables that are made."""

    def make(*plugins: Any, **options: Any) -> EventClient:
        return make_client(plugins=plugins, **options)

    return make


def item(quantity: int = 1) -> ItemAddedToCart:
    return ItemAddedToCart("c1", "p1", quantity, 5)


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("opentelemetry", "cryptography", "jsonschema"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
from pgevents import ConfigurationError
from pgevents.plugins import encryption, logging, metadata, opentelemetry, schema, snapshots

plugins = opentelemetry.OpenTelemetry, lambda: encryption.Encryption({}), lambda: schema.SchemaValidation({})
for make in plugins:
    try:
        make()
    except ConfigurationError as error:
        print(error)
"""


def test_plugins_import_without_their_extras() -> None:
    """Each module can be imported; using it names the extra to install."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    told = [line.partition("is not installed: ")[2] for line in done.stdout.splitlines()]
    assert told == [f'pip install "pgevents-store[{extra}]"' for extra in ("otel", "crypto", "schema")]


# -- logging ------------------------------------------------------------


def test_logging_tells_what_happened_and_not_what_events_say(
    open_client: Callable[..., EventClient], caplog: pytest.LogCaptureFixture
) -> None:
    """A save, a conflict and a snapshot leave a record each, with fields that a JSON formatter can write."""
    caplog.set_level(logging.DEBUG, "pgevents.events")
    client = open_client(Logging())
    client.save_event(C1, metadata={"actor": "u1"})
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(C1, None, stream(cart_id="c1"))
    CartProjection("c1", client).save_projection()
    saved, conflict, snapshot = caplog.records
    assert (saved.levelname, saved.getMessage()) == ("INFO", "saved 1 event(s): CART_CREATED")
    assert saved.__dict__["pgevents"] == {
        "table": '"my_app"."events"',
        "ids": [1],
        "types": ["CART_CREATED"],
        "metadata": [{"actor": "u1"}],
    }
    assert conflict.levelname == "WARNING" and conflict.__dict__["pgevents"]["conflicting_ids"] == [1]
    assert conflict.__dict__["pgevents"]["streams"] == [{"types": None, "match": {"cart_id": ("c1",)}}]
    assert snapshot.levelname == "DEBUG" and snapshot.__dict__["pgevents"]["status"] == "created"
    assert "u1" not in caplog.text


def test_logging_tells_the_payload_when_asked(
    open_client: Callable[..., EventClient], caplog: pytest.LogCaptureFixture
) -> None:
    """As JSON-ready data, to the logger of one's choice."""
    caplog.set_level(logging.INFO, "shop.audit")
    client = open_client(Logging(logging.getLogger("shop.audit"), payload=True))
    client.save_event(C1)
    (record,) = caplog.records
    assert record.__dict__["pgevents"]["data"] == [{"cart_id": "c1", "user_id": "u1"}]


# -- metadata ------------------------------------------------------------


def test_events_get_the_metadata_of_their_context(open_client: Callable[..., EventClient]) -> None:
    """Contexts nest, a new correlation id is made where there is none, and the save's own metadata go
    before."""
    client = open_client(Metadata(source="shop"))
    assert client.save_event(C1).metadata == {"source": "shop"}
    with event_context(actor="u1") as outer:
        with event_context(source="import", request="r1"):
            saved = client.save_event(item(), metadata={"actor": "u2"})
        assert current() == outer
    assert saved.metadata == {
        "correlation_id": outer["correlation_id"],
        "actor": "u2",
        "source": "import",
        "request": "r1",
    }
    assert current() == {} and client.get_latest_event() == saved


def test_an_event_that_answers_another_says_so(open_client: Callable[..., EventClient]) -> None:
    """Its causation id is the other's id, and they share the correlation id."""
    client = open_client(Metadata())
    with event_context(correlation_id="order-7"):
        first = client.save_event(C1)
    with event_context(correlation_id="other"), event_context(cause=first):
        second = client.save_event(item())
    assert second.metadata == {"correlation_id": "order-7", "causation_id": first.id}


def test_a_context_is_the_threads_own() -> None:
    """Another thread does not see it."""
    seen: list[dict[str, Any]] = []
    with event_context(actor="u1"):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()
    assert seen == [{}]


# -- snapshots ------------------------------------------------------------


def test_a_view_that_took_many_events_is_saved(open_client: Callable[..., EventClient]) -> None:
    """From the third event on; the next view starts from there, and the one in use keeps view and position
    together."""
    client = open_client(SnapshotPolicy(every=3))
    client.save_events([C1, item()])
    assert CartProjection("c1", client).view.total == 5
    assert client.get_projection(CartProjection, "c1") is None
    client.save_event(item())
    cart = CartProjection("c1", client)
    assert cart.view.total == 10 and cart.position.count == 3 and cart.saved_projection is None
    assert CartProjection("c1", client).saved_projection is not None
    client.save_event_with_stream_validation(item(), cart.position)
    assert CartProjection("c1", client).view.total == 15


def test_in_a_transaction_the_snapshot_waits_for_its_end(open_client: Callable[..., EventClient]) -> None:
    """Then it holds what was committed; what was rolled back never gets into one."""
    client = open_client(SnapshotPolicy(every=2))
    with client.db.atomic():
        client.save_events([C1, item()])
        with client.db.atomic() as savepoint:
            client.save_event(item(100))
            assert CartProjection("c1", client).view.total == 505
            savepoint.rollback()
        assert client.get_projection(CartProjection, "c1") is None
    saved = client.get_projection(CartProjection, "c1")
    assert saved is not None and saved.data.total == 5


def test_the_policy_may_be_for_some_types_only(open_client: Callable[..., EventClient]) -> None:
    """Other projections are left alone; a policy of no events is refused."""
    client = open_client(SnapshotPolicy(every=1, types=["ORDERS"]))
    client.save_event(C1)
    assert CartProjection("c1", client).view.user_id == "u1"
    assert client.get_projection(CartProjection, "c1") is None
    with pytest.raises(ConfigurationError, match="every is a number of events, 1 or more"):
        SnapshotPolicy(every=0)


def test_a_snapshot_that_fails_never_hides_the_view(
    open_client: Callable[..., EventClient], caplog: pytest.LogCaptureFixture
) -> None:
    """The error goes to the log."""
    client = open_client(SnapshotPolicy(every=1))
    client.save_event(C1)
    client.db.execute_sql("ALTER TABLE my_app.views ADD CHECK (latest_event_id > 99)")
    assert CartProjection("c1", client).view.user_id == "u1"
    assert "the snapshot of SHOPPING_CART c1 failed" in caplog.text


# -- schema ------------------------------------------------------------

SCHEMAS = {
    "NOTE_WRITTEN": {"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
    "ITEM_ADDED_TO_CART": {"properties": {"quantity": {"minimum": 1}}},
}


def test_what_does_not_fit_its_schema_is_refused(open_client: Callable[..., EventClient]) -> None:
    """Dicts and instances alike; the error names the type, the place and the reason, and the batch is not
    written."""
    client = open_client(SchemaValidation(SCHEMAS))
    with pytest.raises(EventEncodeError, match="NOTE_WRITTEN: data: 'text' is a required property"):
        client.save_events([C1, {"type": "NOTE_WRITTEN", "data": {}}])
    with pytest.raises(
        EventEncodeError, match=r"ITEM_ADDED_TO_CART: data\.quantity: 0 is less than the minimum of 1"
    ):
        client.save_event(item(0))
    assert len(client.get_event_stream()) == 0
    client.save_events([{"type": "NOTE_WRITTEN", "data": {"text": "hello"}}, C1, item()])


def test_types_without_a_schema_may_be_refused(open_client: Callable[..., EventClient]) -> None:
    """The error names those that have one."""
    client = open_client(SchemaValidation(SCHEMAS, only_known=True))
    with pytest.raises(
        EventEncodeError, match="no schema for the event type 'CART_CREATED'; there are ITEM_ADDED"
    ):
        client.save_event(C1)


def test_a_schema_that_is_none_is_refused_at_once() -> None:
    """Before any event comes."""
    with pytest.raises(ConfigurationError, match="the schema of 'A' is not valid: 'number-ish' is not valid"):
        SchemaValidation({"A": {"type": "number-ish"}})


# -- OpenTelemetry ------------------------------------------------------------


@pytest.fixture
def telemetry() -> tuple[OpenTelemetry, Callable[[], list[Any]], Callable[[], dict[str, Any]]]:
    """The plugin, the spans that it ended, and the points of its metrics by name."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def points() -> dict[str, Any]:
        data: Any = reader.get_metrics_data()
        metrics = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in metrics}

    plugin = OpenTelemetry(provider, MeterProvider([reader]))
    return plugin, lambda: list(exporter.get_finished_spans()), points


def test_spans_nest_and_follow_the_conventions(
    open_client: Callable[..., EventClient], telemetry: tuple[Any, Any, Any]
) -> None:
    """A decision is the parent of its read, its fold and its validated save, which are called as the
    conventions ask."""
    plugin, spans, _ = telemetry
    client = open_client(plugin)
    client.decide(CartProjection("c1", client), lambda cart: [C1, item()])
    read, fold, save, decide = spans()
    assert [span.name for span in (read, fold, save, decide)] == [
        "read my_app.events",
        "fold SHOPPING_CART",
        "validate my_app.events",
        "decide SHOPPING_CART",
    ]
    assert {span.parent.span_id for span in (read, fold, save)} == {
        decide.context.span_id
    } and decide.parent is None
    attributes = dict(save.attributes)
    assert attributes.pop("pgevents.lock.wait") >= 0
    assert attributes.pop("db.namespace").startswith("pgevents_test")
    assert attributes == {
        "db.system.name": "postgresql",
        "db.collection.name": "my_app.events",
        "db.operation.name": "validate",
        "db.operation.batch.size": 2,
        "messaging.system": "pgevents",
        "messaging.destination.name": "my_app.events",
        "messaging.operation.name": "validate",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": 2,
        "pgevents.operation": "validate",
        "pgevents.event.types": ("CART_CREATED", "ITEM_ADDED_TO_CART"),
        "pgevents.stream.fields": ("cart_id",),
        "pgevents.attempt": 1,
        "pgevents.events": 2,
        "pgevents.status": "saved",
    }
    assert (read.kind.name, fold.kind.name, save.kind.name, decide.kind.name) == (
        "CLIENT",
        "INTERNAL",
        "CLIENT",
        "INTERNAL",
    )


def test_failures_are_marked_without_what_they_say(
    open_client: Callable[..., EventClient], telemetry: tuple[Any, Any, Any]
) -> None:
    """A span that ends in an error has its class and no message, which may quote an event."""
    plugin, spans, _ = telemetry
    client = open_client(plugin)
    client.save_event(C1)
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(C1, None, stream(cart_id="c1"))
    plain, refused = spans()
    assert plain.status.is_unset and refused.status.status_code.name == "ERROR"
    assert refused.attributes["error.type"] == "ConcurrencyError" and not refused.events


def test_metrics_count_what_matters(
    open_client: Callable[..., EventClient],
    make_client: Callable[..., EventClient],
    telemetry: tuple[Any, Any, Any],
) -> None:
    """Events appended, conflicts, retries, the sizes of snapshots, waits for locks, and durations."""
    plugin, _, points = telemetry
    client, other = open_client(plugin), make_client()

    def create_after_another(cart: Any) -> CartCreated:
        if not cart.user_id:
            other.save_event(C1)
        return CartCreated("c1", "u2")

    client.decide(CartProjection("c1", client), create_after_another)
    client.save_events([item(), item()])
    CartProjection("c1", client).save_projection()
    found = points()
    appends = {point.attributes["pgevents.operation"]: point.value for point in found["pgevents.appends"]}
    assert appends == {"validate": 1, "save": 2}
    assert [point.value for point in found["pgevents.conflicts"]] == [1]
    assert [
        (point.value, point.attributes["pgevents.projection"]) for point in found["pgevents.retries"]
    ] == [(1, "SHOPPING_CART")]
    (size,) = found["pgevents.snapshot.size"]
    assert size.count == 1 and 100 < size.sum < 300
    assert sum(point.count for point in found["pgevents.lock.wait"]) == 2
    kinds = {point.attributes["pgevents.operation"] for point in found["db.client.operation.duration"]}
    assert kinds == {"save", "validate", "read", "snapshot"}


def test_a_wait_for_a_lock_is_measured(
    open_client: Callable[..., EventClient],
    make_client: Callable[..., EventClient],
    telemetry: tuple[Any, Any, Any],
) -> None:
    """A validated save that stood behind another transaction says for how long."""
    plugin, spans, _ = telemetry
    client, other = open_client(plugin), make_client()

    def validated() -> None:
        with client.db.connection_context():
            client.save_event_with_stream_validation(CartCreated("c2", "u1"), 0, stream("PAID", cart_id="c1"))

    with other.db.atomic():
        other.save_event(C1)
        thread = threading.Thread(target=validated)
        thread.start()
        thread.join(0.4)
    thread.join()
    (span,) = spans()
    assert span.attributes["pgevents.lock.wait"] > 0.3


# -- options ------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Logging(logger="shop"), "takes a logger, as in .*, not 'shop'"),
        (lambda: Logging(payload="no"), r"Logging\(payload=...\) is True or False, not 'no'"),
        (lambda: Metadata(source=5), "source is a text, not 5"),
        (lambda: event_context(actor=5), "actor is a text, not 5"),
        (lambda: event_context(correlation_id=uuid4()), "correlation_id is a text, not UUID"),
        (lambda: event_context(causation_id=True), "causation_id is a text or an event's id, not True"),
        (lambda: event_context(cause=5), "cause is an event that was read or saved, not 5"),
        (lambda: event_context(actors="u1"), "has no 'actors'; did you mean 'actor'"),
        (lambda: event_context(corelation_id="c"), "did you mean 'correlation_id'"),
        (lambda: SnapshotPolicy(every="100"), "every is a number of events, 1 or more"),
        (lambda: SnapshotPolicy(every=2.5), "every is a number of events"),
        (lambda: SnapshotPolicy(every=True), "every is a number of events"),
        (lambda: SnapshotPolicy(every=0), "every is a number of events"),
        (lambda: SnapshotPolicy(types="SHOPPING_CART"), "types is a list of projection types"),
        (lambda: SnapshotPolicy(types=[]), "types is a list of projection types"),
        (lambda: SnapshotPolicy(types=[CartProjection]), "names types by their text"),
        (lambda: OpenTelemetry("shop"), r"tracer_provider=...\) needs a get_tracer\(\)"),
        (lambda: OpenTelemetry(meter_provider=5), r"meter_provider=...\) needs a get_meter\(\)"),
        (lambda: SchemaValidation([{}]), "takes a schema for each event type, in a dict"),
        (lambda: SchemaValidation({"A": 5}), "the schema of 'A' is a dict, not 5"),
        (lambda: SchemaValidation({"A": {"$schema": "http://nowhere"}}), "follows 'http://nowhere', which"),
        (lambda: SchemaValidation({"A": {}}, only_known="yes"), "is True or False, not 'yes'"),
        (lambda: SchemaValidation({CartCreated: {}, "CART_CREATED": {}}), "two schemas for"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(make: Callable[[], Any], message: str) -> None:
    """When the plugin is made, in words; later they would be ignored, or be another library's error."""
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_other_metadata_than_those_with_a_meaning_are_free() -> None:
    """Names that only begin like one are no misspellings."""
    with event_context(source_ip="192.0.2.1", actor_id="7", tenant={"a": 1}) as made:
        assert {"source_ip", "actor_id", "tenant"} < made.keys()


def test_a_schema_may_be_named_by_a_class(open_client: Callable[..., EventClient]) -> None:
    """As wherever types are named; a misspelt name is refused when the plugin is registered."""
    client = open_client(SchemaValidation({ItemAddedToCart: {"properties": {"quantity": {"minimum": 1}}}}))
    with pytest.raises(EventEncodeError, match="quantity"):
        client.save_event(item(0))
    with pytest.raises(ConfigurationError, match="'ITEM_ADED_TO_CART'; did you mean 'ITEM_ADDED_TO_CART'"):
        open_client(SchemaValidation({"ITEM_ADED_TO_CART": {}}))


def test_a_schema_that_refers_to_nowhere_is_pgevents_own_error(
    open_client: Callable[..., EventClient],
) -> None:
    """Nothing is fetched, and nothing is written."""
    for reference in ("#/definitions/missing", "http://127.0.0.1:9/schema.json"):
        client = open_client(SchemaValidation({"NOTE": {"$ref": reference}}))
        with pytest.raises(ConfigurationError, match="the schema of 'NOTE' cannot be applied"):
            client.save_event({"type": "NOTE", "data": {}})


PRIVATE = "likes tea"


def test_a_schema_keeps_personal_values_to_itself(open_client: Callable[..., EventClient]) -> None:
    """The error of an event that encryption has a rule for says what was not satisfied, and not by what."""
    schema = SchemaValidation({"NOTE": {"properties": {"text": {"maxLength": 3}}}})
    client = open_client(schema, Encryption({"NOTE": Personal("about", {"text": ""})}))
    with pytest.raises(
        EventEncodeError, match=r"NOTE: data\.text: it does not satisfy 'maxLength'"
    ) as caught:
        client.save_event({"type": "NOTE", "data": {"about": "u1", "text": PRIVATE}})
    assert PRIVATE not in "".join(traceback.format_exception(caught.value))
