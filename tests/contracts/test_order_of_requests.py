"""
Events and requests of one ordering key: they keep the order of the calls, in both databases.
"""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.event import Event
from outbox.requests.rows import request_row
from outbox.tables import outbox as table
from outbox.written_row import written_row
from tests.support.builders import an_event

SOON = timedelta(seconds=20)


@pytest.fixture
def events() -> list[Event]:
    return [an_event(ordering_key="patient-7") for _ in range(5)]


def record(session: Session | AsyncSession, events: list[Event]) -> None:
    for number, event in enumerate(events):
        if number % 2:
            outbox.request_in(session, event, timeout=SOON)
        else:
            outbox.add(session, event)


async def recorded(engine: AsyncEngine) -> list[sa.Row]:
    async with engine.connect() as connection:
        found = await connection.execute(
            sa.select(table.c.event_id, table.c.reply_to).order_by(table.c.id)
        )
        return list(found)


async def test_a_request_stays_between_the_events_of_its_key(engine, events):
    async with AsyncSession(engine) as session, session.begin():
        record(session, events)

    rows = await recorded(engine)
    assert [row.event_id for row in rows] == [event.id for event in events]
    assert [row.reply_to is not None for row in rows] == [False, True, False, True, False]


async def test_a_request_stays_between_them_in_a_synchronous_session(engine, events):
    def write(connection: sa.Connection) -> None:
        with Session(connection) as session:
            record(session, events)
            session.commit()

    async with engine.begin() as connection:
        await connection.run_sync(write)

    assert [row.event_id for row in await recorded(engine)] == [event.id for event in events]


async def test_an_event_needs_no_column_of_requests(engine, events):
    """Tables of the former revision have none."""
    written: list[str] = []
    sa.event.listen(
        engine.sync_engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_rest: written.append(statement),
    )
    async with AsyncSession(engine) as session, session.begin():
        outbox.request_in(session, events[0], timeout=SOON)
    written.clear()
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, events[1])

    assert [each for each in written if each.startswith("INSERT")]
    assert not [each for each in written if "reply_to" in each or "expires_at" in each]


def test_a_request_is_an_event_of_the_same_schema():
    assert issubclass(request_row(), written_row())
    assert request_row() is request_row()
