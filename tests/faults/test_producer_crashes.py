"""
A producer that is cut off while it commits an event.

| crash                                   | test                                                  |
|-----------------------------------------|-------------------------------------------------------|
| before the COMMIT                       | there is no row, and nothing has happened             |
| outcome of the COMMIT unknown           | `test_a_producer_that_does_not_know_…`                |
"""

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

import outbox
from outbox.database.engine import create_engine
from outbox.errors import DatabaseUnavailable
from outbox.tables import outbox as table
from tests.support.breakpoints import BreakpointProxy
from tests.support.builders import an_event
from tests.support.wire_protocols import COMMIT, statement

pytestmark = pytest.mark.fault


async def record(engine: AsyncEngine, event: outbox.Event) -> str:
    """Record *event* in a transaction of its own, and return the outcome as far as it is known."""
    try:
        async with engine.begin() as connection:
            await connection.execute(outbox.insert(event))
    except DBAPIError as error:
        return "there" if "event_id" in str(error.orig) else "unknown"
    except (OSError, DatabaseUnavailable):
        return "unknown"
    return "recorded"


@pytest.mark.parametrize("committed", [False, True])
async def test_a_producer_that_does_not_know_whether_it_has_committed_records_the_event_again(
    postgres_url, committed
):
    event, insertion = an_event(), statement("INSERT INTO outbox")
    async with BreakpointProxy(postgres_url) as proxy:
        engine = create_engine(make_url(proxy.url), pool_size=1, application_name="producer")
        trap = (proxy.after if committed else proxy.before)(insertion, COMMIT)
        recording = asyncio.create_task(record(engine, event))
        await trap.wait_until_hit()
        trap.cut()
        assert await recording == "unknown"

        # The id is unique: it says whether the event is there.
        assert await record(engine, event) == ("there" if committed else "recorded")

        async with engine.connect() as connection:
            assert list(await connection.scalars(sa.select(table.c.event_id))) == [event.id]
        await engine.dispose()
