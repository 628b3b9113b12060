"""Placing an order: a row of Django's and an event, together or not at all."""

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from pgevents.django import joined
from shop.models import Order
from shop.store import OrderPlaced, ShelfProjection, SoldOut, client


@csrf_exempt  # of the example only
@require_POST
def place_order(request: HttpRequest) -> JsonResponse:
    tea, tins = request.POST["tea"], int(request.POST["tins"])
    try:
        with transaction.atomic(), joined(client):
            order = Order.objects.create(customer=request.POST["customer"], tea=tea, tins=tins)

            def place(shelf):
                if shelf.tins < tins:
                    raise SoldOut(tea)
                return OrderPlaced(tea, order.pk, tins)

            client.decide(ShelfProjection(tea, client), place)
    except SoldOut:
        return JsonResponse({"error": f"there are not {tins} tins of {tea} left"}, status=409)
    return JsonResponse({"order": order.pk}, status=201)
