"""The FastAPI example: in process by httpx, and under uvicorn with several workers that race."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgevents import EventTypes

from .test_plugins_example import as_url

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "fastapi_shop"
STAY = {"room": 12, "first": "2026-12-30", "nights": 3, "guest": "Ada"}


@pytest.fixture
def app(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The example's application; its event types stay among themselves."""
    monkeypatch.setattr(EventTypes, "everything", EventTypes())
    monkeypatch.setenv("DATABASE_URL", as_url(url))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from app.main import app

    yield app
    for name in [name for name in sys.modules if name.split(".")[0] == "app"]:
        del sys.modules[name]


def test_the_shop_and_the_hotel(app: Any) -> None:
    """Orders, repeats, stays that overlap, and what is refused."""

    async def run() -> None:
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as http,
        ):
            assert (await http.post("/shop/Pu-erh/deliveries", json={"tins": 3})).status_code == 201
            order = {"tins": 2, "customer": "Ada"}
            first = await http.post("/shop/Pu-erh/orders", json=order, headers={"Idempotency-Key": "k"})
            again = await http.post("/shop/Pu-erh/orders", json=order, headers={"Idempotency-Key": "k"})
            assert first.status_code == 201 and first.json() == again.json()
            answers = await asyncio.gather(
                *[http.post("/shop/Pu-erh/orders", json={**order, "tins": 1}) for _ in range(8)]
            )
            assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 7}
            assert (await http.get("/shop/Pu-erh")).json() == {"tins": 0}
            assert (
                await http.post("/shop/Pu-erh/orders", json={"tins": 0, "customer": "x"})
            ).status_code == 422

            stays = [{**STAY, "first": f"2026-12-{day}", "guest": f"g{day}"} for day in range(20, 29)]
            booked = await asyncio.gather(*[http.post("/hotel/stays", json=stay) for stay in stays])
            nights = [night for one in booked if one.status_code == 201 for night in one.json()["nights"]]
            assert nights and len(nights) == len(set(nights)) and len(nights) % 3 == 0
            won = next(stay for stay, one in zip(stays, booked, strict=True) if one.status_code == 201)
            other = {**won, "guest": "somebody else"}
            assert (await http.request("DELETE", "/hotel/stays", json=other)).status_code == 409
            assert (await http.request("DELETE", "/hotel/stays", json=won)).status_code == 204
            night = await http.get(f"/hotel/nights/12/{won['first']}")
            assert night.json() == {"guest": None}

    asyncio.run(run())


@pytest.mark.long
def test_workers_of_uvicorn_sell_and_book_once(url: str) -> None:
    """Three processes; each tin is sold once and each night booked once."""
    pytest.importorskip("uvicorn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--workers", "3", "--port", str(port)]
    path = os.pathsep.join([str(EXAMPLE), str(EXAMPLE.parents[2])])
    server = subprocess.Popen(
        [*command, "--log-level", "warning"],
        env={**os.environ, "DATABASE_URL": as_url(url), "PYTHONPATH": path, "APP_CONNECTIONS": "3"},
        cwd=EXAMPLE,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            try:
                httpx.post(f"{base}/shop/Oolong/deliveries", json={"tins": 10}).raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.1)

        async def race() -> tuple[Counter[int], Counter[int]]:
            limits = httpx.Limits(
                max_connections=40, max_keepalive_connections=0
            )  # so that all workers serve
            async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as http:
                order = {"tins": 1, "customer": "Ada"}
                orders = [http.post("/shop/Oolong/orders", json=order) for _ in range(30)]
                stays = [http.post("/hotel/stays", json={**STAY, "guest": f"g{n}"}) for n in range(20)]
                answers = await asyncio.gather(*orders, *stays)
                codes = [answer.status_code for answer in answers]
                return Counter(codes[:30]), Counter(codes[30:])

        sold, booked = asyncio.run(race())
        assert sold == {201: 10, 409: 20} and booked == {201: 1, 409: 19}
        assert httpx.get(f"{base}/shop/Oolong").json() == {"tins": 0}
    finally:
        server.terminate()
        server.wait(30)
