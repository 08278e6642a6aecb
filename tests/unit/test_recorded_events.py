"""
`outbox.testing`: which events a session has recorded, with synchronous and asyncio drivers.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import outbox
from outbox import Event, InvalidEvent
from outbox.testing import RecordedEvent, assert_not_recorded, assert_recorded, recorded
from outbox.testing.unawaited import UNAWAITED
from outbox_testing import plugin
from tests.support.builders import an_event, an_upload

A_TIME = datetime(2030, 1, 1, tzinfo=UTC)


class Reading(BaseModel):
    event_type: ClassVar[str] = "reading.taken"

    device: str
    values: list[int] = []


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    outbox.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: sa.Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


@pytest.fixture
async def async_engine() -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine("sqlite+aiosqlite://", poolclass=sa.pool.StaticPool)
    async with engine.begin() as connection:
        await connection.run_sync(outbox.metadata.create_all)
    yield engine
    await engine.dispose()


def test_pending_and_flushed_events_are_recorded_in_their_order(session: Session):
    outbox.add(session, an_event(type="the.first"))
    session.flush()
    outbox.add(session, an_event(type="the.second"), an_event(type="the.third"))

    assert [event.type for event in recorded(session)] == ["the.first", "the.second", "the.third"]
    assert len(session.new) == 2


def test_a_rolled_back_event_was_not_recorded(session: Session):
    outbox.add(session, an_event())
    session.flush()
    outbox.add(session, an_event())

    session.rollback()

    assert recorded(session) == []


def test_committed_events_are_seen_without_beginning_a_transaction(
    session: Session, engine: sa.Engine
):
    with Session(engine) as other, other.begin():
        outbox.add(other, an_event())

    assert len(recorded(session)) == 1
    assert not session.in_transaction()


def test_a_recorded_event_has_every_field_of_the_event(session: Session):
    event = Event(
        "ward.moved",
        {"ward": 3},
        routing_key="ward.moved.high",
        ordering_key="ward-3",
        idempotency_key="move-7",
        priority=outbox.Priority.HIGH,
        headers={"traceparent": "00-a-b-01"},
        occurred_at=A_TIME,
        correlation_id="request-1",
        not_before=A_TIME,
    )
    outbox.add(session, event)
    session.flush()

    [found] = recorded(session, "ward.moved")

    assert found == RecordedEvent(
        **{
            name: getattr(event, name)
            for name in RecordedEvent.__dataclass_fields__
            if name != "headers"
        },
        headers={"traceparent": "00-a-b-01"},
    )


def test_a_payload_is_read_as_a_model_or_kept_as_bytes(session: Session):
    reading = Reading(device="a", values=[1])
    outbox.add(session, Event("reading.taken", reading))
    outbox.add(session, Event("scan.taken", b"\x00", content_type="image/png"))

    [found] = recorded(session, Reading)

    assert found.payload == {"device": "a", "values": [1]}
    assert found.payload_as(Reading) == reading
    assert recorded(session, "scan.taken")[0].payload == b"\x00"


@pytest.mark.parametrize("scoped", [False, True])
async def test_functions_are_awaited_with_an_async_session(
    async_engine: AsyncEngine, scoped: bool
):
    factory = async_sessionmaker(async_engine)
    of_task = async_scoped_session(factory, scopefunc=lambda: None)
    session: AsyncSession | async_scoped_session[AsyncSession] = of_task if scoped else factory()
    outbox.add(session, an_event(type="it.happened"))

    assert [event.type for event in await recorded(session)] == ["it.happened"]
    [found] = await assert_recorded(session, "it.happened", payload={"number": 1})
    assert found.payload == {"number": 1}
    await assert_not_recorded(session, "it.happened", payload={"number": 2})
    with pytest.raises(AssertionError, match="no recorded event another"):
        await assert_recorded(session, "another.type")
    await session.close()


async def test_events_of_a_connection_are_recorded(engine: sa.Engine, async_engine: AsyncEngine):
    with engine.begin() as connection:
        connection.execute(outbox.insert(an_event(type="by.insert")))

        assert_recorded(connection, "by.insert", count=1)
    async with async_engine.begin() as async_connection:
        await async_connection.execute(outbox.insert(an_event(type="by.insert")))

        await assert_recorded(async_connection, "by.insert", count=1)


def test_a_scoped_session_and_one_of_a_connection_are_read(engine: sa.Engine):
    with engine.connect() as connection:
        transaction = connection.begin()
        scoped = scoped_session(sessionmaker(connection))
        outbox.add(scoped, an_event(type="it.happened"))
        scoped.commit()

        assert_recorded(scoped, "it.happened", count=1)
        scoped.remove()
        transaction.rollback()
        assert recorded(connection) == []


def test_a_mapping_has_to_agree_in_the_keys_that_it_names(session: Session):
    outbox.add(session, an_event(payload={"ward": {"name": "north", "beds": 3}, "day": 1}))

    assert_recorded(session, "test.happened", payload={"ward": {"beds": 3}})
    assert_not_recorded(session, "test.happened", payload={"ward": {"beds": 4}})
    assert_not_recorded(session, "test.happened", payload={"ward": {"nurses": 3}})


def test_a_model_has_to_be_equal(session: Session):
    outbox.add(session, Reading(device="a"))

    assert_recorded(session, Reading(device="a"), count=1)
    assert_recorded(session, Reading, payload=Reading(device="a"))
    assert_not_recorded(session, Reading(device="b"))
    assert_not_recorded(session, Reading(device="a", values=[1]))


def test_a_message_of_health_data_is_an_example_too(session: Session):
    upload = an_upload()
    outbox.add(session, upload)

    assert_recorded(session, upload, count=1)
    assert_not_recorded(session, an_upload(record_count=11))


def test_a_failed_assertion_lists_what_was_recorded(session: Session):
    outbox.add(
        session,
        an_event(type="ward.moved", payload={"ward": 3, "beds": [1]}, ordering_key="ward-3"),
        an_event(type="ward.closed", payload=None),
    )

    with pytest.raises(AssertionError) as failure:
        assert_recorded(
            session, "ward.moved", payload={"ward": 4, "day": 1}, ordering_key="ward-4", count=1
        )

    assert str(failure.value).splitlines() == [
        (
            "0 instead of 1 recorded events ward.moved payload={'ward': 4, 'day': 1}"
            " ordering_key='ward-4'; 2 of any kind:"
        ),
        "  ward.moved payload={'ward': 3, 'beds': [1]} ordering_key='ward-3'",
        "      payload.ward: 3 instead of 4",
        "      payload.day: is missing",
        "      ordering_key: 'ward-3' instead of 'ward-4'",
        "  ward.closed payload=None",
    ]


def test_a_failed_assertion_says_that_there_are_too_many_or_none(session: Session):
    with pytest.raises(AssertionError, match=r"^no recorded event ward.moved; none of any kind$"):
        assert_recorded(session, "ward.moved")
    outbox.add(session, an_event(), an_event())
    with pytest.raises(AssertionError, match=r"^2 instead of 1 recorded events"):
        assert_recorded(session, "test.happened", count=1)
    with pytest.raises(AssertionError, match=r"^unexpected recorded event"):
        assert_not_recorded(session, "test.happened")


def test_mistakes_in_the_call_are_errors_of_their_own(session: Session):
    with pytest.raises(TypeError, match="ordering: is no field of an event"):
        assert_recorded(session, "it.happened", ordering="a")  # type: ignore[call-overload]
    with pytest.raises(InvalidEvent, match="of the class int"):
        recorded(session, int)
    with pytest.raises(TypeError, match="must be a Session, an AsyncSession"):
        recorded(object())  # type: ignore[call-overload]


@pytest.mark.parametrize("function", [assert_recorded, recorded])
async def test_a_call_that_is_not_awaited_fails_its_own_test(async_engine: AsyncEngine, function):
    """An assertion has asserted nothing, and Python only warns about it."""
    name = function.__name__
    async with AsyncSession(async_engine) as session:
        of_a_fixture: Any = function(session, "a.b")
        test = plugin.pytest_runtest_call()
        next(test)
        await assert_not_recorded(session, "a.b")
        forgotten: Any = function(session, "a.b")
        with pytest.raises(pytest.fail.Exception, match=rf"write `await {name}\(…\)`"):
            test.send(None)
        assert UNAWAITED == {}
        assert forgotten.__qualname__ == name
        forgotten.close()
        of_a_fixture.close()
