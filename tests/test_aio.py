"""The calls of a client, awaited: results, transactions, cancelled tasks, connections."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pgevents import (
    ConcurrencyError,
    ConfigurationError,
    Event,
    EventClient,
    UnsupportedTransactionError,
    hookimpl,
    stream,
)
from pgevents.aio import AsyncEventClient, AsyncRunner, subscription
from pgevents.subscriptions import retry

from .conftest import database, shop_client
from .shop import CartCreated, CartEvent, CartProjection, CartView, ItemAddedToCart

Shop = Callable[..., Any]
Test = Callable[[AsyncEventClient], Coroutine[Any, Any, None]]


@asynccontextmanager
async def opened(client: EventClient, **options: Any) -> AsyncGenerator[AsyncEventClient, None]:
    async with AsyncEventClient(client, **options) as shop:
        yield shop


def run(client: EventClient, test: Test, **options: Any) -> None:
    """Run a test in an event loop of its own, and look whether a connection came back dirty."""

    async def main() -> None:
        async with opened(client, **options) as shop:
            await test(shop)
            statuses = await asyncio.gather(
                *[shop.run(lambda client: client.db.in_transaction()) for _ in range(5)]
            )
            assert not any(statuses)

    asyncio.run(asyncio.wait_for(main(), 60))


def added(cart: str = "c1", quantity: int = 1) -> ItemAddedToCart:
    return ItemAddedToCart(cart, "p1", quantity, 5)


def connections(client: EventClient) -> int:
    """How many connections others have to the database."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    (count,) = client.db.execute_sql(sql + " AND backend_type = 'client backend'").fetchone()
    return int(count)


def test_every_call_of_the_client_can_be_awaited() -> None:
    """None is forgotten: what is public there is public here, but for what needs no database of its own."""
    plain = {"create_tables_sql", "joined", "maintenance", "preview", "project", "view_fields"}
    calls = {name for name, _ in inspect.getmembers(EventClient, inspect.isfunction) if name[0] != "_"}
    assert calls - plain == {name for name in calls if hasattr(AsyncEventClient, name)}


def test_saves_reads_and_decisions(client: EventClient) -> None:
    """Results are those of the sync client."""

    async def test(shop: AsyncEventClient) -> None:
        saved = await shop.save_event(CartCreated("c1", "u1"))
        await shop.save_events([added(), added("c2")])
        history = await shop.get_event_stream(CartEvent, cart_id="c1")
        assert [event.data for event in history] == [saved.data, added()]
        assert await shop.get_latest_event(CartCreated, cart_id="c1") == saved
        assert [event async for event in shop.iter_event_stream(CartEvent, cart_id="c1")] == list(history)
        assert [event async for event in shop.iter_event_streams([stream(CartEvent)], limit=2)] == list(
            history
        )
        await shop.save_event_with_stream_validation(added(), history)
        with pytest.raises(ConcurrencyError):
            await shop.save_event_with_stream_validation(added(), history)

        def decider(cart: CartView) -> ItemAddedToCart | None:
            return added() if cart.total < 20 else None

        for _ in range(4):
            await shop.decide(CartProjection("c1", shop.client), decider)
        assert (await shop.view(CartProjection("c1", shop.client))).total == 20
        assert (await shop.save_projection(CartProjection("c1", shop.client))).status == "created"
        (found,) = await shop.query_projections(CartProjection, user_id="u1")
        assert found.data.total == 20
        assert (await shop.horizon()).id == 6

    run(client, test)


def test_many_tasks_share_few_connections(client: EventClient) -> None:
    """They wait for each other, and every decision counts."""

    async def test(shop: AsyncEventClient) -> None:
        await shop.save_event(CartCreated("c1", "u1"))

        async def buy() -> None:
            await shop.decide(CartProjection("c1", shop.client), lambda cart: added(), retries=100)

        await asyncio.gather(*[buy() for _ in range(40)])
        assert (await shop.view(CartProjection("c1", shop.client))).total == 200
        assert connections(client) <= 3 + 1

    run(client, test, connections=3)


def test_a_transaction_stays_on_its_connection(client: EventClient) -> None:
    """Committed together, rolled back together, savepoints inside; others do not see it before."""

    async def test(shop: AsyncEventClient) -> None:
        async with shop.atomic():
            await shop.save_event(CartCreated("c1", "u1"))
            with pytest.raises(ZeroDivisionError):
                async with shop.atomic():
                    await shop.save_event(added())
                    1 / 0  # noqa: B018
            assert len(await shop.get_event_stream()) == 1
            assert len(client.get_event_stream()) == 0
        assert len(client.get_event_stream()) == 1
        with pytest.raises(ZeroDivisionError):
            async with shop.atomic():
                await shop.save_event(added())
                1 / 0  # noqa: B018
        assert len(await shop.get_event_stream()) == 1

    run(client, test)


def test_transactions_of_two_tasks_are_two(client: EventClient) -> None:
    """Also when they take turns."""

    async def test(shop: AsyncEventClient) -> None:
        both = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None

        async def one(name: str, fails: bool) -> None:
            async with shop.atomic():
                await shop.save_event(CartCreated(name, "u1"))
                if both is not None:
                    await both.wait()
                if fails:
                    raise ValueError(name)

        outcomes = await asyncio.gather(one("c1", False), one("c2", True), return_exceptions=True)
        assert outcomes[0] is None and isinstance(outcomes[1], ValueError)
        assert [event.data.cart_id for event in client.get_event_stream(CartCreated)] == ["c1"]

    run(client, test)


def test_a_transaction_belongs_to_its_task(client: EventClient) -> None:
    """A task started in the block may save in it, begins no savepoint, and is refused when it has ended."""

    async def test(shop: AsyncEventClient) -> None:
        async def savepoint() -> None:
            async with shop.atomic():
                pass

        async def later() -> None:
            await asyncio.sleep(0.05)
            await shop.save_event(added())

        async with shop.atomic():
            await asyncio.create_task(shop.save_event(CartCreated("c1", "u1")))
            with pytest.raises(UnsupportedTransactionError, match="belongs to the task that began it"):
                await asyncio.create_task(savepoint())
            late = asyncio.create_task(later())
        with pytest.raises(UnsupportedTransactionError, match="started inside a transaction that has ended"):
            await late
        assert len(client.get_event_stream()) == 1

    run(client, test)


@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_a_cancelled_task_leaves_nothing_half_done(client: EventClient, is_in_transaction: bool) -> None:
    """Its statement is cancelled, its transaction rolled back, and the connection serves the next."""

    async def test(shop: AsyncEventClient) -> None:
        async def sleep() -> None:
            await shop.run(lambda client: client.db.execute_sql("SELECT pg_sleep(30)"))

        async def sleep_in_transaction() -> None:
            async with shop.atomic():
                await shop.save_event(added())
                await sleep()

        for _ in range(5):
            task = asyncio.create_task(sleep_in_transaction() if is_in_transaction else sleep())
            await asyncio.sleep(0.1)
            started = asyncio.get_running_loop().time()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.get_running_loop().time() - started < 10
            await shop.save_event(CartCreated("c1", "u1"))
        assert [event.type for event in client.get_event_stream()] == ["CART_CREATED"] * 5

    run(client, test, connections=1)


def test_a_task_cancelled_before_it_connects_does_nothing(
    client: EventClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no statement yet that could be cancelled."""
    connect, called = client.session.connection, list[int]()

    def slowly(self: Any) -> Any:
        time.sleep(0.3)
        return connect()

    monkeypatch.setattr(type(client.session), "connection", slowly)

    async def test(shop: AsyncEventClient) -> None:
        task = asyncio.create_task(shop.run(lambda _: called.append(1)))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(client, test)
    assert called == []


def test_a_task_that_waits_for_its_turn_is_cancelled_alone(client: EventClient) -> None:
    """In a transaction the statement that runs is another task's."""

    async def test(shop: AsyncEventClient) -> None:
        async with shop.atomic():
            first = asyncio.create_task(shop.run(lambda c: c.db.execute_sql("SELECT pg_sleep(0.5)")))
            await asyncio.sleep(0.1)
            second = asyncio.create_task(shop.save_event(added()))
            await asyncio.sleep(0.1)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            await first
            await shop.save_event(CartCreated("c1", "u1"))
        assert [event.type for event in client.get_event_stream()] == ["CART_CREATED"]

    run(client, test)


def test_a_task_that_is_cancelled_again_waits_all_the_same(client: EventClient) -> None:
    """Nothing goes on behind its back."""
    ended: list[int] = []
    begun = threading.Event()

    def work(_: EventClient) -> None:
        begun.set()
        time.sleep(0.4)
        ended.append(1)

    async def test(shop: AsyncEventClient) -> None:
        task = asyncio.create_task(shop.run(work))
        while not begun.is_set():
            await asyncio.sleep(0.01)
        for _ in range(3):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [1]

    run(client, test)


def test_tasks_cancelled_at_any_moment(client: EventClient) -> None:
    """A transaction is there whole or not at all, and no later task pays for it."""

    async def test(shop: AsyncEventClient) -> None:
        async def pair(n: int) -> None:
            async with shop.atomic():
                await shop.save_event(CartCreated(f"c{n}", "u1"))
                await shop.save_event(added(f"c{n}"))

        done = 0
        for n in range(60):
            task = asyncio.create_task(pair(n))
            await asyncio.sleep(n % 12 * 0.001)
            task.cancel()
            try:
                await task
                done += 1
            except asyncio.CancelledError:
                pass
            await shop.save_event(CartCreated("other", "u1"))
        counts: dict[str, int] = {}
        for event in client.get_event_stream(CartEvent):
            counts[event.data.cart_id] = counts.get(event.data.cart_id, 0) + 1
        assert counts.pop("other") == 60
        assert set(counts.values()) <= {2} and len(counts) >= done

    run(client, test, connections=2)


def test_following_ends_when_the_loop_is_left(client: EventClient) -> None:
    """With what stands and what comes; its thread and connection end."""

    async def test(shop: AsyncEventClient) -> None:
        await shop.save_event(added(quantity=1))
        before = connections(client)
        seen: list[int] = []

        async def save_more() -> None:
            for quantity in (2, 3):
                await asyncio.sleep(0.05)
                await shop.save_event(added(quantity=quantity))

        saving = asyncio.create_task(save_more())
        follower = shop.follow([stream(ItemAddedToCart)])
        async for event in follower:
            seen.append(event.data.quantity)
            if len(seen) == 3:
                break
        await follower.aclose()
        await saving
        assert seen == [1, 2, 3]

        async def wait_for_ever() -> None:
            async for event in shop.follow([stream(CartCreated)], poll=5):
                raise AssertionError(event)

        task = asyncio.create_task(wait_for_ever())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.1)
        assert connections(client) <= before

    run(client, test)


def test_hooks_see_the_context_of_the_task(url: str) -> None:
    """A request's id in a context variable is there when a plugin makes metadata of it."""
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")
    seen: list[str] = []

    class Notes:
        @hookimpl
        def pgevents_after_save(self) -> None:
            seen.append(request.get())

    client = shop_client(database(url), plugins=[Notes()])
    client.create_tables()

    async def test(shop: AsyncEventClient) -> None:
        async def handle(name: str) -> None:
            request.set(name)
            await shop.save_event(CartCreated("c1", "u1"))

        await asyncio.gather(handle("r1"), handle("r2"))

    run(client, test)
    assert sorted(seen) == ["r1", "r2"]


def test_what_cannot_work_is_refused(client: EventClient) -> None:
    """Another loop, a closed client, wrong arguments, a connection for all threads."""
    with pytest.raises(ConfigurationError, match="takes an EventClient"):
        AsyncEventClient("postgresql://")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="whole number from 1 on"):
        AsyncEventClient(client, connections=0)
    shop = AsyncEventClient(client)
    asyncio.run(shop.check_installed())
    with pytest.raises(ConfigurationError, match="one event loop"):
        asyncio.run(shop.check_installed())
    asyncio.run(shop.close())
    with pytest.raises(ConfigurationError, match="was closed"):
        asyncio.run(shop.check_installed())


# -- subscriptions ------------------------------------------------------------


def test_async_handlers_are_awaited(client: EventClient) -> None:
    """In the loop, each event, in the order of its key; an error is tried again."""
    handled: list[tuple[str, int]] = []
    failures = [1]

    @subscription("aio mails", ItemAddedToCart, key="cart_id", on_error=retry(5, delay=0.01))
    async def send(event: Event[ItemAddedToCart]) -> None:
        await asyncio.sleep(0.001)
        if failures:
            failures.pop()
            raise ConnectionError("no mail server")
        handled.append((event.data.cart_id, event.data.quantity))

    async def test(shop: AsyncEventClient) -> None:
        await shop.save_events([added(f"c{n % 3}", n + 1) for n in range(30)])
        runner = AsyncRunner(shop, [send], poll=0.01)
        running = asyncio.create_task(runner.run(workers=3))
        while len(handled) < 30:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    run(client, test)
    for cart in ("c0", "c1", "c2"):
        quantities = [quantity for name, quantity in handled if name == cart]
        assert quantities == sorted(set(quantities)) and len(quantities) == 10


def test_handlers_of_the_wrong_kind_are_refused(client: EventClient) -> None:
    """A plain function here, an async one there, an async one run by a plain runner."""
    with pytest.raises(ConfigurationError, match="is not an async function"):

        @subscription("aio plain", ItemAddedToCart)  # type: ignore[arg-type]
        def plain(event: Any) -> None: ...

    async def test(shop: AsyncEventClient) -> None:
        with pytest.raises(ConfigurationError, match="at least one subscription"):
            AsyncRunner(shop, [])

    run(client, test)
