"""
What can happen to servers: faults, each for the block that it is used in.

Each writes down when it strikes and when it is healed: when the server answers again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.reliability.fault_run import APPLICATION, FaultRun


@asynccontextmanager
async def sessions_ended(run: FaultRun, *, share: float) -> AsyncIterator[None]:
    """Postgres ends a *share* of all sessions, drawn at random."""
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
    """Postgres ends without a word, and starts again after the block."""
    async with run.record_fault("Postgres crashed"):
        await run.environment.postgres.kill()
        try:
            yield
        finally:
            await run.environment.postgres.start()


@asynccontextmanager
async def rabbitmq_restarted(run: FaultRun) -> AsyncIterator[None]:
    """RabbitMQ is shut down in good order, and starts again after the block."""
    async with run.record_fault("RabbitMQ restarted"):
        await run.environment.rabbitmq.stop()
        try:
            yield
        finally:
            await run.environment.rabbitmq.start()


@asynccontextmanager
async def rabbitmq_crashed(run: FaultRun) -> AsyncIterator[None]:
    """RabbitMQ ends without a word, and starts again after the block."""
    async with run.record_fault("RabbitMQ crashed"):
        await run.environment.rabbitmq.kill()
        try:
            yield
        finally:
            await run.environment.rabbitmq.start()


@asynccontextmanager
async def alarmed(run: FaultRun) -> AsyncIterator[None]:
    """RabbitMQ blocks all that publish, for want of memory."""
    async with (
        run.record_fault("memory alarm of RabbitMQ"),
        run.environment.rabbitmq.memory_alarm(),
    ):
        yield
