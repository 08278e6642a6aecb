"""
The service: `uvicorn --factory examples.fastapi_service.app:create_app`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID, uuid4

import sqlalchemy as sa
from fastapi import APIRouter, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import outbox
from examples.database import connect, upsert
from examples.fastapi_service.events import HeartRate, HeartRateStored
from examples.fastapi_service.tables import heart_rates
from outbox import Event, InvalidEvent

router = APIRouter()


def create_app(engine: AsyncEngine | None = None) -> FastAPI:
    """The application, on *engine* or on the database of MQ_DATABASE_URL."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await used.dispose()

    used = engine or connect()
    app = FastAPI(title="Heart rates", lifespan=lifespan)
    app.state.engine = used
    app.include_router(router)
    app.add_exception_handler(InvalidEvent, refuse)
    return app


class Stored(BaseModel):
    id: UUID


@router.post("/heart-rates", status_code=201)
async def store(
    heart_rate: HeartRate,
    request: Request,
    response: Response,
    idempotency_key: Annotated[str, Header(max_length=255)],
    x_correlation_id: Annotated[str | None, Header(max_length=255)] = None,
) -> Stored:
    """
    Store a heart rate, and record the event about it, in one transaction.

    A request that is repeated gets 200 and the id of the first one; another body under its key
    gets 409.
    """
    new = HeartRateStored(id=uuid4(), **heart_rate.model_dump())
    event = Event.of(
        new,
        idempotency_key=idempotency_key,
        correlation_id=x_correlation_id or str(uuid4()),
        ordering_key=new.patient,
    )
    # It commits before the response begins. A dependency with `yield` would commit after it, and
    # a client could have an answer about a row that is not there.
    async with AsyncSession(request.app.state.engine) as session, session.begin():
        if await _insert(session, new, idempotency_key):
            outbox.add(session, event)
            return Stored(id=new.id)
        response.status_code = 200
        return await _stored_before(session, heart_rate, idempotency_key)


async def _insert(session: AsyncSession, new: HeartRateStored, key: str) -> bool:
    """Whether *new* was inserted; false if a request with its *key* was."""
    insert = upsert(heart_rates, session.get_bind().dialect)
    values = insert.values(idempotency_key=key, **new.model_dump())
    inserted = values.on_conflict_do_nothing().returning(heart_rates.c.id)
    return await session.scalar(inserted) is not None


async def _stored_before(session: AsyncSession, heart_rate: HeartRate, key: str) -> Stored:
    query = sa.select(heart_rates).where(heart_rates.c.idempotency_key == key)
    row = (await session.execute(query)).one()
    if (row.patient, row.per_minute) != (heart_rate.patient, heart_rate.per_minute):
        raise HTTPException(409, "the Idempotency-Key was used for another request")
    return Stored(id=row.id)


async def refuse(_request: Request, error: Exception) -> Response:
    """Answer an InvalidEvent as FastAPI answers invalid bodies; it quotes no value."""
    assert isinstance(error, InvalidEvent)  # noqa: S101 - the handler of no other error
    detail = {"loc": ["event", error.field], "msg": error.problem, "type": "invalid_event"}
    return JSONResponse({"detail": [detail]}, status_code=422)
