"""
The consumer: `consumer run examples.fastapi_service.handlers:ward`.

It keeps the latest heart rate of each patient, in the database. An alert goes to another service
by HTTP, which cannot be rolled back: so the first handler records it as an event, and a handler
with a lease sends it.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import httpx
from sqlalchemy.ext.asyncio import AsyncSession
from structlog.contextvars import bound_contextvars

import outbox
from consumer import CallNext, Consumer, HandlerCall, Message, Reject
from examples.database import upsert
from examples.fastapi_service.events import HeartRateHigh, HeartRateStored
from examples.fastapi_service.tables import latest
from outbox import Event

HIGH = 120


@asynccontextmanager
async def ward_service() -> AsyncGenerator[httpx.AsyncClient, None]:
    """The client of the ward's service, one for the life of the process."""
    async with httpx.AsyncClient(base_url=os.environ["WARD_URL"], timeout=5) as client:
        yield client


async def correlation(call: HandlerCall, call_next: CallNext) -> None:
    """Each log line of a handler has the correlation id of the request that caused it."""
    with bound_contextvars(correlation_id=call.message.correlation_id):
        await call_next()


ward = Consumer("ward", bindings=["heart-rate.#"], lifespan=ward_service, middleware=[correlation])


@ward.on(HeartRateStored)
async def keep_latest(message: Message[HeartRateStored], session: AsyncSession) -> None:
    """Messages may arrive in any order, so an older heart rate replaces no newer one."""
    stored = message.payload
    insert = upsert(latest, session.get_bind().dialect).values(stored.model_dump(exclude={"id"}))
    new = insert.excluded
    await session.execute(
        insert.on_conflict_do_update(
            index_elements=[latest.c.patient],
            set_={"per_minute": new.per_minute, "measured_at": new.measured_at},
            where=new.measured_at > latest.c.measured_at,
        )
    )
    if stored.per_minute > HIGH:
        high = HeartRateHigh(patient=stored.patient, per_minute=stored.per_minute)
        outbox.add(session, Event.of(high, correlation_id=message.correlation_id))


@ward.on_leased(HeartRateHigh, lease=timedelta(seconds=30))
async def alert(message: Message[HeartRateHigh], client: httpx.AsyncClient) -> None:
    """After a crash the ward may get an alert again, and knows it by its key."""
    response = await client.post(
        "/alerts",
        json=message.payload.model_dump(mode="json"),
        headers={
            "Idempotency-Key": message.idempotency_key,
            "X-Correlation-ID": message.correlation_id or "",
        },
    )
    if response.is_client_error:
        raise Reject("alert_refused")
    response.raise_for_status()
