"""
Messages that share a session: no call of a handler takes the effects of its neighbours.

Each misdeed is tried in the middle of a batch and at its end. Alone, a message may fail for it or
succeed; its neighbours are completed and have their effects in any case.
"""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import make_transient, registry

from consumer import Message
from consumer.execution import calls
from consumer.execution import executor as executor_module
from consumer.handler import Handler
from consumer.storage.tables import processed_messages
from consumer.verdict import DONE
from outbox.errors import TransactionEndedByHandler
from outbox.tables import dead_letters
from tests.contracts.test_shared_transactions import a_batch, an_executor, ids


class Effect:
    """A row that names its message, as an object of a session."""

    def __init__(self, message_id: object, attempts: Any = 1) -> None:
        self.message_id = str(message_id)
        self.source, self.reason = "etl", "effect"
        self.attempts, self.body = attempts, b""


registry().map_imperatively(Effect, dead_letters)


async def forget_all(session: AsyncSession) -> None:
    session.expunge_all()


async def forget_all_and_read(session: AsyncSession) -> None:
    session.expunge_all()
    await session.execute(sa.select(1))


async def forget_each(session: AsyncSession) -> None:
    for effect in list(session.new):
        session.expunge(effect)


async def detach_each(session: AsyncSession) -> None:
    for effect in list(session.new):
        make_transient(effect)


async def swallow_a_failed_flush(session: AsyncSession) -> None:
    session.add(Effect("bad", attempts=object()))
    with suppress(Exception):
        await session.flush()


async def commit_by_sql(session: AsyncSession) -> None:
    with suppress(TransactionEndedByHandler):
        await session.execute(sa.text("/* job */ COMMIT"))


async def roll_back_by_sql(session: AsyncSession) -> None:
    with suppress(TransactionEndedByHandler):
        await session.execute(sa.text("-- job\n; ROLLBACK"))


async def commit_the_connection(session: AsyncSession) -> None:
    with suppress(TransactionEndedByHandler):
        await (await session.connection()).commit()


async def roll_back_the_connection(session: AsyncSession) -> None:
    await (await session.connection()).rollback()


async def commit_the_transaction(session: AsyncSession) -> None:
    with suppress(TransactionEndedByHandler):
        await session.run_sync(lambda session: session.get_transaction().commit())


MISDEEDS = (
    forget_all,
    forget_all_and_read,
    forget_each,
    detach_each,
    swallow_a_failed_flush,
    commit_by_sql,
    roll_back_by_sql,
    commit_the_connection,
    roll_back_the_connection,
    commit_the_transaction,
)


@pytest.fixture(autouse=True)
def _time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (executor_module, calls):
        monkeypatch.setattr(module, "LONGEST_CALLS", timedelta(hours=1))


@pytest.mark.parametrize("position", [2, 4])
@pytest.mark.parametrize("misdeed", MISDEEDS, ids=lambda misdeed: misdeed.__name__)
async def test_a_misdeed_costs_no_neighbour_its_effects(engine, misdeed, position):
    async def handle(message: Message[Any], session: AsyncSession) -> None:
        if str(message.id) == bad:
            await misdeed(session)
        session.add(Effect(message.id))

    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)
    messages = [str(each.message.message_id) for each in batch.deliveries]
    bad = messages[position]

    verdicts = await executor.execute(batch)

    assert [verdicts[each] for each in range(5) if each != position] == [DONE] * 4
    neighbours = sorted({*messages} - {bad})
    effects = await ids(engine, dead_letters.c.message_id)
    assert [each for each in effects if each != bad] == neighbours
    assert await ids(engine, processed_messages.c.message_id) == effects


@pytest.fixture
async def counter(engine: AsyncEngine) -> int:
    """The id of a row that messages change."""
    async with AsyncSession(engine) as session, session.begin():
        effect = Effect("counter", attempts=0)
        session.add(effect)
        await session.flush()
        return int(effect.id)  # type: ignore[attr-defined]


async def test_a_change_of_a_neighbour_is_written_though_its_object_is_expired(engine, counter):
    async def handle(message: Message[Any], session: AsyncSession) -> None:
        if str(message.id) == bad:
            session.expire_all()
        (await session.get_one(Effect, counter)).attempts += 1

    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)
    bad = str(batch.deliveries[3].message.message_id)

    assert await executor.execute(batch) == [DONE] * 5
    assert await ids(engine, dead_letters.c.attempts) == ["5"]


async def test_neighbours_that_flush_and_change_one_object_share_their_transaction(
    engine, counter
):
    calls = []

    async def handle(message: Message[Any], session: AsyncSession) -> None:
        calls.append(message.id)
        (await session.get_one(Effect, counter)).attempts += 1
        if len(calls) == 3:
            await session.flush()

    handler = Handler("test.happened", handle, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)

    assert await executor.execute(batch) == [DONE] * 5
    assert len(calls) == 5
    assert await ids(engine, dead_letters.c.attempts) == ["5"]
