"""
Which rows the retention of a consumer purges, and when.
"""

import asyncio
from datetime import timedelta
from uuid import uuid4

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.maintenance.retention import Retention
from consumer.storage.purge import PURGE_LIMIT
from consumer.storage.tables import processed_messages
from consumer.telemetry import Telemetry
from outbox.tables import now_plus
from tests.support.eventually import eventually

MONTH = timedelta(days=30)


async def remember(engine: AsyncEngine, rows: int, *, days_ago: int) -> None:
    values = [
        {
            "consumer": "etl",
            "idempotency_key": str(uuid4()),
            "message_id": uuid4(),
            "type": "t",
            "status": "completed",
        }
        for _ in range(rows)
    ]
    async with engine.begin() as connection:
        await connection.execute(sa.insert(processed_messages), values)
        await connection.execute(
            sa.update(processed_messages)
            .where(processed_messages.c.processed_at > now_plus(sa.literal(-3_600)))
            .values(processed_at=now_plus(sa.literal(-days_ago * 86_400)))
        )


async def test_retention_purges_all_old_rows_without_a_pause_and_leaves_the_rest(engine):
    await remember(engine, PURGE_LIMIT + 5, days_ago=31)
    await remember(engine, 3, days_ago=29)
    telemetry = Telemetry(CollectorRegistry(), source="etl", queue="q", known=())
    kept = Retention(engine, "etl", older_than=MONTH, horizon=MONTH, on_purged=telemetry.purged)
    stop = asyncio.Event()

    async def left() -> int:
        async with engine.connect() as connection:
            count = sa.select(sa.func.count()).select_from(processed_messages)
            return await connection.scalar(count) or 0

    async def only_the_young() -> bool:
        return await left() == 3

    running = asyncio.create_task(kept.run(stop))
    await eventually(only_the_young)
    stop.set()
    await running

    assert await left() == 3
