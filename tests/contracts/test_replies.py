"""
Requests and stored replies, in both databases: what a caller sees, whatever comes and when.
"""

import asyncio
from datetime import timedelta
from typing import ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import async_sessionmaker

import outbox
from consumer import Reject
from consumer.replies import ReplyCollector
from outbox import replies
from outbox.errors import (
    ConfigurationError,
    DuplicateRequest,
    InvalidEvent,
    RequestFailed,
    RequestTimedOut,
    UnknownRequest,
    UnreadableMessage,
)
from outbox.reply_table import replies as table
from outbox.tables import outbox as outbox_table
from tests.support.builders import LEAK_MARKER, an_event
from tests.support.eventually import eventually
from tests.support.messages import a_delivered_message
from tests.support.responder import Sum

SOON = timedelta(seconds=20)
CODE = "rejected_by_us"


@pytest.fixture
def sessions(engine):
    return async_sessionmaker(engine, expire_on_commit=False)


@pytest.fixture
def collector():
    return ReplyCollector()


async def ask(sessions, event=None, *, within=SOON, **options):
    async with sessions() as session, session.begin():
        return outbox.request_in(session, event or an_event(), timeout=within, **options)


async def answer(
    sessions, collector, correlation_id, body=b'{"total": 6}', *, is_failure=False, code=CODE
):
    handler = collector.handlers["outbox.reply.failed" if is_failure else "outbox.reply"]
    message = a_delivered_message(
        type=handler.event_type,
        payload={"code": code} if is_failure else body,
        correlation_id=correlation_id,
    )
    async with sessions() as session, session.begin():
        await handler.function(message, session)


async def pass_deadlines(sessions) -> None:
    async with sessions() as session, session.begin():
        long_ago = sa.text("'2026-01-01 00:00:00.000000'")
        await session.execute(sa.update(table).values(expires_at=long_ago))


async def test_a_request_is_a_row_of_the_outbox_and_one_that_waits(sessions):
    event = an_event()

    asked = await ask(sessions, event)

    async with sessions() as session:
        row = (await session.execute(sa.select(outbox_table))).mappings().one()
        waiting = (await session.execute(sa.select(table))).mappings().one()
    assert asked.correlation_id == row["correlation_id"] == str(event.id)
    assert (row["reply_to"], row["expires_at"] > row["created_at"]) == ("health.replies", True)
    assert (waiting["state"], waiting["request_id"]) == ("waiting", event.id)
    assert await replies.get(sessions, asked.correlation_id) is None


async def test_a_request_that_is_rolled_back_was_never_asked(sessions):
    event = an_event()
    async with sessions() as session:
        outbox.request_in(session, event, timeout=SOON)
        await session.flush()
        await session.rollback()

    with pytest.raises(UnknownRequest):
        await replies.wait(sessions, str(event.id))


async def test_a_reply_is_read_by_any_process_again_and_again(sessions, collector):
    asked = await ask(sessions)
    await answer(sessions, collector, asked.correlation_id)

    plain = await replies.wait(sessions, asked.correlation_id)
    again = await replies.get(sessions, asked.correlation_id, model=Sum)

    assert (plain.payload, plain.is_late) == ({"total": 6}, False)
    assert again is not None
    assert again.payload == Sum(total=6)
    assert LEAK_MARKER not in repr(plain)


async def test_a_reply_that_is_no_such_model_names_its_fields(sessions, collector):
    asked = await ask(sessions)
    await answer(sessions, collector, asked.correlation_id, b'{"total": "canary-of-health-data"}')

    with pytest.raises(UnreadableMessage) as raised:
        await replies.wait(sessions, asked.correlation_id, model=Sum)

    assert (raised.value.code, raised.value.detail) == ("schema_unsupported", "total")


async def test_the_first_reply_stays_when_others_come(sessions, collector):
    asked = await ask(sessions)
    await answer(sessions, collector, asked.correlation_id, b"1")
    await answer(sessions, collector, asked.correlation_id, b"2")
    await answer(sessions, collector, asked.correlation_id, is_failure=True)

    reply = await replies.wait(sessions, asked.correlation_id)

    assert reply.payload == 1


async def test_an_error_reply_is_replaced_by_the_reply_after_a_replay(sessions, collector):
    asked = await ask(sessions)
    await answer(sessions, collector, asked.correlation_id, is_failure=True)
    with pytest.raises(RequestFailed) as failed:
        await replies.wait(sessions, asked.correlation_id)
    await answer(sessions, collector, asked.correlation_id, b"1")

    assert failed.value.code == CODE
    assert (await replies.wait(sessions, asked.correlation_id)).payload == 1


@pytest.mark.parametrize("code", [None, 7, "The patient has left", "x" * 65, [CODE]])
async def test_an_error_reply_with_any_text_as_its_code_says_unknown(sessions, collector, code):
    asked = await ask(sessions)
    await answer(sessions, collector, asked.correlation_id, is_failure=True, code=code)

    with pytest.raises(RequestFailed) as failed:
        await replies.wait(sessions, asked.correlation_id)

    assert failed.value.code == "unknown"


async def test_a_caller_times_out_and_finds_the_late_reply(sessions, collector):
    asked = await ask(sessions, within=timedelta(milliseconds=50))
    with pytest.raises(RequestTimedOut):
        await replies.wait(sessions, asked.correlation_id)
    with pytest.raises(RequestTimedOut):
        await replies.get(sessions, asked.correlation_id)

    await answer(sessions, collector, asked.correlation_id, b"1")

    reply = await replies.get(sessions, asked.correlation_id)
    assert reply is not None
    assert (reply.payload, reply.is_late) == (1, True)


async def test_a_reply_to_an_unknown_request_becomes_a_dead_letter(sessions, collector):
    with pytest.raises(Reject, match="unknown_request"):
        await answer(sessions, collector, "never-asked")
    with pytest.raises(Reject, match="unknown_request"):
        await answer(sessions, collector, None)


async def test_a_second_request_with_a_correlation_id_is_refused(sessions):
    await ask(sessions, an_event(correlation_id="visit-7"))

    with pytest.raises(DuplicateRequest):
        await outbox.request(sessions, an_event(correlation_id="visit-7"), timeout=SOON)

    async with sessions() as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(outbox_table)) == 1


async def test_requests_are_purged_with_their_replies_once_they_are_old(sessions, collector):
    old = await ask(sessions)
    await answer(sessions, collector, old.correlation_id)
    await pass_deadlines(sessions)
    young = await ask(sessions)
    await answer(sessions, collector, young.correlation_id)

    assert await replies.get(sessions, young.correlation_id) is not None
    with pytest.raises(UnknownRequest):
        await replies.get(sessions, old.correlation_id)
    await pass_deadlines(sessions)
    assert await replies.purge(sessions) == 1


async def test_the_collector_of_this_process_wakes_its_waiters(sessions, collector, monkeypatch):
    polls = RarePolls()
    monkeypatch.setattr("outbox.requests.reading._POLLS", polls)
    asked = await ask(sessions, within=timedelta(hours=2))

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        waiting = group.create_task(replies.wait(sessions, asked.correlation_id))
        await eventually(lambda: polls.asked)
        await answer(sessions, collector, asked.correlation_id, b"1")

    assert waiting.result().payload == 1


class RarePolls:
    """Polls so rarely that a test ends before the second one."""

    asked = 0

    def delay(self, attempt: int, *, jitter: float) -> timedelta:
        del jitter
        self.asked = attempt
        return timedelta(hours=1)


@pytest.mark.parametrize("within", [timedelta(0), timedelta(days=31), 10])
async def test_a_request_needs_a_timeout_that_can_be_kept(sessions, within):
    with pytest.raises(InvalidEvent, match=r"^timeout: must be a timedelta above 0"):
        await ask(sessions, within=within)


async def test_a_request_names_a_queue_that_can_exist(sessions, monkeypatch):
    with pytest.raises(ConfigurationError, match=r"^reply_to: must be"):
        await ask(sessions, reply_to="a queue")
    monkeypatch.setenv("MQ_REPLY_QUEUE", "a queue")
    with pytest.raises(ConfigurationError, match=r"^MQ_REPLY_QUEUE: must be"):
        await ask(sessions)


async def test_a_model_is_a_request_like_an_event(sessions):
    class Asked(Sum):
        event_type: ClassVar[str] = "ask.sum"

    asked = await ask(sessions, Asked(total=1))

    assert await replies.get(sessions, asked.correlation_id) is None
