"""Django's own tests: they run on Django's test database, which the client finds by itself."""

from concurrent.futures import ThreadPoolExecutor

from django.contrib.auth.models import User
from django.db import connection, transaction
from django.test import Client, TestCase, TransactionTestCase

from pgevents import UnsupportedTransactionError
from pgevents.django import joined
from shop.models import Order, StoredEvent
from shop.store import ShelfProjection, TinsDelivered, client


def placed(tins: int = 1) -> int:
    """Order tea; the answer's status."""
    try:
        return Client().post("/orders/", {"customer": "Ada", "tea": "Pu-erh", "tins": tins}).status_code
    finally:
        connection.close()
        client.db.close()


class InATestCase(TestCase):
    """A test in a transaction, which Django rolls back at the end."""

    def test_order_and_event_stand_together(self):
        with joined(client):
            client.save_event(TinsDelivered("Sencha", 3))
        order = {"customer": "Ada", "tea": "Sencha", "tins": 2}
        self.assertEqual(self.client.post("/orders/", order).status_code, 201)
        self.assertEqual(self.client.post("/orders/", order).status_code, 409)
        self.assertEqual(Order.objects.count(), 1)
        self.assertEqual([e.type for e in StoredEvent.objects.all()], ["OrderPlaced", "TinsDelivered"])
        with joined(client):
            self.assertEqual(ShelfProjection("Sencha", client).view.tins, 1)
        self.assertEqual(len(client.get_event_stream(tea="Sencha")), 0)  # not outside
        client.db.close()

    def test_a_savepoint_takes_its_events_along(self):
        with self.assertRaises(ZeroDivisionError), transaction.atomic(), joined(client):
            client.save_event(TinsDelivered("Sencha", 3))
            raise ZeroDivisionError
        self.assertEqual(StoredEvent.objects.count(), 0)

    def test_the_admin_shows_the_log_and_changes_nothing(self):
        with joined(client):
            saved = client.save_event(TinsDelivered("Sencha", 3))
        self.client.force_login(User.objects.create_superuser("root"))
        self.assertContains(self.client.get("/admin/shop/storedevent/"), "TinsDelivered")
        page = f"/admin/shop/storedevent/{saved.id}"
        self.assertContains(self.client.get(f"{page}/change/"), "Sencha")
        self.assertEqual(self.client.post(f"{page}/delete/", {"post": "yes"}).status_code, 403)


class OnItsOwn(TransactionTestCase):
    """A test whose transactions are committed. Django truncates its tables afterwards, not the log."""

    def setUp(self):
        self.addCleanup(client.db.close)

    def test_the_last_tins_are_sold_once(self):
        client.save_event(TinsDelivered("Pu-erh", 3))
        with self.assertLogs("shop") as logs, ThreadPoolExecutor(6) as pool:
            answers = sorted(pool.map(lambda _: placed(), range(6)))
        self.assertEqual(answers, [201, 201, 201, 409, 409, 409])
        self.assertEqual(Order.objects.count(), 3)
        self.assertEqual(ShelfProjection("Pu-erh", client).view.tins, 0)
        certain = {f"INFO:shop:order {order.pk} is certain" for order in Order.objects.all()}
        self.assertEqual({*logs.output}, certain)

    def test_outside_of_atomic_it_is_refused(self):
        with self.assertRaisesRegex(UnsupportedTransactionError, "autocommit"), joined(client):
            client.save_event(TinsDelivered("Pu-erh", 3))
