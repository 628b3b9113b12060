"""Following the log: in order, none skipped, and where it stands is never guessed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from pgevents import (
    ConfigurationError,
    Event,
    EventClient,
    create_event_client,
    create_events_table,
    create_projections_table,
    stream,
)
from pgevents.subscriptions import Subscription, checkpoint, follow, reset, resume

from .shop import CartCreated, CartProjection, ItemAddedToCart

Make = Callable[..., EventClient]


def carts(*numbers: int) -> list[CartCreated]:
    return [CartCreated(f"c{number}", "u1") for number in numbers]


def first(client: EventClient, count: int, **options: object) -> list[int]:
    found = itertools.islice(follow(client, **options), count)  # type: ignore[arg-type]
    return [event.id for event in found]


def test_a_follower_gets_what_stands_and_what_comes(client: EventClient) -> None:
    """It begins with the first event and goes on where it stopped."""
    client.save_events(carts(1, 2))
    events = follow(client, poll=0.01)
    assert [next(events).id, next(events).id] == [1, 2]
    client.save_event(CartCreated("c3", "u1"))
    assert next(events).id == 3


def test_a_late_event_is_not_skipped(client: EventClient, make_client: Make) -> None:
    """An id that was taken first and committed last is delivered first: nothing above it comes before."""
    slow = make_client()
    subscription = Subscription(client, "all")
    seen: list[int] = []
    with slow.db.atomic():
        slow.save_event(CartCreated("slow", "u1"))
        client.save_event(CartCreated("quick", "u1"))
        assert subscription.process(lambda event: seen.append(event.id)) == 0
    subscription.process(lambda event: seen.append(event.id))
    assert seen == [1, 2]


def test_a_follower_of_one_stream_does_not_wait_for_another(client: EventClient, make_client: Make) -> None:
    """Only writers of what it follows hold it back."""
    slow = make_client()
    with slow.db.atomic():
        slow.save_event(CartCreated("c1", "u1"))
        client.save_event(CartCreated("c2", "u1"))
        assert first(client, 1, streams=[stream(cart_id="c2")]) == [2]


def test_the_checkpoint_moves_with_what_the_handler_wrote(client: EventClient) -> None:
    """Both commit together, or the event is delivered again; a handler that saves ends the batch."""
    client.save_events(carts(1, 2))
    subscription = Subscription(client, "copier", [stream(CartCreated)])

    def copy(event: Event[CartCreated]) -> None:
        client.save_event(ItemAddedToCart(event.data.cart_id, "gift", 1, 0))
        if event.data.cart_id == "c2" and not forgiving:
            raise RuntimeError("no")

    forgiving = False
    with pytest.raises(RuntimeError):
        subscription.process(copy)
    assert (subscription.position(), len(client.get_event_stream(ItemAddedToCart))) == (1, 1)
    forgiving = True
    assert (subscription.process(copy), subscription.process(copy)) == (1, 0)
    assert [event.data.cart_id for event in client.get_event_stream(ItemAddedToCart)] == ["c1", "c2"]


def test_batches_end_where_they_are_told(client: EventClient) -> None:
    """A limited batch leaves the rest for the next."""
    client.save_events(carts(1, 2, 3))
    subscription = Subscription(client, "small")
    sizes = [subscription.process(lambda event: None, limit=2) for _ in range(3)]
    assert sizes == [2, 1, 0]


def test_one_works_and_the_others_stand_by(client: EventClient, make_client: Make) -> None:
    """While one process has a batch in hand, another gets nothing, and afterwards nothing twice."""
    client.save_events(carts(1, 2))
    other = Subscription(make_client(), "shared")
    with Subscription(client, "shared").batch() as events:
        assert len(events) == 2
        assert other.process(lambda event: None) == 0
    assert other.process(lambda event: None) == 0


def test_run_ends_when_it_is_told_to(client: EventClient) -> None:
    """The stop event ends the loop after the batch in hand."""
    client.save_events(carts(1, 2, 3))
    stop = threading.Event()
    seen: list[int] = []

    def handle(event: Event[object]) -> None:
        seen.append(event.id)
        if event.id == 3:
            stop.set()

    Subscription(client, "runner").run(handle, poll=0.01, stop=stop)
    assert seen == [1, 2, 3]


def test_other_streams_under_the_same_name_are_refused(client: EventClient) -> None:
    """What the old streams left out would be skipped; a reset starts anew."""
    client.save_events([ItemAddedToCart("c1", "gift", 1, 0), *carts(1)])
    Subscription(client, "mailer", [stream(CartCreated)]).process(lambda event: None)
    wider = Subscription(client, "mailer")
    with pytest.raises(ConfigurationError, match="other streams"):
        wider.process(lambda event: None)
    wider.reset()
    assert wider.process(lambda event: None) == 2


def test_a_place_ahead_of_the_log_is_refused(client: EventClient) -> None:
    """Ids beyond the last one issued mean that the database was set back."""
    client.save_events(carts(1))
    with pytest.raises(ConfigurationError, match="set back"):
        next(follow(client, after=99))
    subscription = Subscription(client, "ahead")
    subscription.process(lambda event: None)
    client.db.execute_sql("UPDATE my_app.events_checkpoints SET position = 99")
    with pytest.raises(ConfigurationError, match="set back"):
        subscription.process(lambda event: None)


def test_a_truncated_log_stops_its_subscriptions(client: EventClient) -> None:
    """The ids begin anew, so the place would pass over as many events as it has seen."""
    subscription = Subscription(client, "carts")
    client.save_events(carts(*range(20)))
    assert subscription.process(lambda event: None) == 20
    with client.maintenance("a new year"):
        client.db.execute_sql("TRUNCATE my_app.events RESTART IDENTITY")
    client.save_events(carts(*range(30)))
    with pytest.raises(ConfigurationError, match="truncated: reset the subscription"):
        subscription.process(lambda event: None)
    reset(client, "carts")
    resume(client, "carts")
    assert subscription.process(lambda event: None) == 30


def test_a_log_is_not_made_beside_what_is_left_of_another(client: EventClient) -> None:
    """Places and snapshots of a dropped log stand at ids that will be those of other events."""
    subscription = Subscription(client, "carts")
    client.save_event(carts(1)[0])
    CartProjection("c1", client).save_projection()
    subscription.process(lambda event: None)
    client.db.execute_sql("DROP TABLE my_app.events CASCADE")
    for table in ("events_checkpoints", "views"):
        with pytest.raises(ConfigurationError, match=f"DROP TABLE .*{table}"):
            client.create_tables()
        client.db.execute_sql(f"DROP TABLE my_app.{table}")
    client.create_tables()
    client.save_events(carts(2, 3))
    assert subscription.process(lambda event: None) == 2


def test_a_checkpoint_kept_outside_knows_its_server(client: EventClient) -> None:
    """It is good for this server and this past of it, and for no other."""
    client.save_events(carts(1, 2))
    place = checkpoint(client, 1)
    assert first(client, 1, after=place) == [2]
    log, timeline, event_id = place.split("/")
    for foreign in (f"1{log}/{timeline}/{event_id}", f"{log}/{int(timeline) + 1}/{event_id}"):
        with pytest.raises(ConfigurationError, match="another log or another timeline"):
            next(follow(client, after=foreign))
    for text in ("1", "1/2/3/4", f"{log}/{timeline}/²"):
        with pytest.raises(ConfigurationError, match="system.database.table/timeline/id"):
            next(follow(client, after=text))


def test_a_checkpoint_of_another_log_is_refused(client: EventClient) -> None:
    """A log beside it, and one that was made anew in its place, give out the same ids for other events."""
    client.save_events(carts(1, 2))
    place = checkpoint(client, 1)
    beside = create_event_client(client.db, create_events_table("beside"), create_projections_table("beside"))
    beside.create_tables()
    beside.save_events(carts(1, 2))
    with pytest.raises(ConfigurationError, match="another log"):
        next(follow(beside, after=place))
    client.db.execute_sql("DROP TABLE my_app.events CASCADE")
    client.create_tables()
    client.save_events(carts(1, 2, 3))
    with pytest.raises(ConfigurationError, match="another log"):
        next(follow(client, after=place))
