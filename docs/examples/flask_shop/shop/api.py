"""The same shop for programs: JSON in, JSON out, errors too."""

from __future__ import annotations

from typing import Any, cast

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest, HTTPException

from pgevents.flask import get_or_404

from . import carts
from .domain import Cart, Shelf

api = Blueprint("api", __name__, url_prefix="/api")
Json = dict[str, Any]
KINDS: dict[type[Any], str] = {str: "a text", int: "a whole number from 0 on"}


@api.errorhandler(HTTPException)
def error(error: HTTPException) -> tuple[Response, int]:
    return jsonify(error=error.name, message=error.description), error.code or 500


def field(name: str, kind: type[Any]) -> Any:
    """A field of the request's body, of the right type."""
    try:
        body: Any = request.get_json()
    except RecursionError:
        raise BadRequest("The body is nested too deeply.") from None
    value: Any = cast(Json, body).get(name) if isinstance(body, dict) else None
    if type(value) is not kind or (kind is int and not 0 <= value < 2**63):
        raise BadRequest(f"The body is a JSON object with {name!r}, {KINDS[kind]}.")
    return value


def shown(cart_id: str) -> Json:
    """A cart, and the event up to which it is known, for the checkout."""
    cart = get_or_404(Cart, cart_id, "There is no such cart.")
    return {**cart.as_json(), "seen": cart.position.last_id}


@api.get("/teas")
def teas() -> Json:
    return Shelf("all").as_json()


@api.post("/carts")
def open_cart() -> tuple[Json, int]:
    return shown(carts.open_cart()), 201


@api.get("/carts/<cart_id>")
def cart(cart_id: str) -> Json:
    return shown(cart_id)


@api.post("/carts/<cart_id>/items")
def add(cart_id: str) -> tuple[Json, int]:
    get_or_404(Cart, cart_id, "There is no such cart.")
    carts.add(cart_id, field("tea_id", str))
    return shown(cart_id), 201


@api.delete("/carts/<cart_id>/items/<tea_id>")
def remove(cart_id: str, tea_id: str) -> Json:
    get_or_404(Cart, cart_id, "There is no such cart.")
    carts.remove(cart_id, tea_id)
    return shown(cart_id)


@api.post("/carts/<cart_id>/checkout")
def check_out(cart_id: str) -> tuple[Json, int]:
    carts.check_out(cart_id, field("seen", int))
    return shown(cart_id), 201
