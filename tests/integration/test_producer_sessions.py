"""
Recording events in sessions of applications: with several engines, with listeners, and too late.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

import outbox
from outbox.tables import outbox as table
from tests.support.builders import an_event

OUTBOX = outbox.metadata.tables["outbox"]
TYPES = sa.select(table.c.type).order_by(table.c.id)


class Base(DeclarativeBase):
    """The application's models."""


class Upload(Base):
    __tablename__ = "uploads_of_test"
    id: Mapped[int] = mapped_column(primary_key=True)


class Other(DeclarativeBase):
    """Models of another database."""


@pytest.fixture
def sync_engine(sqlite_url) -> Iterator[sa.Engine]:
    engine = sa.create_engine(make_url(sqlite_url).set(drivername="sqlite"))
    Base.metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def other_engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://")
    yield engine
    engine.dispose()


def recorded(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(TYPES))


class Routing(Session):
    """A session that finds engines for the application's models by itself."""

    engines: dict[str, sa.Engine]

    def get_bind(self, mapper: Any = None, **given: Any) -> Any:
        if mapper is not None and issubclass(sa.inspect(mapper).class_, Base):
            return self.engines["base"]
        return super().get_bind(mapper, **given)


def by_base(engine: sa.Engine, _other: sa.Engine) -> Session:
    return Session(binds={Base: engine})


def by_table(engine: sa.Engine, other: sa.Engine) -> Session:
    return Session(binds={Base: other, Other: other, OUTBOX: engine})


def by_two_models(engine: sa.Engine, _other: sa.Engine) -> Session:
    return Session(binds={Base: engine, Other: engine})


def by_scope(engine: sa.Engine, _other: sa.Engine) -> Any:
    return scoped_session(sessionmaker(binds={Base: engine}))


def by_route(engine: sa.Engine, _other: sa.Engine) -> Session:
    session = Routing(binds={OUTBOX: engine})
    session.engines = {"base": engine}
    return session


@pytest.mark.parametrize("make", [by_base, by_table, by_two_models, by_scope, by_route])
def test_an_event_goes_to_the_engine_of_a_session_with_binds(sync_engine, other_engine, make):
    Base.metadata.create_all(other_engine)
    session = make(sync_engine, other_engine)
    session.add(Upload(id=1))

    outbox.add(session, an_event(type="a"))
    outbox.add(session, an_event(type="b"))
    session.commit()

    assert recorded(sync_engine) == ["a", "b"]
    session.close()


@pytest.mark.parametrize("scoped", [False, True])
async def test_an_async_session_with_binds_records_events(engine, scoped):
    sessions = async_sessionmaker(binds={Base: engine})
    session: Any = async_scoped_session(sessions, scopefunc=lambda: 1) if scoped else sessions()

    outbox.add(session, an_event(type="a"))
    await session.commit()
    await session.close()

    async with engine.connect() as connection:
        assert list(await connection.scalars(TYPES)) == ["a"]


def test_a_session_whose_engine_for_the_outbox_is_unclear_is_refused(sync_engine, other_engine):
    several = Session(binds={Base: sync_engine, Other: other_engine})
    for session, found in ((several, "several engines"), (Session(), "no engine")):
        with pytest.raises(outbox.InvalidEvent, match=f"session: has {found}.*binds"):
            outbox.add(session, an_event())


def listen(session: Session, name: str, errors: list[BaseException]) -> None:
    """Record one event in the listener *name*."""
    done = []

    def record(session: Session, *_: object) -> None:
        if done:
            return
        done.append(True)
        try:
            outbox.add(session, an_event(type=name))
        except outbox.InvalidEvent as error:
            errors.append(error)

    event.listen(session, name, record)


@pytest.mark.parametrize("name", ["before_commit", "before_flush", "after_flush"])
def test_a_listener_records_events_before_the_end_of_the_transaction(sync_engine, name):
    errors: list[BaseException] = []
    with Session(sync_engine) as session:
        listen(session, name, errors)
        session.add(Upload(id=1))
        session.commit()

    assert errors == []
    assert recorded(sync_engine) == [name]


def commit(session: Session) -> None:
    session.commit()


def roll_back(session: Session) -> None:
    session.flush()
    session.rollback()


def roll_back_a_savepoint(session: Session) -> None:
    savepoint = session.begin_nested()
    savepoint.rollback()


def fail(session: Session) -> None:
    session.add(Upload(id=1))
    session.flush()
    session.execute(sa.insert(Upload).values(id=5))
    session.add(Upload(id=5))
    with pytest.raises(sa.exc.IntegrityError):
        session.flush()


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("after_commit", commit),
        ("after_rollback", roll_back_a_savepoint),
        ("after_rollback", roll_back),
        ("after_soft_rollback", fail),
    ],
)
def test_a_listener_that_is_called_too_late_is_refused(
    sync_engine, name, end: Callable[[Session], None]
):
    errors: list[BaseException] = []
    with Session(sync_engine) as session:
        session.add(Upload(id=7))
        listen(session, name, errors)
        end(session)

    (error,) = errors
    assert str(error).startswith("session: its transaction has been committed, prepared or rolled")
    assert recorded(sync_engine) == []


def test_an_event_after_a_failed_flush_is_refused_until_the_rollback(sync_engine):
    with Session(sync_engine) as session:
        fail(session)
        with pytest.raises(outbox.InvalidEvent, match="session"):
            outbox.add(session, an_event())

        session.rollback()
        outbox.add(session, an_event(type="a"))
        session.commit()

    assert recorded(sync_engine) == ["a"]


def test_an_event_after_the_first_phase_of_a_commit_is_refused(sync_engine, monkeypatch):
    """As with two engines; pysqlite has no first phase of its own."""
    for phase in ("do_begin_twophase", "do_prepare_twophase", "do_commit_twophase"):
        monkeypatch.setattr(sync_engine.dialect, phase, lambda *_, **__: None)
    with Session(binds={Base: sync_engine}, twophase=True) as session:
        outbox.add(session, an_event(type="a"))
        session.prepare()
        with pytest.raises(outbox.InvalidEvent, match="prepared"):
            outbox.add(session, an_event(type="b"))
        session.commit()


def test_a_listener_of_a_savepoints_commit_records_an_event_in_the_outer_transaction(sync_engine):
    errors: list[BaseException] = []
    with Session(sync_engine) as session:
        listen(session, "after_commit", errors)
        with session.begin_nested():
            session.add(Upload(id=2))
        session.commit()

    assert errors == []
    assert recorded(sync_engine) == ["after_commit"]


async def test_a_listener_of_an_async_session_that_is_called_too_late_is_refused(engine):
    errors: list[BaseException] = []
    async with AsyncSession(engine) as session:
        listen(session.sync_session, "after_commit", errors)
        outbox.add(session, an_event(type="a"))
        await session.commit()

    assert len(errors) == 1
    async with engine.connect() as connection:
        assert list(await connection.scalars(TYPES)) == ["a"]


def test_a_listener_that_reads_each_new_object_as_one_of_its_models_finds_what_it_reads(
    sync_engine,
):
    """Extensions for audits and versions do so."""
    seen: list[dict[str, Any]] = []

    def audit(session: Session, *_: object) -> None:
        for new in session.new:
            columns = {column.name for column in new.__table__.columns}
            seen.append(
                {
                    "table": new.__tablename__,
                    "mapped": new.__mapper__.class_ is type(new),
                    "id": new.id,
                    "values": {name: getattr(new, name) for name in columns},
                    "state": {each.key for each in sa.inspect(new).attrs},
                    "of": new.metadata,
                }
            )

    recording = an_event(type="a")
    with Session(sync_engine) as session:
        event.listen(session, "before_flush", audit)
        session.add(Upload(id=1))
        outbox.add(session, recording)
        session.commit()

    row = next(each for each in seen if each["table"] == "outbox")
    assert row["mapped"]
    assert row["id"] == recording.id
    assert row["values"]["type"] == "a"
    assert recorded(sync_engine) == ["a"]
