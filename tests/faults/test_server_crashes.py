"""
A RabbitMQ server that crashes under load, and comes back with all messages that it had confirmed.

`tests/matrix/test_databases.py` crashes Postgres.
"""

import asyncio
from contextlib import suppress
from uuid import UUID

import pytest
from sqlalchemy.exc import DBAPIError

import outbox
from outbox.errors import DatabaseUnavailable
from tests.support.builders import an_event
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.servers import NotOursError
from tests.support.servers.server import Server

pytestmark = pytest.mark.fault

EVENTS, PER_TRANSACTION = 2_000, 20


class Producer:
    """Commits events one transaction after another, and knows which of them have committed."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self.committed: set[UUID] = set()

    async def run(self) -> None:
        for _ in range(EVENTS // PER_TRANSACTION):
            await self._commit([an_event() for _ in range(PER_TRANSACTION)])

    async def _commit(self, events: list[outbox.Event]) -> None:
        """Commit *events*, again with the same ids until that is known to have worked."""

        async def committed() -> bool:
            try:
                async with self._deployment.engine.begin() as connection:
                    await connection.execute(outbox.insert(*events))
            except DBAPIError as error:
                # The ids are unique: this says that an earlier commit did arrive.
                return "event_id" in str(error.orig)
            except (OSError, DatabaseUnavailable):
                return False
            return True

        await eventually(committed, within=30)
        self.committed.update(event.id for event in events)


async def crash(server: Server) -> None:
    """Kill *server* and start it again, if it is ours to kill."""
    with suppress(NotOursError):
        await server.kill()
        await server.start()


async def settle_down(server: Server) -> None:
    """
    Restart *server* cleanly, so that its latest definitions are on its disk.

    RabbitMQ 3.10 keeps the list of its quorum queues in a file that it writes a little later: a
    queue that was declared in the seconds before a crash is there afterwards, but has no leader.
    """
    with suppress(NotOursError):
        await server.restart()


async def test_a_broker_that_crashes_twice_loses_no_event_and_doubles_none(
    postgres_url, rabbitmq_url, rabbitmq_server, tmp_path
):
    async with Deployment(postgres_url, rabbitmq_url, tmp_path) as deployment:
        relay, consumer = await deployment.relay(), await deployment.consumer()
        await settle_down(rabbitmq_server)
        producer = Producer(deployment)
        producing = asyncio.create_task(producer.run())
        for share in (4, 2):
            await deployment.applies(EVENTS // share // 2, within=60)
            await crash(rabbitmq_server)
        await producing
        await eventually(deployment.is_drained, within=60)
        await deployment.applies(EVENTS, within=60)

        assert sorted(await deployment.applied()) == sorted(producer.committed)
        assert await deployment.dead() == []
        assert await relay.terminate(within=30) == 0
        assert await consumer.terminate(within=30) == 0
