"""
Recording events with every kind of session and connection that a producer may have.
"""

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

import outbox
from outbox.record import MAX_INSERT
from outbox.tables import outbox as table
from tests.support.builders import an_event, an_upload

TYPES = sa.select(table.c.type).order_by(table.c.id)


@pytest.fixture(params=["sqlite", "psycopg"])
def sync_engine(request):
    if request.param == "sqlite":
        url = make_url(request.getfixturevalue("sqlite_url")).set(drivername="sqlite")
    else:
        url = make_url(request.getfixturevalue("postgres_url")).set(
            drivername="postgresql+psycopg"
        )
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


async def test_an_async_session_records_events_in_their_order(engine):
    events = [an_event(type=f"n.{i}") for i in range(20)]
    async with AsyncSession(engine) as session, session.begin():
        outbox.add(session, *events, an_upload())

    async with engine.connect() as connection:
        types = list(await connection.scalars(TYPES))
    assert types == [*(event.type for event in events), "health.data.uploaded"]


def test_a_session_records_events_in_their_order(sync_engine):
    events = [an_event(type=f"n.{i}") for i in range(20)]
    with Session(sync_engine) as session, session.begin():
        outbox.add(session, *events)

    with sync_engine.connect() as connection:
        assert list(connection.scalars(TYPES)) == [event.type for event in events]


def test_a_connection_records_events_in_bulk(sync_engine):
    events = [an_event(type=f"n.{i}", headers={"source": "bulk"}) for i in range(MAX_INSERT)]
    with sync_engine.begin() as connection:
        connection.execute(outbox.insert(*events))

    with sync_engine.connect() as connection:
        assert list(connection.scalars(TYPES)) == [event.type for event in events]


async def test_an_async_connection_records_events_in_bulk(engine):
    events = [an_event(type=f"n.{i}") for i in range(MAX_INSERT)]
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(*events))

    async with engine.connect() as connection:
        assert list(await connection.scalars(TYPES)) == [event.type for event in events]


async def test_events_roll_back_with_the_other_writes_of_their_transaction(engine):
    async with AsyncSession(engine) as session:
        outbox.add(session, an_event())
        await session.flush()
        await session.rollback()
    async with engine.connect() as connection:
        await connection.execute(outbox.insert(an_event()))
        await connection.rollback()

    async with engine.connect() as connection:
        assert list(await connection.scalars(TYPES)) == []


async def test_adding_neither_flushes_nor_commits(engine):
    async with AsyncSession(engine) as session:
        outbox.add(session, an_event())

        assert len(session.new) == 1
        assert engine.pool.checkedout() == 0


async def test_a_flush_needs_no_privilege_but_insert(postgres_url):
    engine = sa.create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE ROLE producer_of_test NOLOGIN"))
        connection.execute(sa.text("GRANT INSERT ON outbox TO producer_of_test"))
    try:
        with Session(engine) as session:
            session.execute(sa.text("SET LOCAL ROLE producer_of_test"))
            outbox.add(session, an_event(), an_event())
            session.execute(outbox.insert(an_event()))
            session.commit()
        with engine.connect() as connection:
            assert len(connection.scalars(TYPES).all()) == 3
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text("DROP OWNED BY producer_of_test"))
            connection.execute(sa.text("DROP ROLE producer_of_test"))
        engine.dispose()


async def test_one_event_is_recorded_once(engine):
    event = an_event()
    async with engine.begin() as connection:
        await connection.execute(outbox.insert(event))

    async with engine.connect() as connection:
        with pytest.raises(sa.exc.IntegrityError):
            await connection.execute(outbox.insert(event))


@pytest.mark.parametrize("events", [[], ["no event"], [an_event()] * (MAX_INSERT + 1)])
def test_an_invalid_argument_of_insert_is_refused(events):
    with pytest.raises(outbox.InvalidEvent, match="events"):
        outbox.insert(*events)
