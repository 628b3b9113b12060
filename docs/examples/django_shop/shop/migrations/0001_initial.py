"""Django's table, the log's tables, and the model to look at the log."""

from django.db import migrations, models

from pgevents.django import create_tables
from shop.store import client


class Migration(migrations.Migration):
    initial = True
    operations = [
        create_tables(client),
        migrations.CreateModel(
            name="Order",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("customer", models.CharField(max_length=100)),
                ("tea", models.CharField(max_length=100)),
                ("tins", models.PositiveIntegerField()),
            ],
        ),
        migrations.CreateModel(
            name="StoredEvent",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("type", models.TextField()),
                ("data", models.JSONField()),
                ("metadata", models.JSONField()),
                ("created_at", models.DateTimeField()),
            ],
            options={"db_table": "shop_events", "ordering": ["-id"], "managed": False},
        ),
    ]
