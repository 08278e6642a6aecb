"""
Faults of servers, each an async context manager.

Each records its beginning, and its end: when the server answers again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.reliability.fault_run import APPLICATION, FaultRun


@asynccontextmanager
async def sessions_ended(run: FaultRun, *, share: float) -> AsyncIterator[None]:
    """Postgres ends a random *share* of all sessions."""
    async with run.record_fault("sessions ended by Postgres"):
        async with run.environment.postgres.connection() as connection:
            await connection.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = $1 AND application_name <> $2 AND random() < $3
                """,
                run.environment.database,
                APPLICATION,
                share,
            )
        yield


@asynccontextmanager
async def postgres_crashed(run: FaultRun) -> AsyncIterator[None]:
    """Crash Postgres, and start it again after the block."""
    async with run.record_fault("Postgres crashed"):
        await run.environment.postgres.kill()
        try:
            yield
        finally:
            await run.environment.postgres.start()


@asynccontextmanager
async def rabbitmq_restarted(run: FaultRun) -> AsyncIterator[None]:
    """Stop RabbitMQ normally, and start it again after the block."""
    async with run.record_fault("RabbitMQ restarted"):
        await run.environment.rabbitmq.stop()
        try:
            yield
        finally:
            await run.environment.rabbitmq.start()


@asynccontextmanager
async def rabbitmq_crashed(run: FaultRun) -> AsyncIterator[None]:
    """Crash RabbitMQ, and start it again after the block."""
    async with run.record_fault("RabbitMQ crashed"):
        await run.environment.rabbitmq.kill()
        try:
            yield
        finally:
            await run.environment.rabbitmq.start()


@asynccontextmanager
async def alarmed(run: FaultRun) -> AsyncIterator[None]:
    """Raise a memory alarm: RabbitMQ blocks all publishers."""
    async with (
        run.record_fault("memory alarm of RabbitMQ"),
        run.environment.rabbitmq.memory_alarm(),
    ):
        yield
