"""Hooks: when each is called, in which transaction, and what it may do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import peewee
import pytest

from pgevents import (
    ConcurrencyError,
    Conflict,
    Event,
    EventClient,
    EventEncodeError,
    NewEvent,
    Operation,
    PluginError,
    RetryableError,
    Snapshot,
    StoredEvent,
    UnsupportedTransactionError,
    hookimpl,
    stream,
)
from pgevents.hooks.specs import SPECS

from .shop import CartCheckedOut, CartCreated, CartEvent, CartProjection, ItemAddedToCart

MakeClient = Callable[..., EventClient]

C1, C2, C3 = (CartCreated(f"c{n}", "u1") for n in (1, 2, 3))


class Committed:
    """Keeps the cart ids of what it is told to be durable."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    @hookimpl
    def pgevents_after_commit(self, events: Sequence[Event[Any]]) -> None:
        self.seen.append([event.data.cart_id for event in events])


class AfterSave:
    """Calls a function between write and commit."""

    def __init__(self, function: Callable[[EventClient, Sequence[Event[Any]]], object]) -> None:
        self.function = function

    @hookimpl
    def pgevents_after_save(self, client: EventClient, events: Sequence[Event[Any]]) -> None:
        self.function(client, events)


class Renamed:
    """Puts all events into one cart."""

    def __init__(self, cart_id: str) -> None:
        self.cart_id = cart_id

    @hookimpl
    def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        return [attrs.evolve(new, data=attrs.evolve(new.data, cart_id=self.cart_id)) for new in events]


class Noted:
    """Appends a letter to the note of each event, to show the order of a chain."""

    def __init__(self, letter: str) -> None:
        self.letter = letter

    @hookimpl
    def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        return [
            attrs.evolve(new, metadata={"note": new.metadata.get("note", "") + self.letter}) for new in events
        ]


def cart_ids(client: EventClient) -> list[str]:
    return [event.data.cart_id for event in client.get_event_stream()]


@pytest.fixture
def open_client(pgevents_tables: None, make_client: MakeClient) -> MakeClient:
    """Clients with plugins, connected, on tables that are made."""

    def make(*plugins: Any) -> EventClient:
        client = make_client(plugins=plugins)
        client.db.connect()
        return client

    return make


@pytest.mark.parametrize("name", SPECS)
def test_every_hook_is_documented(name: str) -> None:
    """Each hook says when it is called, what each argument is, what it may return or raise, and shows an
    example."""
    doc = inspect.getdoc(SPECS[name]) or ""
    summary, _, rest = doc.partition("\n")
    assert summary.startswith("Called ")
    for argument in inspect.signature(SPECS[name]).parameters:
        assert f"\n    {argument}: " in rest
    returns = inspect.signature(SPECS[name]).return_annotation
    assert ("Returns:" in rest) == (returns != "None")
    assert "Raises:" in rest or "error is logged" in rest or "errors are logged" in rest
    example = rest.partition("Example:")[2]
    assert "```python" in example and f"def {name}(" in example and "@hookimpl" in example


# -- before_save ------------------------------------------------------------


def test_before_save_replaces_what_is_stored_and_returned(open_client: MakeClient) -> None:
    """What the plugin makes of an event is what the log holds and what the caller gets."""
    client = open_client(Renamed("c9"))
    assert client.save_event(C1).data == CartCreated("c9", "u1")
    assert cart_ids(client) == ["c9"]


def test_plugins_see_what_the_one_before_returned(open_client: MakeClient) -> None:
    """The chain runs in pluggy's order: the last registered first, tryfirst and trylast at the ends."""

    class First(Noted):
        pgevents_before_save = hookimpl(tryfirst=True)(Noted.pgevents_before_save)  # type: ignore[assignment]

    class Last(Noted):
        @hookimpl(trylast=True)
        def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent]:
            return [
                attrs.evolve(new, metadata={"note": new.metadata["note"] + self.letter}) for new in events
            ]

    client = open_client(Last("d"), Noted("c"), Noted("b"))
    assert client.save_event(C1).metadata == {"note": "bcd"}


def test_before_save_is_a_veto(open_client: MakeClient) -> None:
    """An exception of the hook reaches the caller, and nothing of the batch is written."""

    class NoSecondCart:
        @hookimpl
        def pgevents_before_save(self, events: Sequence[NewEvent]) -> None:
            if any(new.data.cart_id == "c2" for new in events):
                raise LookupError("no c2 here")

    client = open_client(NoSecondCart())
    with pytest.raises(LookupError, match="no c2 here"):
        client.save_events([C1, C2])
    assert cart_ids(client) == []


@pytest.mark.parametrize("made", [[], [C1], "ab", 3])
def test_before_save_returns_as_many_events_or_nothing(open_client: MakeClient, made: Any) -> None:
    """A plugin that returns something else is named, and nothing is written."""

    class Broken:
        @hookimpl
        def pgevents_before_save(self) -> Any:
            return made

    client = open_client(Broken())
    with pytest.raises(
        PluginError, match="Broken: pgevents_before_save returns as many NewEvents as it was given"
    ):
        client.save_event(C1)
    assert cart_ids(client) == []


def test_a_replacement_that_could_not_be_read_back_is_refused(open_client: MakeClient) -> None:
    """A hook cannot put something into the log that breaks every later read."""

    class Broken:
        @hookimpl
        def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent]:
            return [attrs.evolve(new, data={"cart_id": 7}) for new in events]

    client = open_client(Broken())
    with pytest.raises(EventEncodeError, match="CART_CREATED"):
        client.save_event(C1)
    assert cart_ids(client) == []


def test_locks_are_taken_on_the_replaced_value(open_client: MakeClient, make_client: MakeClient) -> None:
    """While a save that a hook moved from c1 to c2 is not committed, a validated save on c2 waits, one on c1
    does not."""
    writer, other = open_client(Renamed("c2")), make_client()
    other.db.execute_sql("SET lock_timeout = '300ms'")
    with writer.db.atomic():
        writer.save_event(C1)
        other.save_event_with_stream_validation(C1, None, stream(CartEvent, cart_id="c1"))
        with pytest.raises(RetryableError, match="keep the streams of this save locked"):
            other.save_event_with_stream_validation(C2, None, stream(CartEvent, cart_id="c2"))
    with pytest.raises(ConcurrencyError):
        other.save_event_with_stream_validation(C2, None, stream(CartEvent, cart_id="c2"))


def test_before_save_runs_at_each_try_of_a_decision(open_client: MakeClient, make_client: MakeClient) -> None:
    """A decision that is refused is made anew, and so is what plugins make of it."""
    tries: list[int] = []

    class Meddler:
        @hookimpl
        def pgevents_before_save(self, events: Sequence[NewEvent]) -> list[NewEvent]:
            tries.append(len(tries) + 1)
            if len(tries) == 1:
                make_client().save_event(C1)
            return [attrs.evolve(new, metadata={"try": tries[-1]}) for new in events]

    client = open_client(Meddler())
    (saved,) = client.decide(CartProjection("c1", client), lambda cart: ItemAddedToCart("c1", "p1", 1, 5))
    assert tries == [1, 2] and saved.metadata == {"try": 2}


# -- after_save ------------------------------------------------------------


def test_what_after_save_writes_commits_with_the_save(open_client: MakeClient) -> None:
    """More events saved by the hook stand in the log beside the first."""

    def answer(client: EventClient, events: Sequence[Event[Any]]) -> None:
        if isinstance(events[0].data, CartCreated):
            client.save_event(ItemAddedToCart(events[0].data.cart_id, "gift", 1, 0))

    client = open_client(AfterSave(answer))
    client.save_events([C1, C2])
    assert [event.type for event in client.get_event_stream()] == [
        "CART_CREATED",
        "CART_CREATED",
        "ITEM_ADDED_TO_CART",
    ]


def test_after_save_that_raises_undoes_the_save(open_client: MakeClient) -> None:
    """Neither the event nor what the hook wrote before it raised is left."""

    def fail(client: EventClient, events: Sequence[Event[Any]]) -> None:
        if events[0].data.cart_id == "c1":
            client.save_event(C2)
            raise LookupError("no")

    client = open_client(AfterSave(fail))
    with pytest.raises(LookupError):
        client.save_event(C1)
    assert cart_ids(client) == []


def test_after_save_that_raises_leaves_the_callers_transaction_usable(open_client: MakeClient) -> None:
    """Inside db.atomic() only the save is undone; the caller may catch the error and go on."""

    def fail(client: EventClient, events: Sequence[Event[Any]]) -> None:
        if events[0].data.cart_id == "c2":
            raise LookupError("no")

    client = open_client(AfterSave(fail))
    with client.db.atomic():
        client.save_event(C1)
        with pytest.raises(LookupError):
            client.save_event(C2)
        client.save_event(C3)
    assert cart_ids(client) == ["c1", "c3"]


def test_an_sql_error_that_after_save_swallows_is_told(open_client: MakeClient) -> None:
    """PostgreSQL would answer the COMMIT with a silent rollback; the caller hears of it."""

    def swallow(client: EventClient, events: Sequence[Event[Any]]) -> None:
        with pytest.raises(peewee.DataError):
            client.db.execute_sql("SELECT 1 / 0")

    client = open_client(AfterSave(swallow))
    with pytest.raises(UnsupportedTransactionError, match="swallowed"):
        client.save_event(C1)
    assert cart_ids(client) == []


# -- after_commit ------------------------------------------------------------


def test_after_commit_comes_at_once_outside_a_transaction(open_client: MakeClient) -> None:
    """Each save is told by itself, a batch as one."""
    told = Committed()
    client = open_client(told)
    client.save_event(C1)
    client.save_events([C2, C3])
    assert told.seen == [["c1"], ["c2", "c3"]]


def test_after_commit_waits_for_the_outermost_commit(open_client: MakeClient) -> None:
    """Saves in nested blocks are told after the COMMIT, in their order, when other connections see them."""
    told = Committed()
    client = open_client(told)
    with client.db.atomic():
        client.save_event(C1)
        with client.db.atomic():
            client.save_event(C2)
        assert told.seen == []
    assert told.seen == [["c1"], ["c2"]]


def test_after_commit_is_not_called_for_what_was_rolled_back(open_client: MakeClient) -> None:
    """With a whole transaction nothing is told, with a savepoint only the rest."""
    told = Committed()
    client = open_client(told)
    with pytest.raises(LookupError), client.db.atomic():
        client.save_event(C1)
        raise LookupError
    with client.db.atomic():
        with client.db.atomic() as savepoint:
            client.save_event(C2)
            savepoint.rollback()
        client.save_event(C3)
    assert told.seen == [["c3"]] and cart_ids(client) == ["c3"]


def test_after_commit_is_not_called_after_a_swallowed_sql_error(open_client: MakeClient) -> None:
    """PostgreSQL turned the COMMIT into a ROLLBACK, and Peewee runs its callbacks all the same; we ask the
    log."""
    told = Committed()
    client = open_client(told)
    with client.db.atomic():
        client.save_event(C1)
        with pytest.raises(peewee.DataError):
            client.db.execute_sql("SELECT 1 / 0")
    assert told.seen == [] and cart_ids(client) == []


def test_a_callback_of_the_callers_that_raises_keeps_nobody_from_it(open_client: MakeClient) -> None:
    """Peewee stops at the first after-commit callback that raises: a plugin has heard of the saves before
    it."""

    def fail() -> None:
        raise LookupError("the caller's own")

    told = Committed()
    client = open_client(told)
    with pytest.raises(LookupError, match="the caller's own"), client.db.atomic():
        client.save_event(C1)
        client.db.after_commit(fail)
    assert told.seen == [["c1"]] and cart_ids(client) == ["c1"]


def test_a_rollback_in_the_middle_of_a_block_keeps_the_rest(open_client: MakeClient) -> None:
    """What was rolled back by hand is not reported; what is saved after it in the same block is."""
    told = Committed()
    client = open_client(told)
    with client.db.atomic() as transaction:
        client.save_event(C1)
        transaction.rollback()
        client.save_event(C2)
    assert told.seen == [["c2"]] and cart_ids(client) == ["c2"]


def test_an_error_that_is_kept_keeps_no_later_save_from_being_reported(open_client: MakeClient) -> None:
    """A caller may hold the exception of a rolled-back block; the next block on the connection is its own."""
    told = Committed()
    client = open_client(told)
    kept: list[BaseException] = []
    for cart in (C1, C2):
        try:
            with client.db.atomic():
                client.save_event(cart)
                if cart is C1:
                    raise KeyError
        except KeyError as error:
            kept.append(error)
    assert kept and told.seen == [["c2"]]


def test_a_commit_in_the_middle_of_a_block_counts(open_client: MakeClient) -> None:
    """What was committed by hand is told, although the rest of the block is rolled back."""
    told = Committed()
    client = open_client(told)
    with client.db.atomic() as transaction:
        client.save_event(C1)
        transaction.commit()
        client.save_event(C2)
        transaction.rollback()
    assert told.seen == [["c1"]] and cart_ids(client) == ["c1"]


def test_errors_of_after_commit_are_logged_and_hide_nothing(
    open_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The save succeeds, the error is in the log with the plugin's name, and the other plugin is told."""

    class Failing:
        @hookimpl
        def pgevents_after_commit(self) -> None:
            raise LookupError("queue is down")

    told = Committed()
    client = open_client(told, Failing())
    saved = client.save_event(C1)
    with client.db.atomic():
        client.save_event(C2)
    assert saved.id == 1 and told.seen == [["c1"], ["c2"]]
    failures = [
        record
        for record in caplog.records
        if "pgevents_after_commit of the plugin Failing failed" in record.message
    ]
    assert len(failures) == 2 and failures[0].exc_info is not None


def test_after_commit_follows_after_save_in_the_order_of_the_saves(open_client: MakeClient) -> None:
    """What an after_save hook saves is told after what it answered, once the transaction opened for it is
    over."""
    told = Committed()

    def answer(client: EventClient, events: Sequence[Event[Any]]) -> None:
        if events[0].data.cart_id == "c1":
            client.save_event(C2)
        assert told.seen == []

    client = open_client(told, AfterSave(answer))
    client.save_event(C1)
    assert told.seen == [["c1"], ["c2"]]


def test_after_commit_may_save(open_client: MakeClient) -> None:
    """No transaction is open any more, so the hook's own save is a save like any other."""

    class Reply:
        @hookimpl
        def pgevents_after_commit(self, client: EventClient, events: Sequence[Event[Any]]) -> None:
            assert not client.db.in_transaction()
            if events[0].data.cart_id == "c1":
                client.save_event(C2)

    client = open_client(Reply())
    with client.db.atomic():
        client.save_event(C1)
    assert cart_ids(client) == ["c1", "c2"]


def test_a_transaction_whose_end_cannot_be_seen_is_refused_before_the_write(open_client: MakeClient) -> None:
    """manual_commit() and a BEGIN that went round Peewee: the error says so, and nothing is written."""
    told = Committed()
    client = open_client(told)
    with client.db.manual_commit():
        client.db.begin()
        with pytest.raises(
            UnsupportedTransactionError, match=r"manual_commit\(\) block; nothing was written"
        ):
            client.save_event(C1)
        client.db.commit()
    client.db.execute_sql("BEGIN")
    with pytest.raises(UnsupportedTransactionError, match="begun without Peewee; nothing was written"):
        client.save_event(C1)
    client.db.execute_sql("COMMIT")
    assert cart_ids(client) == []
    with client.db.manual_commit():  # no transaction is open, so the save ends with itself
        client.save_event(C2)
    assert cart_ids(client) == ["c2"] and told.seen == [["c2"]]


def test_after_save_joins_a_transaction_that_peewee_does_not_know(open_client: MakeClient) -> None:
    """The save and what the hook writes stand or fall with a raw BEGIN, or one of manual_commit()."""

    def note(client: EventClient, events: Sequence[Event[Any]]) -> None:
        client.db.execute_sql("INSERT INTO noted VALUES (%s)", [events[0].id])

    client = open_client(AfterSave(note))
    client.db.execute_sql("CREATE TABLE noted (id bigint)")
    client.db.execute_sql("BEGIN")
    client.save_event(C1)
    client.db.execute_sql("ROLLBACK")
    with client.db.manual_commit():
        client.db.begin()
        client.save_event(C1)
        client.db.rollback()
        with pytest.raises(UnsupportedTransactionError, match="no transaction is open"):
            client.save_event(C1)
    assert cart_ids(client) == []
    client.db.execute_sql("BEGIN")
    client.save_event(C2)
    client.db.execute_sql("COMMIT")
    assert cart_ids(client) == ["c2"]
    assert client.db.execute_sql("SELECT count(*) FROM noted").fetchone() == (1,)


@pytest.mark.parametrize(("hook", "count"), [("pgevents_after_save", 0), ("pgevents_after_commit", 3)])
def test_a_plugin_that_saves_for_its_own_saves_is_stopped(
    open_client: MakeClient, hook: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names it and says what to do. In the transaction of the save nothing is left; after the
    commit it is logged, and little was saved."""

    class Audit:
        pass

    def audit(client: EventClient, events: Sequence[Event[Any]]) -> None:
        client.save_event({"type": "AUDIT", "data": {"of": [event.id for event in events]}})

    setattr(Audit, hook, staticmethod(hookimpl(audit)))
    client = open_client(Audit())
    if hook == "pgevents_after_save":
        with pytest.raises(PluginError, match=f"Audit saves in {hook}.*10 times"):
            client.save_event(C1)
    else:
        assert client.save_event(C1).id == 1
        assert (
            "Audit saves in pgevents_after_commit, which calls pgevents_after_commit again, 3" in caplog.text
        )
    (saved,) = client.db.execute_sql("SELECT count(*) FROM my_app.events").fetchone()
    assert saved == count


def test_hooks_may_save_for_one_another_to_a_depth(open_client: MakeClient) -> None:
    """A tree is taken apart from its root: nine levels below it are no endless loop."""

    def split(client: EventClient, events: Sequence[Event[Any]]) -> None:
        level = int(events[0].data.cart_id)
        if level:
            client.save_event(CartCreated(str(level - 1), "u1"))

    client = open_client(AfterSave(split))
    client.save_event(CartCreated("9", "u1"))
    assert cart_ids(client) == [str(level) for level in range(9, -1, -1)]


def test_a_repeat_is_not_told_again(open_client: MakeClient) -> None:
    """A save that its idempotency key recognises wrote nothing, so neither hook after the save is called."""
    told = Committed()
    saved: list[int] = []
    client = open_client(told, AfterSave(lambda client, events: saved.extend(event.id for event in events)))
    first = client.save_event(C1, idempotency_key="k")
    assert client.save_event(C1, idempotency_key="k") == first
    assert told.seen == [["c1"]] and saved == [first.id]


def test_a_refused_validated_save_is_not_told(open_client: MakeClient) -> None:
    """Only the save that stands is told, inside and outside a transaction."""
    told = Committed()
    client = open_client(told)
    client.save_event_with_stream_validation(C1, None, stream(CartEvent, cart_id="c1"))
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(C1, None, stream(CartEvent, cart_id="c1"))
    with client.db.atomic(), pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(C1, None, stream(CartEvent, cart_id="c1"))
    assert told.seen == [["c1"]]


# -- conflicts ------------------------------------------------------------


class Conflicts:
    """Keeps conflicts, and asks for a retry."""

    def __init__(self, delay: Any = None) -> None:
        self.seen: list[Conflict] = []
        self.delay = delay

    @hookimpl
    def pgevents_validation_conflict(self, conflict: Conflict) -> Any:
        self.seen.append(conflict)
        return self.delay


def test_a_conflict_tells_what_was_expected_and_what_stands_there(open_client: MakeClient) -> None:
    """Identifiers, the id expected, the ids that conflict, and the try."""
    told = Conflicts(delay=0.5)
    client = open_client(told)
    history = client.get_event_stream(CartEvent, cart_id="c1")
    first = client.save_event(C1)
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(CartCreated("c1", "u2"), history)
    (conflict,) = told.seen
    assert conflict.events[0].data == CartCreated("c1", "u2")
    assert conflict.streams[0].match == (("cart_id", ("c1",)),)
    assert (conflict.expected, conflict.expected_id, conflict.attempt) == (history, 0, 1)
    assert conflict.conflicting_ids == (first.id,)
    assert (
        caught.value.retry_after == 0.5
    )  # told, and left to the caller: the same position can only be refused again


def test_a_plugin_may_ask_decide_for_one_more_try(open_client: MakeClient, make_client: MakeClient) -> None:
    """Also when its retries are used up; without the plugin the conflict reaches the caller."""
    other = make_client()

    def decide(client: EventClient, cart_id: str) -> list[Event[Any]]:
        def add(cart: Any) -> ItemAddedToCart:
            if not cart.items:
                other.save_event(ItemAddedToCart(cart_id, "p1", 1, 5))
            return ItemAddedToCart(cart_id, "p2", 1, 5)

        return client.decide(CartProjection(cart_id, client), add, retries=0)

    told = Conflicts(delay=0.01)
    client = open_client(told)
    assert decide(client, "c1")[0].data.product_id == "p2"
    assert [conflict.attempt for conflict in told.seen] == [1]
    told.delay = None
    with pytest.raises(ConcurrencyError):
        decide(client, "c2")


@pytest.mark.parametrize("delay", [-1, float("nan"), True, "soon"])
def test_a_delay_that_is_none_is_logged_and_left_out(
    open_client: MakeClient, delay: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The conflict reaches the caller whatever a plugin returns."""
    client = open_client(Conflicts(delay))
    client.save_event(C1)
    with pytest.raises(ConcurrencyError) as caught:
        client.save_event_with_stream_validation(C1, None, stream(cart_id="c1"))
    assert caught.value.retry_after is None
    assert "returns seconds or None" in caplog.text


# -- snapshots ------------------------------------------------------------


class Snapshots:
    """Keeps what it sees of snapshots."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    @hookimpl
    def pgevents_before_snapshot(self, snapshot: Snapshot) -> Snapshot:
        self.seen.append(("before", snapshot.type, snapshot.id, snapshot.view.user_id, len(snapshot.events)))
        return attrs.evolve(snapshot, data={**snapshot.data, "user_id": "someone"})

    @hookimpl
    def pgevents_after_snapshot(self, snapshot: Snapshot, status: str) -> None:
        self.seen.append((status, snapshot.latest_event_id, snapshot.data["user_id"]))


def test_snapshot_hooks_see_view_id_and_status(open_client: MakeClient) -> None:
    """The hook before may change the stored data; the hook after learns what came of it."""
    told = Snapshots()
    client = open_client(told)
    event_id = client.save_event(C1).id
    assert CartProjection("c1", client).save_projection().projection.data.user_id == "someone"
    CartProjection("c1", client).save_projection()
    assert told.seen == [
        ("before", "SHOPPING_CART", "c1", "u1", 1),
        ("created", event_id, "someone"),
        ("before", "SHOPPING_CART", "c1", "someone", 0),
        ("skipped", event_id, "someone"),
    ]


@pytest.mark.parametrize("change", [{"id": "c2"}, {"latest_event_id": 9}, {"version": 2}, {"view": None}])
def test_a_snapshot_stays_exact(open_client: MakeClient, change: dict[str, Any]) -> None:
    """A plugin may change a snapshot's data, not what they are a snapshot of."""

    class Forger:
        @hookimpl
        def pgevents_before_snapshot(self, snapshot: Snapshot) -> Snapshot:
            return attrs.evolve(snapshot, **change)

    client = open_client(Forger())
    client.save_event(C1)
    with pytest.raises(
        PluginError, match="Forger: pgevents_before_snapshot returns the snapshot with other data"
    ):
        CartProjection("c1", client).save_projection()


@pytest.mark.parametrize("hook", ["pgevents_before_snapshot", "pgevents_after_snapshot"])
def test_a_snapshot_hook_that_raises_leaves_no_snapshot(open_client: MakeClient, hook: str) -> None:
    """Before it is a veto, after it an undoing."""

    def fail(self: object) -> None:
        raise LookupError("no")

    client = open_client(type("Failing", (), {hook: hookimpl(fail)})())
    client.save_event(C1)
    with pytest.raises(LookupError):
        CartProjection("c1", client).save_projection()
    assert client.get_projection(CartProjection, "c1") is None


# -- reading ------------------------------------------------------------


class Wrapping:
    """Puts the data of an event into a dict under its own letter, and takes them out of it."""

    def __init__(self, letter: str) -> None:
        self.letter = letter
        self.calls: list[int] = []

    @hookimpl
    def pgevents_before_save(self, client: EventClient, events: Sequence[NewEvent]) -> list[NewEvent]:
        plain = [client.serializer.encode(new.data, new.type) for new in events]
        return [attrs.evolve(new, data={self.letter: data}) for new, data in zip(events, plain, strict=True)]

    @hookimpl
    def pgevents_before_decode(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        self.calls.append(len(events))
        return [attrs.evolve(one, data=one.data[self.letter]) for one in events]


def test_what_was_put_on_last_comes_off_first(open_client: MakeClient) -> None:
    """Data that two plugins transformed are read back by whatever read, in one call for all events of it."""
    inner, outer = Wrapping("a"), Wrapping("b")
    client = open_client(inner, outer)
    saved = client.save_events([C1, C2])
    assert [event.data for event in saved] == [C1, C2]
    (stored,) = client.db.execute_sql(
        "SELECT data->'a'->'b'->>'cart_id' FROM my_app.events WHERE id = 1"
    ).fetchone()
    assert stored == "c1"
    outer.calls.clear()
    assert list(client.get_event_stream()) == saved
    assert outer.calls == [2]
    assert client.get_latest_event() == saved[1]
    assert list(client.iter_event_stream()) == saved
    assert list(client.get_event_stream(final=True)) == saved


class Folds:
    """Keeps what was folded."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []

    @hookimpl
    def pgevents_after_fold(self, projection: Any, events: Sequence[Event[Any]]) -> None:
        self.seen.append((projection.id, len(events)))
        raise LookupError("never hides the view")


def test_after_fold_tells_of_views_that_come_from_the_log(open_client: MakeClient) -> None:
    """Not of staged events, nor of a view as of a former time."""
    told = Folds()
    client = open_client(told)
    client.save_event(C1)
    cart = CartProjection("c1", client)
    assert cart.view.user_id == cart.view.user_id == "u1"
    assert CartProjection("c1", client).apply(C1).view.user_id == "u1"
    assert CartProjection("c1", client, as_of=1).view.user_id == "u1"
    assert told.seen == [("c1", 1)]


class Observer:
    """Writes down what begins and ends."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.operations: list[Operation] = []

    @hookimpl
    @contextmanager
    def pgevents_observe(self, operation: Operation) -> Generator[None, None, None]:
        self.seen.append(f"<{operation.name}")
        self.operations.append(operation)
        try:
            yield
        except BaseException as error:
            self.seen.append(type(error).__name__)
            raise
        finally:
            self.seen.append(f"{operation.name}>")


def test_operations_nest_as_the_work_does(open_client: MakeClient) -> None:
    """A decision holds the read, the fold and the validated save, each with its results at its end."""
    told = Observer()
    client = open_client(told)
    client.decide(CartProjection("c1", client), lambda cart: C1)
    assert " ".join(told.seen) == "<decide <read read> <fold fold> <validate validate> decide>"
    decide, read, fold, validate = told.operations
    assert (decide.projection, decide.attempt, decide.events) == ("SHOPPING_CART", 1, 1)
    assert read.streams[0].match == (("cart_id", ("c1",)),) and read.events == fold.events == 0
    assert (validate.types, validate.status, validate.events) == (("CART_CREATED",), "saved", 1)
    assert validate.lock_wait is not None and 0 <= validate.lock_wait < 5


def test_an_observer_cannot_change_what_others_see(open_client: MakeClient) -> None:
    """An operation is to be read; the error of a plugin that writes to it is logged, and the save stands."""
    told = Observer()

    class Writing:
        @hookimpl
        @contextmanager
        def pgevents_observe(self, operation: Any) -> Generator[None, None, None]:
            yield
            operation.events = 7

    saved = open_client(told, Writing()).save_event(C1)
    assert (saved.id, told.operations[0].events) == (1, 1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        told.operations[0].status = "repeated"  # type: ignore[misc]


def test_an_observer_sees_errors_and_cannot_hide_them(
    open_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The conflict passes through it to the caller; an error of the observer itself is only logged."""

    class Suppressing:
        @hookimpl
        def pgevents_observe(self) -> Any:
            class Manager:
                def __enter__(self) -> None: ...

                def __exit__(self, *error: object) -> bool:
                    return True

            return Manager()

    class Broken:
        @hookimpl
        def pgevents_observe(self) -> Any:
            raise LookupError("collector is down")

    told = Observer()
    client = open_client(told, Suppressing(), Broken())
    client.save_event(C1)
    told.seen.clear()
    with pytest.raises(ConcurrencyError):
        client.save_event_with_stream_validation(C1, None, stream(cart_id="c1"))
    assert told.seen == ["<validate", "ConcurrencyError", "validate>"]
    assert "pgevents_observe of the plugin Broken failed" in caplog.text


# -- wrappers ------------------------------------------------------------


def test_a_wrapper_goes_around_a_chain(open_client: MakeClient) -> None:
    """It sees what the callers gave, then what all plugins made of it, and has the last word."""
    seen: list[str] = []

    class Wrapper:
        @hookimpl(wrapper=True)
        def pgevents_before_save(
            self, events: Sequence[NewEvent]
        ) -> Generator[None, list[NewEvent], list[NewEvent]]:
            seen.append(events[0].metadata.get("note", ""))
            made = yield
            seen.append(made[0].metadata["note"])
            return [attrs.evolve(new, metadata={"note": new.metadata["note"] + "!"}) for new in made]

    client = open_client(Wrapper(), Noted("b"), Noted("a"))
    assert client.save_event(C1).metadata == {"note": "ab!"}
    assert seen == ["", "ab"]


def test_a_wrapper_may_turn_a_veto_round(open_client: MakeClient) -> None:
    """An exception inside reaches the wrapper, which may answer with events of its own; or with another
    error."""

    class Veto:
        @hookimpl
        def pgevents_before_save(self) -> None:
            raise LookupError("no")

    class Wrapper:
        @hookimpl(wrapper=True)
        def pgevents_before_save(self, events: Sequence[NewEvent]) -> Generator[None, Any, Any]:
            try:
                return (yield)
            except LookupError:
                if events[0].data.cart_id == "c2":
                    raise KeyError("still no") from None
                return list(events)

    client = open_client(Veto(), Wrapper())
    assert client.save_event(C1).data == C1
    with pytest.raises(KeyError, match="still no"):
        client.save_event(C2)


def test_wrappers_go_around_every_other_hook(
    open_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """After a save, after the commit and around a snapshot; an error of one after the commit is logged."""
    seen: list[str] = []

    def wrapper(name: str) -> Any:
        def around(self: object) -> Generator[None, Any, Any]:
            seen.append(f"<{name}")
            result = yield
            seen.append(f"{name}>")
            if name == "after_commit":
                raise LookupError("logged")
            return result

        return hookimpl(wrapper=True)(around)

    names = ("after_save", "after_commit", "before_snapshot", "after_snapshot", "before_decode")
    told, snapshots = Committed(), Snapshots()
    client = open_client(
        told, snapshots, type("Around", (), {f"pgevents_{name}": wrapper(name) for name in names})()
    )
    client.save_event(C1)
    assert told.seen == [["c1"]]
    assert CartProjection("c1", client).save_projection().projection.data.user_id == "someone"
    expected = "<before_decode before_decode> <after_save after_save> <after_commit after_commit>"
    assert " ".join(seen[:6]) == expected
    assert (
        " ".join(seen[6:])
        == "<before_decode before_decode> <before_snapshot before_snapshot> <after_snapshot after_snapshot>"
    )
    assert "pgevents_after_commit of the plugin Around failed" in caplog.text


def test_create_tables_lets_plugins_make_theirs(open_client: MakeClient) -> None:
    """In the same transaction: a plugin that fails leaves nothing half made."""

    class Outbox:
        @hookimpl
        def pgevents_create_tables(self, client: EventClient) -> None:
            client.db.execute_sql("CREATE TABLE IF NOT EXISTS outbox (id bigint)")

    client = open_client(Outbox())
    client.create_tables()
    assert client.db.table_exists("outbox")


def test_nothing_is_logged_when_all_is_well(
    open_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The library's own logger stays silent."""
    caplog.set_level(logging.DEBUG, "pgevents")
    client = open_client(Committed(), Observer())
    client.save_event(CartCheckedOut("c1", client.save_event(C1).created_at))
    assert caplog.records == []
