"""
New objects in a session that messages share: none is lost unnoticed, and none is missed in error.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from consumer import Message
from consumer.execution import calls
from consumer.execution import executor as executor_module
from consumer.handler import Handler
from consumer.storage.tables import processed_messages
from tests.contracts.test_shared_transactions import a_batch, an_executor, ids

Handle: TypeAlias = Callable[[int, AsyncSession], Awaitable[None]]


class Base(DeclarativeBase):
    pass


class Visit(Base):
    """An object that may be new without any attribute set."""

    __tablename__ = "visit"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str] = mapped_column(default="now")


@pytest.fixture(autouse=True)
async def _prepared(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (executor_module, calls):
        monkeypatch.setattr(module, "LONGEST_CALLS", timedelta(hours=1))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def handled(engine: AsyncEngine, handle: Handle) -> tuple[int, int]:
    """Handle messages 0 to 4; how many of them are completed, and how many rows exist."""
    numbers: dict[str, int] = {}

    async def numbered(message: Message[Any], session: AsyncSession) -> None:
        await handle(numbers[str(message.id)], session)

    handler = Handler("test.happened", numbered, batch_size=None)
    batch, executor = a_batch(handler), an_executor(engine, handler)
    numbers |= {str(each.message.message_id): n for n, each in enumerate(batch.deliveries)}
    await executor.execute(batch)
    completed = await ids(engine, processed_messages.c.message_id)
    async with engine.connect() as connection:
        rows = await connection.scalar(sa.select(sa.func.count()).select_from(Visit.__table__))
    return len(completed), rows or 0


async def test_an_object_without_any_attribute_set_is_not_lost(engine):
    """Nothing but the session holds it, and SQLAlchemy says nothing when it is collected."""

    async def handle(number: int, session: AsyncSession) -> None:
        if number == 2:
            session.expunge_all()
        session.add(Visit())

    assert await handled(engine, handle) == (5, 5)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
async def test_objects_that_a_partial_flush_leaves_are_not_lost(engine):
    async def handle(number: int, session: AsyncSession) -> None:
        if number == 3:
            session.expunge_all()
        visit = Visit()
        session.add(visit)
        if number == 2:
            await session.flush([visit])

    assert await handled(engine, handle) == (5, 5)


@pytest.mark.parametrize("hook", ["after_flush", "after_flush_postexec"])
async def test_an_object_that_a_hook_adds_after_a_flush_is_not_lost(engine, hook):
    def audit(session: Session, _context: object) -> None:
        if session.info.pop("fresh", False):
            session.add(Visit(at="audit"))

    async def handle(number: int, session: AsyncSession) -> None:
        if "hooked" not in session.info:
            session.info["hooked"] = True
            sa.event.listen(session.sync_session, hook, audit)
        if number == 2:
            session.expunge_all()
        session.add(Visit())
        session.info["fresh"] = True
        await session.flush()

    assert await handled(engine, handle) == (5, 10)


async def test_objects_that_a_hook_takes_out_before_a_flush_are_not_lost(engine):
    def expunge_new(session: Session, *_: object) -> None:
        for each in list(session.new):
            session.expunge(each)

    async def handle(number: int, session: AsyncSession) -> None:
        session.add(Visit())
        if number == 3:
            sa.event.listen(session.sync_session, "before_flush", expunge_new, once=True)
            await session.flush()

    assert await handled(engine, handle) == (5, 4)


async def test_a_call_may_take_out_its_own_objects_whose_ids_others_had(engine):
    calls = []

    async def handle(number: int, session: AsyncSession) -> None:
        calls.append(number)
        new = [Visit() for _ in range(200)]
        session.add_all(new)
        if number == 0:
            del new
            session.expunge_all()
            return
        for each in new:
            session.expunge(each)

    assert await handled(engine, handle) == (5, 0)
    assert calls == [0, 1, 2, 3, 4]


async def test_a_call_may_put_back_an_object_that_it_has_taken_out(engine):
    calls = []

    async def handle(number: int, session: AsyncSession) -> None:
        calls.append(number)
        for each in list(session.new):
            session.expunge(each)
            session.add(each)
        session.add(Visit())

    assert await handled(engine, handle) == (5, 5)
    assert calls == [0, 1, 2, 3, 4]
