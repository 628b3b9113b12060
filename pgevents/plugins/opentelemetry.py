"""Spans and metrics by OpenTelemetry (`pip install "pgevents-store[otel]"`).

Spans follow the conventions for database clients; those of saves also follow the ones for messaging, with the
events table as the destination. No data of events is recorded: only types, counts and names of identifiers.
"""

from __future__ import annotations

import json
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from pgevents import ConcurrencyError, ConfigurationError, EventClient, Operation, Snapshot, hookimpl
from pgevents.distribution import require
from pgevents.subscriptions import SubscriptionReport, TimersReport, overview, timers_report

__all__ = ["OpenTelemetry"]

SCOPE = "pgevents"
ON_DATABASE = {"save", "validate", "read", "snapshot"}


class OpenTelemetry:
    """Makes a span for each save, validated save, read, fold, decision and snapshot; spans nest.

    Metrics:

    | name | unit | what is measured |
    |---|---|---|
    | `pgevents.appends` | `{event}` | events written, by table and operation, also if rolled back later |
    | `pgevents.conflicts` | `{conflict}` | refused validated saves |
    | `pgevents.retries` | `{retry}` | tries of `decide` after its first |
    | `pgevents.snapshot.size` | `By` | size of saved snapshots, as JSON |
    | `pgevents.lock.wait` | `s` | time of a save from its arrival at the server to the end of its check |
    | `db.client.operation.duration` | `s` | duration of saves, reads and snapshots |
    | `pgevents.subscription.lag` | `{event}` | events that a subscription has not handled yet |
    | `pgevents.subscription.lag.time` | `s` | age of the oldest of them |
    | `pgevents.subscription.parked` | `{event}` | parked events |
    | `pgevents.subscription.parked.age` | `s` | time since the oldest of them was parked |
    | `pgevents.subscription.attempts` | `{attempt}` | failed attempts of events that are not handled yet |
    | `pgevents.subscription.batch.time` | `s` | how long a batch takes, at the slowest runner |

    The values for subscriptions are queried from the database whenever metrics are collected.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.

    Raises:
        ConfigurationError: `opentelemetry-api` is not installed, or an argument is not a provider.

    Example:
        ```python
        from pgevents.plugins.opentelemetry import OpenTelemetry

        client = create_event_client(db, events, views, plugins=[OpenTelemetry()])
        ```
    """

    def __init__(self, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        for name, provider, factory in (
            ("tracer_provider", tracer_provider, "get_tracer"),
            ("meter_provider", meter_provider, "get_meter"),
        ):
            if provider is not None and not callable(getattr(provider, factory, None)):
                raise ConfigurationError(
                    f"OpenTelemetry({name}=...) needs a {factory}() method; {provider!r} has none"
                )
        self._trace = require("opentelemetry.trace", "otel")
        metrics = require("opentelemetry.metrics", "otel")
        self._tracer = self._trace.get_tracer(SCOPE, tracer_provider=tracer_provider)
        meter = self._meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._appends = meter.create_counter("pgevents.appends", "{event}", "Events written")
        self._conflicts = meter.create_counter("pgevents.conflicts", "{conflict}", "Refused validated saves")
        self._retries = meter.create_counter(
            "pgevents.retries", "{retry}", "Tries of a decision after its first"
        )
        self._sizes = meter.create_histogram("pgevents.snapshot.size", "By", "Snapshots saved, as JSON")
        self._waits = meter.create_histogram(
            "pgevents.lock.wait", "s", "From a save's arrival until it held its locks"
        )
        self._durations = meter.create_histogram(
            "db.client.operation.duration", "s", "Saves, reads and snapshots"
        )

    @hookimpl
    def pgevents_registered(self, client: EventClient) -> None:
        """Register gauges for the client's subscriptions and timers."""
        _Gauges(client).register(self._meter)

    @hookimpl
    @contextmanager
    def pgevents_observe(self, client: EventClient, operation: Operation) -> Generator[None, None, None]:
        """Make a span for the operation."""
        common = self._common(client, operation)
        kind = self._trace.SpanKind.CLIENT if operation.name in ON_DATABASE else self._trace.SpanKind.INTERNAL
        target = common.get("db.collection.name", operation.projection)
        name = f"{operation.name} {target}".strip()
        start = time.perf_counter()
        attributes = {**common, **_described(operation)}
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            failed: BaseException | None = None
            try:
                yield
            except BaseException as error:
                failed = error
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(self._trace.StatusCode.ERROR)  # no message: it may quote an event's data
                raise
            finally:
                span.set_attributes(_outcome(operation))
                self._measure(operation, common, time.perf_counter() - start, failed)

    @hookimpl
    def pgevents_after_snapshot(self, snapshot: Snapshot, status: str) -> None:
        """Record the size of the snapshot that was written."""
        if status != "skipped":
            size = len(json.dumps(snapshot.data, ensure_ascii=False, separators=(",", ":")).encode())
            self._sizes.record(size, {"pgevents.projection": snapshot.type})

    def _common(self, client: EventClient, operation: Operation) -> dict[str, Any]:
        """Attributes of low cardinality, for spans and metrics."""
        common: dict[str, Any] = {"pgevents.operation": operation.name}
        if operation.projection:
            common["pgevents.projection"] = operation.projection
        if operation.name in ON_DATABASE:
            model = client.projections if operation.name == "snapshot" else client.events
            common |= {
                "db.system.name": "postgresql",
                "db.namespace": str(client.db.database),
                "db.collection.name": model.pgevents_spec.qualified().replace('"', ""),
                "db.operation.name": operation.name,
            }
        if operation.name in ("save", "validate"):
            common |= {
                "messaging.system": "pgevents",
                "messaging.destination.name": common["db.collection.name"],
                "messaging.operation.name": operation.name,
                "messaging.operation.type": "send",
            }
        return common

    def _measure(
        self, operation: Operation, common: dict[str, Any], seconds: float, failed: BaseException | None
    ) -> None:
        if failed is not None:
            common = {**common, "error.type": type(failed).__qualname__}
        if operation.name in ON_DATABASE:
            self._durations.record(seconds, common)
        if operation.status == "saved" and failed is None:
            self._appends.add(operation.events, common)
        if operation.lock_wait is not None:
            self._waits.record(operation.lock_wait, common)
        if operation.name == "validate" and isinstance(failed, ConcurrencyError):
            self._conflicts.add(1, common)
        if operation.name == "decide" and operation.attempt > 1:
            self._retries.add(operation.attempt - 1, common)


class _Gauges:
    """Reports of subscriptions, queried in the collector's thread at most once a second."""

    def __init__(self, client: EventClient) -> None:
        self._client = weakref.ref(client)
        self._at, self._reports = 0.0, list[SubscriptionReport]()
        self._timers: TimersReport | None = None

    def register(self, meter: Any) -> None:
        """Create the gauges."""
        measures: tuple[tuple[str, str, str, Callable[[SubscriptionReport], float]], ...] = (
            ("lag", "{event}", "Events not handled yet", lambda report: report.lag),
            ("lag.time", "s", "Age of the oldest of them", lambda report: report.lag_seconds),
            ("parked", "{event}", "Parked events", lambda report: report.parked),
            ("parked.age", "s", "Age of the oldest of them", _parked_age),
            ("attempts", "{attempt}", "Failed attempts", lambda report: report.attempts),
            ("batch.time", "s", "Duration of a batch", lambda report: report.batch_seconds),
        )
        for name, unit, description, value in measures:
            meter.create_observable_gauge(
                f"pgevents.subscription.{name}", [self._callback(value)], unit, description
            )
        of_timers: tuple[tuple[str, str, str, Callable[[TimersReport], float]], ...] = (
            ("scheduled", "{timer}", "Timers that have not fired", lambda report: report.scheduled),
            ("late.time", "s", "For how long the first is due", lambda report: report.late_seconds),
            ("parked", "{timer}", "Timers that could not be fired", lambda report: report.parked),
        )
        for name, unit, description, of_report in of_timers:
            meter.create_observable_gauge(
                f"pgevents.timers.{name}", [self._timers_callback(of_report)], unit, description
            )

    def _callback(self, value: Callable[[SubscriptionReport], float]) -> Callable[[Any], list[Any]]:
        def observe(options: Any) -> list[Any]:
            observation: Any = require("opentelemetry.metrics", "otel").Observation
            return [
                observation(value(report), {"pgevents.subscription": report.name})
                for report in self._current_reports()
            ]

        return observe

    def _timers_callback(self, value: Callable[[TimersReport], float]) -> Callable[[Any], list[Any]]:
        def observe(options: Any) -> list[Any]:
            observation: Any = require("opentelemetry.metrics", "otel").Observation
            self._current_reports()
            return [] if self._timers is None else [observation(value(self._timers))]

        return observe

    def _current_reports(self) -> list[SubscriptionReport]:
        client = self._client()
        if client is None or time.monotonic() < self._at + 1 or client.db.in_transaction():
            return self._reports
        was_closed = client.db.is_closed()
        try:
            self._reports, self._timers = overview(client), timers_report(client)
        except Exception:  # no server, no tables, no app context: queried again the next time
            self._reports, self._timers = [], None
        finally:
            if was_closed and not client.db.is_closed():
                client.db.close()
        self._at = time.monotonic()
        return self._reports


def _parked_age(report: SubscriptionReport) -> float:
    if report.oldest_parked is None:
        return 0.0
    return (datetime.now(timezone.utc) - report.oldest_parked).total_seconds()


def _described(operation: Operation) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if operation.types:
        attributes["pgevents.event.types"] = operation.types
    if operation.streams:
        fields = dict.fromkeys(field for stream in operation.streams for field, _ in stream.match)
        attributes["pgevents.stream.fields"] = tuple(fields)
    if operation.name in ("save", "validate"):
        attributes["pgevents.attempt"] = operation.attempt
    return attributes


def _outcome(operation: Operation) -> dict[str, Any]:
    attributes: dict[str, Any] = {"pgevents.events": operation.events}
    if operation.status:
        attributes["pgevents.status"] = operation.status
    if operation.events > 1 and operation.name in ("save", "validate"):
        attributes |= {
            "messaging.batch.message_count": operation.events,
            "db.operation.batch.size": operation.events,
        }
    if operation.name == "decide":
        attributes["pgevents.attempts"] = operation.attempt
    if operation.lock_wait is not None:
        attributes["pgevents.lock.wait"] = operation.lock_wait
    return attributes
