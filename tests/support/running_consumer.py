"""
A consumer whose tasks run in the process of the test.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import Consumer, assembly, service
from consumer.encryption import decryption
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.runtime.probes import Health


@asynccontextmanager
async def running(
    consumer: Consumer,
    database_url: str,
    broker_url: str,
    *,
    health: Health | None = None,
    **settings: Any,
) -> AsyncIterator[AsyncEngine]:
    """Declare the queues of *consumer*, and handle their messages; yields its database."""
    stop, health = asyncio.Event(), health or Health()
    loaded = ConsumerSettings(
        _env_file=None, database_url=database_url, broker_url=broker_url, **settings
    )
    await service.prepare(consumer, loaded)
    engine = create_engine(make_url(database_url), pool_size=5, application_name="test")
    telemetry = Telemetry(
        CollectorRegistry(), source=consumer.name, queue="q", known=consumer.handlers
    )
    async with decryption(loaded, name="test") as reads:
        tasks = assembly.assemble(
            consumer, loaded, engine, telemetry=telemetry, health=health, decryption=reads
        )
        working = asyncio.create_task(tasks.run(stop))
        try:
            yield engine
        finally:
            stop.set()
            await working
            await engine.dispose()
