"""The pages: plain forms, and a redirect after each of them, so that reload and back are harmless."""

from __future__ import annotations

import re

from flask import Blueprint, abort, flash, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response

from pgevents.flask import get_or_404

from . import carts
from .domain import Cart, Shelf

pages = Blueprint("pages", __name__)


def cart_id() -> str:
    """The customer's cart; it is opened by the first tin."""
    return str(session.setdefault("cart_id", carts.new_id()))


@pages.app_context_processor
def cart_in_the_corner() -> dict[str, object]:
    return {"tins_in_cart": lambda: Cart(session["cart_id"]).view.tins if "cart_id" in session else 0}


@pages.get("/")
def shelf() -> str:
    return render_template("shelf.html", teas=Shelf("all").view.teas.values())


@pages.get("/cart")
def cart() -> str:
    mine = Cart(cart_id())
    return render_template("cart.html", cart=mine.view, seen=mine.position.last_id)


@pages.post("/cart/add")
def add() -> Response:
    carts.add(cart_id(), request.form["tea_id"])
    flash("A tin was put into your cart.")
    return redirect(url_for(".shelf"), 303)


@pages.post("/cart/remove")
def remove() -> Response:
    carts.remove(cart_id(), request.form["tea_id"])
    return redirect(url_for(".cart"), 303)


@pages.post("/cart/checkout")
def check_out() -> Response:
    seen, bought = request.form["seen"], request.form["cart_id"]
    if not re.fullmatch("[0-9]{1,18}", seen):
        abort(400)
    carts.check_out(bought, int(seen))
    if bought == cart_id():
        del session["cart_id"]
    return redirect(url_for(".order", order_id=bought), 303)


@pages.get("/orders/<order_id>")
def order(order_id: str) -> str:
    found = get_or_404(Cart, order_id, "There is no such order.").view
    if not found.is_checked_out:
        abort(404, "This cart is not paid yet.")
    return render_template("order.html", order=found)
