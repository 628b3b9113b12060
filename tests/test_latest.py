"""Decisions on the latest event alone: one event is read and checked, however many there are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    Event,
    EventClient,
    LatestEvent,
    event,
    latest,
)
from pgevents.store.session import Session
from pgevents.testing import given

from .shop import CartCreated, CartProjection, CartView, ItemAddedToCart

Make = Callable[..., EventClient]


@event("INVOICE_ISSUED")
class InvoiceIssued:
    number: int
    cart_id: str = "c"


def issue(last: Event[InvoiceIssued] | None) -> InvoiceIssued:
    return InvoiceIssued(1 if last is None else last.data.number + 1)


def numbers(client: EventClient) -> list[int]:
    return [one.data.number for one in client.get_event_stream(InvoiceIssued)]


@pytest.fixture
def invoices(pgevents_tables: None, make_client: Make) -> EventClient:
    """A client that knows invoices and carts."""
    return make_client(event_types=InvoiceIssued | CartCreated | ItemAddedToCart)


def test_each_goes_on_from_the_latest(invoices: EventClient) -> None:
    """The decider gets the event in its envelope, and None where there is none."""
    assert invoices.decide(latest(InvoiceIssued), issue)[0].data.number == 1
    assert invoices.decide(latest(InvoiceIssued), issue)[0].data.number == 2
    assert invoices.decide(latest(InvoiceIssued, cart_id="other"), lambda last: None) == []
    seen: list[Any] = []
    invoices.decide(latest("INVOICE_ISSUED", data={"cart_id": "c"}), seen.append)
    assert seen == [invoices.get_latest_event(InvoiceIssued)]


def test_no_number_is_given_twice(invoices: EventClient, make_client: Make) -> None:
    """Many at once: numbers without a gap and without a double."""

    def work(_: int) -> None:
        client = make_client(event_types=InvoiceIssued)
        for _ in range(5):
            client.decide(latest(InvoiceIssued), issue, retries=20)
        client.db.close()

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert numbers(invoices) == list(range(1, 31))


def test_a_newer_event_is_a_conflict(invoices: EventClient, make_client: Make) -> None:
    """One that came while it was decided starts the decision again."""
    other, tries = make_client(event_types=InvoiceIssued), list[Any]()

    def meddled(last: Event[InvoiceIssued] | None) -> InvoiceIssued:
        tries.append(last and last.data.number)
        if len(tries) == 1:
            other.save_event(InvoiceIssued(7))
        return issue(last)

    assert invoices.decide(latest(InvoiceIssued), meddled)[0].data.number == 8
    assert tries == [None, 7]
    with pytest.raises(ConcurrencyError):
        invoices.decide(
            latest(InvoiceIssued), lambda last: other.save_event(InvoiceIssued(0)) and issue(last), retries=0
        )


def test_the_removal_of_the_latest_is_a_conflict(invoices: EventClient) -> None:
    """What a decision rests on is that it stands, and not only that nothing is newer."""
    invoices.save_events([InvoiceIssued(1), InvoiceIssued(2)])
    tries = list[Any]()

    def redacted(last: Event[InvoiceIssued] | None) -> InvoiceIssued:
        tries.append(last and last.data.number)
        if len(tries) == 1:
            with invoices.maintenance("test"):
                invoices.db.execute_sql("DELETE FROM my_app.events WHERE id = 2")
        return issue(last)

    assert invoices.decide(latest(InvoiceIssued), redacted)[0].data.number == 2
    assert tries == [2, 1]


def test_older_events_that_come_late_are_no_conflict(invoices: EventClient, make_client: Make) -> None:
    """An event below the latest does not change which that is; the save waits for whoever may add to the
    stream, and holds."""
    slow, saved, go_on = make_client(event_types=InvoiceIssued), threading.Event(), threading.Event()

    def save_slowly() -> None:
        with slow.db.atomic():
            slow.save_event(InvoiceIssued(1))
            saved.set()
            go_on.wait(10)
        slow.db.close()

    thread = threading.Thread(target=save_slowly)
    thread.start()
    saved.wait(10)
    invoices.save_event(InvoiceIssued(2))
    tries = list[Any]()

    def decider(last: Event[InvoiceIssued] | None) -> InvoiceIssued:
        tries.append(last and last.id)
        go_on.set()
        thread.join(10)
        return issue(last)

    assert invoices.decide(latest(InvoiceIssued), decider)[0].data.number == 3
    assert tries == [2]
    assert numbers(invoices) == [1, 2, 3]


def test_with_a_projection_beside_it(invoices: EventClient) -> None:
    """A decision may rest on views and latest events; the decider gets them in order."""
    invoices.save_event(CartCreated("c1", "u1"))

    def bill(cart: CartView, last: Event[InvoiceIssued] | None) -> InvoiceIssued:
        return InvoiceIssued(issue(last).number, cart.id)

    for number in (1, 2):
        saved = invoices.decide((CartProjection("c1", invoices), latest(InvoiceIssued)), bill)
        assert saved[0].data == InvoiceIssued(number, "c1")
    swapped = invoices.decide([latest(InvoiceIssued), latest(CartCreated)], lambda one, two: issue(one))
    assert swapped[0].data.number == 3


def test_inside_a_transaction(invoices: EventClient) -> None:
    """There the stream is locked before its latest event is read; what the transaction saved counts."""
    with invoices.db.atomic():
        for _ in range(2):
            invoices.decide(latest(InvoiceIssued), issue)
    with invoices.db.atomic():
        with invoices.db.atomic() as inner:
            invoices.save_event(InvoiceIssued(70))
            inner.rollback()
        invoices.decide(latest(InvoiceIssued), issue)
    assert numbers(invoices) == [1, 2, 3]


def test_a_repeated_command_gives_its_first_result(invoices: EventClient) -> None:
    """`idempotency_key` works as with projections."""
    first = invoices.decide(latest(InvoiceIssued), issue, idempotency_key="k")
    assert invoices.decide(latest(InvoiceIssued), issue, idempotency_key="k") == first
    assert numbers(invoices) == [1]


def test_what_is_no_question_is_refused(invoices: EventClient) -> None:
    """As for streams; and a misspelt field is found when it is decided."""
    with pytest.raises(ConfigurationError, match="cannot identify events"):
        latest(InvoiceIssued, cart_id=None)
    with pytest.raises(ConfigurationError, match=r"limit= is not an option here"):
        latest(InvoiceIssued, limit=1)
    with pytest.raises(ConfigurationError, match="did you mean 'cart_id'"):
        invoices.decide(latest(InvoiceIssued, card_id="c"), issue)
    with pytest.raises(ConfigurationError, match=r"decide takes a projection or latest\(\.\.\.\)"):
        invoices.decide("INVOICE_ISSUED", issue)  # type: ignore[call-overload]
    assert latest(InvoiceIssued) == latest("INVOICE_ISSUED")
    assert isinstance(latest(), LatestEvent)


def test_in_the_test_kit(invoices: EventClient) -> None:
    """`given` takes it as it takes projections, in memory and in a store."""
    past = [InvoiceIssued(4, "c1"), InvoiceIssued(9, "c2")]
    for client in (None, invoices):
        given(*past, latest(InvoiceIssued), client=client).when(issue).then(InvoiceIssued(10))
    given(*past, latest(InvoiceIssued, cart_id="c1")).when(issue).then(InvoiceIssued(5))
    given(latest(InvoiceIssued)).when(issue).then(InvoiceIssued(1))


# -- cost ------------------------------------------------------------


@pytest.fixture
def costs(invoices: EventClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[int, int]]]:
    """Tells how many statements a decision sends, and how many rows of the log the server then looks at."""
    sent: list[str] = []
    run = Session.execute
    monkeypatch.setattr(
        Session, "execute", lambda self, sql, params=None: sent.append(sql) or run(self, sql, params)
    )

    def rows() -> int:
        invoices.db.execute_sql("SELECT pg_stat_force_next_flush()")
        return int(
            invoices.db.execute_sql(
                "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'events'"
            ).fetchone()[0]
        )

    def measure() -> tuple[int, int]:
        before = rows()
        sent.clear()
        invoices.decide(latest(InvoiceIssued), issue)
        statements = len(sent)
        return statements, rows() - before

    return measure


def test_it_costs_the_same_however_many_there_are(
    invoices: EventClient, costs: Callable[[], tuple[int, int]]
) -> None:
    """20,000 invoices or 20: two statements, and a handful of rows."""
    invoices.save_events([InvoiceIssued(n) for n in range(1, 21)])
    costs()
    few = costs()
    invoices.save_events([InvoiceIssued(n) for n in range(23, 20_001)])
    many = costs()
    assert many[0] == few[0] == 2
    assert many[1] <= few[1] + 2 <= 12
