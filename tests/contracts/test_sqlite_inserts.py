"""
The objects that a handler adds to its session: few statements, and each object gets its own id.
"""

import sqlite3
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from outbox.database.engine import create_engine

MANY = 600
"""More than one INSERT takes, and more rows than are read with their statement."""


class Base(DeclarativeBase):
    """The declarative base of this module."""


class Effect(Base):
    """An object whose id the database assigns."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


@pytest.fixture
async def engine(tmp_path):
    url = make_url(f"sqlite:///{tmp_path / 'file.db'}")
    engine = create_engine(url, pool_size=1, application_name="test")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


async def test_objects_are_inserted_together_and_get_their_own_ids(engine):
    statements: list[str] = []
    sa.event.listen(
        engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2])
    )
    # In an order that the primary key and the numbers do not share.
    added = [Effect(number=number * 7 % MANY) for number in range(MANY)]

    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        session.add_all(added)

    with closing(sqlite3.connect(engine.url.database)) as file:
        found = dict(file.execute("SELECT id, number FROM effects"))
    assert {each.id: each.number for each in added} == found
    assert len([each for each in statements if each.startswith("INSERT")]) < 5


async def test_ids_that_a_deleted_row_leaves_are_no_disorder(engine):
    async with AsyncSession(engine) as session, session.begin():
        session.add_all([Effect(id=1_000, number=-1), Effect(id=5, number=-2)])
    async with engine.begin() as connection:
        await connection.execute(sa.delete(Effect).where(Effect.id == 1_000))
    added = [Effect(number=number) for number in range(MANY)]

    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        session.add_all(added)

    with closing(sqlite3.connect(engine.url.database)) as file:
        found = dict(file.execute("SELECT id, number FROM effects WHERE number >= 0"))
    assert {each.id: each.number for each in added} == found
