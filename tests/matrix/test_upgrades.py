"""
Row F25: a database of an older schema is upgraded while producers work on it.

Versions from before the first release are known by their migrations only: rows that were written
under each are read by the new code. Versions side by side are in `test_rolling_upgrades.py`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

import outbox
from outbox.database import migrate
from outbox.database.engine import create_engine
from outbox.errors import SchemaMismatch
from tests.reliability.history import DeadLettered
from tests.support.builders import an_event
from tests.support.checked_deployment import CheckedDeployment
from tests.support.servers import PostgresServer

pytestmark = [pytest.mark.fault, pytest.mark.selection]

DONE, GIVEN_UP = 20, 5

_RECORD = sa.text(
    "INSERT INTO processed_messages"
    " (consumer, idempotency_key, message_id, type, status, attempts) VALUES"
    " ('effects', :key, :id, 'test.happened', 'completed', 1)"
)
_EFFECT = sa.text("INSERT INTO effects (event_id, attempt, consumer) VALUES (:id, 1, 'effects')")
_LETTER = sa.text(
    "INSERT INTO dead_letters (source, reason, attempts, message_id, type, exchange, routing_key,"
    " idempotency_key, body, first_at) VALUES"
    " ('effects', 'retries_exhausted', 4, :id, 'test.happened', 'health_data_exchange',"
    " 'test.happened', :id, '{}', now())"
)


@asynccontextmanager
async def database_at(server: PostgresServer, revision: str) -> AsyncIterator[str]:
    async with server.database() as url:
        await asyncio.to_thread(migrate.upgrade, url, revision)
        yield url


async def is_refused(url: str) -> bool:
    """Whether the new code knows that the schema is not its own."""
    engine = create_engine(make_url(url), pool_size=2, application_name="test")
    try:
        await migrate.verify(engine)
    except SchemaMismatch:
        return True
    finally:
        await engine.dispose()
    return False


async def leave_behind(deployment: CheckedDeployment) -> None:
    """
    Have in the tables what an older version has left there.

    Some events are done, and in the outbox nevertheless: it has crashed after the broker had them.
    """
    done, given_up = [an_event() for _ in range(DONE)], [an_event() for _ in range(GIVEN_UP)]
    async with deployment.engine.begin() as connection:
        await connection.execute(outbox.insert(*done))
        for event in done:
            values = {"id": event.id, "key": str(event.id)}
            await connection.execute(_RECORD, values)
            await connection.execute(_EFFECT, {"id": event.id})
        for event in given_up:
            await connection.execute(_LETTER, {"id": str(event.id)})
    deployment.record_committed([*done, *given_up])


@pytest.mark.parametrize("revision", ["0001", "0002", "0003"])
async def test_rows_of_an_older_schema_are_read_after_an_upgrade_under_load(
    postgres_server, rabbitmq_url, tmp_path, revision
):
    """F25: old rows and new schema."""
    async with (
        database_at(postgres_server, revision) as url,
        CheckedDeployment(url, rabbitmq_url, tmp_path) as deployment,
    ):
        await leave_behind(deployment)
        assert await is_refused(url)
        async with deployment.producing():
            await deployment.wait_for_outbox(50)
            with deployment.record_fault("upgrade"):
                await asyncio.to_thread(migrate.upgrade, url)
            await deployment.start_processes()
            await deployment.makes_progress()
        await deployment.wait_until_settled(but_for=GIVEN_UP)

        history = await deployment.check_guarantees(reasons=frozenset({"retries_exhausted"}))
    assert len([record for record in history if isinstance(record, DeadLettered)]) == GIVEN_UP
