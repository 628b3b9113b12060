"""The admin: orders, and the log, which can only be read."""

from django.contrib import admin

from shop.models import Order, StoredEvent

admin.site.register(Order)


@admin.register(StoredEvent)
class StoredEventAdmin(admin.ModelAdmin):
    list_display = ["id", "type", "data", "created_at"]
    list_filter = ["type"]

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False
