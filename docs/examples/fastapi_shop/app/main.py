"""The application: `uvicorn app.main:app --workers 4`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from app import hotel, shop
from app.errors import Refused
from app.store import open_store
from pgevents import RetryableError


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with open_store() as app.state.store:  # each worker process has a store of its own
        await app.state.store.create_tables()
        yield


app = FastAPI(title="A shop and a hotel", lifespan=lifespan)
app.include_router(shop.router)
app.include_router(hotel.router)


@app.exception_handler(Refused)
async def refused(_: Request, error: Refused) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=409)


@app.exception_handler(RetryableError)
async def busy(_: Request, error: RetryableError) -> JSONResponse:
    return JSONResponse({"error": str(error)}, status_code=503, headers={"Retry-After": "1"})
