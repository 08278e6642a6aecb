"""
Parked messages while the database refuses a statement.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from consumer import Consumer, Message
from consumer.assembly import assemble
from consumer.dispatch.parked_worker import ParkedWorker
from consumer.execution.executor import TRIALS
from consumer.settings import ConsumerSettings
from consumer.storage.parked import ParkedMessages
from consumer.storage.tables import parked_messages, processed_messages
from consumer.telemetry import Telemetry
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable
from outbox.runtime.probes import Health
from tests.support.builders import an_event, on_the_wire

TYPE = "test.happened"
REFUSALS = {
    "53100": "no room on its disk",
    "42501": "insufficient privilege",
    "55P03": "lock not available",
    "40P01": "deadlock",
}


@dataclass
class Scene:
    """A parked message before its first attempt, and the parked worker of its consumer."""

    engine: AsyncEngine
    act: Callable[[AsyncSession], Any]
    wanted: Callable[[Message[dict]], bool] | None = None
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        consumer = Consumer("etl", bindings=["#"], ordered=True)

        @consumer.on(TYPE, filter=self.wanted)
        async def handle(_message: Message[dict], session: AsyncSession) -> None:
            await self.act(session)

        tasks = assemble(
            consumer,
            ConsumerSettings(_env_file=None, retry_delays=(60,)),
            self.engine,
            telemetry=Telemetry(self.registry, source="etl", queue="q", known=consumer.handlers),
            health=Health(),
        )
        assert tasks.parked_worker is not None
        self.parked_worker: ParkedWorker = tasks.parked_worker

    async def begin(self) -> None:
        message = on_the_wire(an_event(ordering_key="key"), exchange="main")
        async with AsyncSession(self.engine) as session, session.begin():
            await ParkedMessages("etl").park(
                session, message, lane="lane", attempts=0, wait=timedelta(0)
            )

    async def execute(self, *statements: str) -> None:
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.exec_driver_sql(statement)

    async def refuses(self, state: str, *, when: str, table: sa.Table, kind: str = "") -> None:
        """Make Postgres refuse changes of *table* with the SQLSTATE *state*."""
        await self.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{state}'; END $$",
            f"CREATE {kind} TRIGGER refuse {when} ON {table.name}"
            f" {'DEFERRABLE INITIALLY DEFERRED' if kind else ''}"
            " FOR EACH ROW EXECUTE FUNCTION refuse()",
        )

    async def attempts(self) -> list[int]:
        """The failed attempts of each parked message."""
        async with self.engine.connect() as connection:
            return list(await connection.scalars(sa.select(parked_messages.c.attempts)))

    @property
    def failures(self) -> float | None:
        labels = {"type": TYPE, "record_type": ""}
        return self.registry.get_sample_value("mq_retry_attempts_total", labels)


@pytest.fixture
async def postgres(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_url(postgres_url), pool_size=3, application_name="test")
    yield engine
    await engine.dispose()


async def succeed(_session: AsyncSession) -> None:
    return


async def fail(_session: AsyncSession) -> None:
    raise RuntimeError


async def fail_after_the_end(session: AsyncSession) -> None:
    await session.rollback()
    raise RuntimeError


@pytest.mark.parametrize("state", REFUSALS)
@pytest.mark.parametrize("act", [succeed, fail])
async def test_a_refused_write_of_the_worker_counts_as_no_failure(postgres, act, state):
    scene = Scene(postgres, act)
    await scene.begin()
    await scene.refuses(state, when="BEFORE UPDATE OR DELETE", table=parked_messages)

    for _ in range(TRIALS + 1):
        with pytest.raises(DatabaseUnavailable, match=state):
            await scene.parked_worker.attempt_next()

    assert await scene.attempts() == [0]
    await scene.execute("DROP FUNCTION refuse CASCADE")
    assert await scene.parked_worker.attempt_next()
    assert await scene.attempts() == ([] if act is succeed else [1])


@pytest.mark.parametrize("state", REFUSALS)
async def test_a_refused_commit_counts_as_no_failure(postgres, state):
    scene = Scene(postgres, succeed)
    await scene.begin()
    await scene.refuses(
        state, kind="CONSTRAINT", when="AFTER INSERT OR UPDATE", table=processed_messages
    )

    for _ in range(TRIALS + 1):
        with pytest.raises(DatabaseUnavailable, match=state):
            await scene.parked_worker.attempt_next()

    assert (await scene.attempts(), scene.failures) == ([0], None)


async def test_an_error_that_the_handler_defers_to_the_commit_is_its_failure(postgres):
    scene = Scene(postgres, succeed)
    await scene.begin()
    await scene.refuses(
        "23514", kind="CONSTRAINT", when="AFTER INSERT OR UPDATE", table=processed_messages
    )

    assert await scene.parked_worker.attempt_next()

    assert (await scene.attempts(), scene.failures) == ([1], 1)


@pytest.mark.parametrize("act", [fail, fail_after_the_end])
async def test_a_failure_is_logged_once(postgres, act):
    scene = Scene(postgres, act)
    await scene.begin()

    assert await scene.parked_worker.attempt_next()

    assert (await scene.attempts(), scene.failures) == ([1], 1)


async def test_a_filter_that_fails_is_a_failure_of_its_message(postgres):
    def wanted(_message: Message[dict]) -> bool:
        raise RuntimeError

    scene = Scene(postgres, succeed, wanted)
    await scene.begin()

    assert await scene.parked_worker.attempt_next()

    assert (await scene.attempts(), scene.failures) == ([1], 1)


async def roll_back_by_sql(session: AsyncSession) -> None:
    await session.execute(sa.text("ROLLBACK"))


async def commit_by_sql(session: AsyncSession) -> None:
    await session.execute(sa.text("COMMIT"))


@pytest.mark.parametrize("act", [roll_back_by_sql, commit_by_sql])
async def test_a_handler_that_ends_the_transaction_by_sql_has_failed_and_keeps_no_connection(
    postgres, act
):
    scene = Scene(postgres, act)
    await scene.begin()

    assert await scene.parked_worker.attempt_next()

    assert (await scene.attempts(), scene.failures) == ([1], 1)
    assert postgres.pool.checkedout() == 0
