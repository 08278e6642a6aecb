"""
What can happen to servers: faults, each for the block that it is used in.

Each writes down when it strikes and when it is healed: when the server answers again.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.reliability.fault_run import APPLICATION, Course


@asynccontextmanager
async def sessions_ended(course: Course, *, share: float) -> AsyncIterator[None]:
    """Postgres ends a *share* of all sessions, drawn at random."""
    async with course.strike("sessions ended by Postgres"):
        async with course.site.postgres.connection() as connection:
            await connection.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = $1 AND application_name <> $2 AND random() < $3
                """,
                course.site.database,
                APPLICATION,
                share,
            )
        yield


@asynccontextmanager
async def postgres_crashed(course: Course) -> AsyncIterator[None]:
    """Postgres ends without a word, and starts again after the block."""
    async with course.strike("Postgres crashed"):
        await course.site.postgres.kill()
        try:
            yield
        finally:
            await course.site.postgres.start()


@asynccontextmanager
async def rabbitmq_restarted(course: Course) -> AsyncIterator[None]:
    """RabbitMQ is shut down in good order, and starts again after the block."""
    async with course.strike("RabbitMQ restarted"):
        await course.site.rabbitmq.stop()
        try:
            yield
        finally:
            await course.site.rabbitmq.start()


@asynccontextmanager
async def rabbitmq_crashed(course: Course) -> AsyncIterator[None]:
    """RabbitMQ ends without a word, and starts again after the block."""
    async with course.strike("RabbitMQ crashed"):
        await course.site.rabbitmq.kill()
        try:
            yield
        finally:
            await course.site.rabbitmq.start()


@asynccontextmanager
async def alarmed(course: Course) -> AsyncIterator[None]:
    """RabbitMQ blocks all that publish, for want of memory."""
    async with course.strike("memory alarm of RabbitMQ"), course.site.rabbitmq.memory_alarm():
        yield
