"""Django's own table, and the log as a model to look at."""

from django.db import models


class Order(models.Model):
    customer = models.CharField(max_length=100)
    tea = models.CharField(max_length=100)
    tins = models.PositiveIntegerField()

    def __str__(self) -> str:
        return f"{self.tins} x {self.tea} for {self.customer}"


class StoredEvent(models.Model):
    """An event as it is stored, to be read: the table is pgevents', so Django does not manage it."""

    id = models.BigIntegerField(primary_key=True)
    type = models.TextField()
    data = models.JSONField()
    metadata = models.JSONField()
    created_at = models.DateTimeField()

    class Meta:
        managed = False
        db_table = "shop_events"
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.id} {self.type}"
