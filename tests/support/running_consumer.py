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
from consumer.settings import ConsumerSettings
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.runtime.probes import Health


@asynccontextmanager
async def running(
    consumer: Consumer, database_url: str, broker_url: str, **settings: Any
) -> AsyncIterator[AsyncEngine]:
    """Declare the queues of *consumer*, and handle their messages; yields its database."""
    stop = asyncio.Event()
    loaded = ConsumerSettings(
        _env_file=None, database_url=database_url, broker_url=broker_url, **settings
    )
    await service.prepare(consumer, loaded)
    engine = create_engine(make_url(database_url), pool_size=5, application_name="test")
    telemetry = Telemetry(
        CollectorRegistry(), source=consumer.name, queue="q", known=consumer.handlers
    )
    tasks = assembly.assemble(consumer, loaded, engine, telemetry=telemetry, health=Health())
    working = asyncio.create_task(tasks.run(stop))
    try:
        yield engine
    finally:
        stop.set()
        await working
        await engine.dispose()
