"""
`consumer.testing.running`: a test of one handler, and of the whole way, in one process.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from consumer import (
    CallNext,
    CircuitBreaker,
    Consumer,
    Failure,
    HandlerCall,
    Message,
    RateLimit,
    Reject,
    Retry,
)
from consumer.testing import App, Settled, running
from outbox import Event
from outbox.database import sqlite_engine
from outbox.database.sqlite_file_lock import FileLock
from outbox.errors import ConfigurationError, DatabaseUnavailable, UnreadableMessage
from outbox.testing import assert_recorded
from tests.support.eventually import eventually
from tests.support.servers import RabbitmqServer

MINUTE = timedelta(minutes=1)
METADATA = sa.MetaData()
SIZES = sa.Table("sizes", METADATA, sa.Column("size", sa.Integer))


class Upload(BaseModel):
    event_type: ClassVar[str] = "upload.taken"

    size: int


@dataclass
class Prices:
    seen: list[str]


class RefusedError(Exception):
    pass


def a_consumer(
    fails: Callable[[Message[Upload]], BaseException | None] = lambda _: None, **options: Any
) -> Consumer:
    """A consumer that stores sizes and records them, and fails after that as *fails* says."""
    etl = Consumer("etl", bindings=["upload.#"], **options)

    @etl.on("upload.taken", model=Upload, filter=lambda message: message.payload.size != 0)
    async def load(message: Message[Upload], session: AsyncSession) -> None:
        await session.execute(SIZES.insert().values(size=message.payload.size))
        outbox.add(session, Event("size.stored", {"size": message.payload.size}))
        if (error := fails(message)) is not None:
            raise error

    return etl


def first_fails(message: Message[Upload]) -> BaseException | None:
    return RefusedError("once") if message.attempt == 1 else None


async def sizes(app: App) -> Sequence[int]:
    async with app.session() as session:
        return (await session.scalars(sa.select(SIZES.c.size))).all()


@pytest.fixture
def where(urls: tuple[str, str]) -> dict[str, Any]:
    database, broker = urls
    return {"database": database, "broker": broker, "tables": METADATA}


async def test_a_call_commits_and_a_second_one_is_a_duplicate():
    async with running(a_consumer(), tables=METADATA) as app:
        event = Event("upload.taken", {"size": 3})

        assert await app.call(event) is Settled.HANDLED
        assert await app.call(event) is Settled.DUPLICATE
        assert await app.call(Upload, {"size": 4}) is Settled.HANDLED
        assert await app.call(Upload(size=5)) is Settled.HANDLED
        assert await app.call("upload.taken", {"size": 0}) is Settled.FILTERED

        assert await sizes(app) == [3, 4, 5]


async def test_a_call_raises_the_error_of_the_handler_and_commits_nothing():
    async with running(a_consumer(first_fails), tables=METADATA) as app:
        with pytest.raises(RefusedError, match="once") as raised:
            await app.call(Upload(size=3))
        assert raised.traceback[-1].name == "load"
        assert await sizes(app) == []

        assert await app.call(Upload(size=3), attempt=2) is Settled.HANDLED


async def test_a_call_has_the_fields_of_the_event():
    seen: list[Message[Any]] = []
    etl = Consumer("etl", bindings=["#"])

    @etl.on("anything.else")
    async def keep(message: Message[Any], session: AsyncSession) -> None:
        seen.append(message)

    async with running(etl) as app:
        await app.call(
            "anything.else",
            b"\x00",
            content_type="image/png",
            correlation_id="request-1",
            idempotency_key="a-key",
            routing_key="any.key",
            attempt=3,
            redelivered=True,
        )

    [message] = seen
    assert message.payload == b"\x00"
    assert (message.correlation_id, message.routing_key) == ("request-1", "any.key")
    assert (message.idempotency_key, message.attempt) == ("a-key", 3)
    assert message.redelivered


async def test_a_call_that_would_be_dead_lettered_says_why():
    async with running(a_consumer(), tables=METADATA) as app:
        with pytest.raises(UnreadableMessage, match="schema_unsupported: size"):
            await app.call("upload.taken", {"size": "large"})
        with pytest.raises(UnreadableMessage, match=r"no_handler: upload\.given"):
            await app.call("upload.given", {})


async def test_a_recorded_event_goes_the_whole_way(where: dict[str, Any]):
    async with running(a_consumer(), **where) as app:
        async with app.session() as session, session.begin():
            outbox.add(session, *(Event("upload.taken", {"size": n}) for n in (1, 2, 3)))

        drained = await app.drain()

        assert len(drained.handled) == 3
        assert await sizes(app) == [1, 2, 3]
        app.assert_published("size.stored", payload={"size": 2}, count=1)
        assert [event.type for event in drained.unrouted] == ["size.stored"] * 3
        assert (await app.drain()).messages == ()


async def test_failures_surface_together_and_the_retry_comes_in_its_time(where: dict[str, Any]):
    async with running(a_consumer(first_fails), **where) as app:
        await app.record(Event("upload.taken", {"size": 1}), Event("upload.taken", {"size": 2}))

        with pytest.raises(ExceptionGroup) as raised:
            await app.drain()
        assert [str(error) for error in raised.value.exceptions] == ["once", "once"]
        assert raised.value.exceptions[0].__traceback__ is not None
        assert await sizes(app) == []

        assert (await app.advance(timedelta(seconds=29))).messages == ()
        assert len((await app.advance(timedelta(seconds=1))).handled) == 2
        assert sorted(await sizes(app)) == [1, 2]


async def test_expected_failures_are_returned():
    etl = a_consumer(lambda message: Reject("too_large") if message.payload.size > 9 else None)
    async with running(etl, tables=METADATA) as app:
        await app.record(Event("upload.taken", {"size": 10}), Event("upload.given", 1))

        drained = await app.drain(raises=False)

        assert [each.reason for each in drained.dead_letters] == ["too_large", "no_handler"]
        assert [type(each.error) for each in drained.failures] == [Reject, UnreadableMessage]


async def test_retries_end_as_a_dead_letter():
    etl = a_consumer(lambda _: RefusedError("always"))
    async with running(etl, tables=METADATA, settings={"max_retries": 1}) as app:
        await app.record(Event("upload.taken", {"size": 1}))

        assert len((await app.drain(raises=False)).retries) == 1
        drained = await app.advance(MINUTE, raises=False)

        assert [each.reason for each in drained.dead_letters] == ["retries_exhausted"]


async def test_a_delayed_event_and_a_long_wait_pass_when_the_test_says_so(where: dict[str, Any]):
    def waits(message: Message[Upload]) -> BaseException | None:
        return Retry(after=timedelta(hours=2)) if message.attempt == 1 else None

    async with running(a_consumer(waits), **where) as app:
        later = datetime.now(UTC) + timedelta(hours=5)
        await app.record(Event("upload.taken", {"size": 1}, not_before=later))

        assert (await app.drain()).published == ()
        assert (await app.advance(timedelta(hours=4))).published == ()
        assert len((await app.advance(timedelta(hours=1), raises=False)).retries) == 1

        waited = timedelta(0)
        while waited < timedelta(minutes=105):
            waited += timedelta(minutes=15)
            assert not (await app.advance(timedelta(minutes=15))).handled
        assert len((await app.advance(timedelta(minutes=15))).handled) == 1


async def test_an_ordered_consumer_keeps_the_order_of_a_key(where: dict[str, Any]):
    def second_fails(message: Message[Upload]) -> BaseException | None:
        return RefusedError("once") if (message.payload.size, message.attempt) == (2, 1) else None

    async with running(a_consumer(second_fails, ordered=True), **where) as app:
        await app.record(
            *(Event("upload.taken", {"size": n}, ordering_key="a") for n in (1, 2, 3)),
            Event("upload.taken", {"size": 4}, ordering_key="b"),
        )

        await app.drain(raises=False)
        assert await sizes(app) == [1, 4]

        await app.advance(MINUTE)
        assert await sizes(app) == [1, 4, 2, 3]


async def test_rate_limits_and_circuit_breakers_follow_the_time_of_the_test():
    works = False
    etl = Consumer("etl", bindings=["#"])

    @etl.on("at.a.rate", rate_limit=RateLimit(2, per=MINUTE))
    async def slowly(message: Message[Any], session: AsyncSession) -> None: ...

    @etl.on("by.mail", circuit_breaker=CircuitBreaker(2, pause=5 * MINUTE))
    async def send(message: Message[Any], session: AsyncSession) -> None:
        if not works:
            raise RefusedError

    async with running(etl) as app:
        await app.record(*(Event("at.a.rate", n) for n in range(5)))
        assert len((await app.drain()).handled) == 2
        assert len((await app.advance(MINUTE / 2)).handled) == 1
        assert len((await app.advance(MINUTE)).handled) == 2

        await app.record(*(Event("by.mail", n) for n in range(4)))
        assert len((await app.drain(raises=False)).failures) == 2
        works = True
        assert not (await app.advance(4 * MINUTE)).handled
        assert len((await app.advance(MINUTE)).handled) == 4


async def test_several_consumers_get_the_event_and_a_chain_ends():
    first, second = a_consumer(), Consumer("second", bindings=["upload.taken", "size.*"])
    seen: list[str] = []

    async def keep(message: Message[Any], session: AsyncSession) -> None:
        seen.append(message.type)

    for event_type in ("upload.taken", "size.stored"):
        second.on(event_type)(keep)

    async with running(first, second, tables=METADATA) as app:
        await app.record(Event("upload.taken", {"size": 1}))
        drained = await app.drain()

        assert len(drained.handled) == 3
        assert drained.unrouted == ()
        assert seen == ["upload.taken", "size.stored"]
        with pytest.raises(ConfigurationError, match=r"several have a handler for upload\.taken"):
            await app.call(Upload(size=1))
        await app.call(Upload(size=1), consumer=second)


async def test_a_handler_that_answers_itself_is_noticed(monkeypatch: pytest.MonkeyPatch):
    etl = Consumer("etl", bindings=["#"])

    @etl.on("ping")
    async def again(message: Message[Any], session: AsyncSession) -> None:
        outbox.add(session, Event("ping", 1))

    monkeypatch.setattr("outbox_testing.app.MOST_ROUNDS", 3)
    async with running(etl) as app:
        await app.record(Event("ping", 1))
        with pytest.raises(RuntimeError, match="there is no end"):
            await app.drain()


async def test_an_open_session_with_writes_is_named_as_the_reason(monkeypatch):
    monkeypatch.setattr(sqlite_engine, "BUSY_SECONDS", 0.1)
    async with running(a_consumer(), tables=METADATA) as app, app.session() as session:
        await session.execute(SIZES.insert().values(size=1))

        with pytest.raises(DatabaseUnavailable) as raised:
            await app.call(Upload(size=2))
        assert "commit or close the session" in raised.value.__notes__[0]


async def test_a_leased_handler_and_a_batch_are_called():
    etl = Consumer("etl", bindings=["#"])
    batches: list[int] = []

    @etl.on_leased("by.mail")
    async def send(message: Message[Any]) -> None:
        batches.append(1)

    @etl.on_batch("many.at.once", size=3)
    async def many(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
        batches.append(len(messages))

    async with running(etl) as app:
        await app.record(Event("by.mail", 0), *(Event("many.at.once", n) for n in range(4)))
        assert len((await app.drain()).handled) == 5
        assert await app.call("by.mail", 1) is Settled.HANDLED

    assert sorted(batches) == [1, 1, 1, 3]


@asynccontextmanager
async def prices() -> AsyncIterator[Prices]:
    yield Prices(["entered"])


async def test_handlers_get_middleware_and_resources_or_the_fakes_of_the_test():
    async def noting(call: HandlerCall, call_next: CallNext, prices: Prices) -> None:
        prices.seen.append(call.event_type)
        await call_next()

    shop = Consumer("shop", bindings=["#"], lifespan=prices, middleware=[noting])
    given: list[Prices] = []

    @shop.on("price.asked")
    async def answer(message: Message[int], session: AsyncSession, prices: Prices) -> None:
        given.append(prices)

    async with running(shop) as app:
        await app.call("price.asked", 1)
    async with running(shop, resources=Prices(["fake"])) as app:
        await app.record(Event("price.asked", 1))
        await app.drain()

    assert [each.seen for each in given] == [["entered", "price.asked"], ["fake", "price.asked"]]


async def test_hooks_are_called_before_a_drain_ends_and_their_errors_surface():
    etl, seen = a_consumer(first_fails), []

    @etl.on_failure
    async def note(failure: Failure) -> None:
        seen.append(failure.message.payload)
        if len(seen) > 1:
            raise LookupError

    async with running(etl, tables=METADATA) as app:
        with pytest.raises(RefusedError):
            await app.call(Upload(size=1))
        await app.record(Upload(size=2))
        drained = await app.drain(raises=False)

    assert seen == [Upload(size=1), Upload(size=2)]
    assert [type(each.error) for each in drained.failures] == [RefusedError, LookupError]


async def test_a_second_relay_on_a_sqlite_file_is_noticed(tmp_path: Path):
    file = tmp_path / "mine.db"
    relay_lock = FileLock(Path(f"{file}.relay.lock"))
    async with running(database=file) as app:
        assert relay_lock.acquire()
        with pytest.raises(DatabaseUnavailable, match="another relay"):
            await app.drain()
        relay_lock.close()


async def test_the_environment_is_not_read(clean_environment: pytest.MonkeyPatch):
    clean_environment.setenv("MQ_BROKER_URL", "amqp://nowhere.invalid")
    clean_environment.setenv("MQ_MAX_RETRIES", "0")
    async with running(a_consumer(first_fails), tables=METADATA) as app:
        await app.record(Event("upload.taken", {"size": 1}))
        assert len((await app.drain(raises=False)).retries) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"settings": {"retries": 1}}, "settings: retries is no setting"),
        ({"settings": {"max_retries": -1}}, "MQ_MAX_RETRIES: "),
        ({"database": "sqlite://"}, "database: a SQLite database in memory"),
        ({"database": "http//:x://"}, "database: is not a URL"),
    ],
)
async def test_a_mistake_in_the_arguments_is_named(options: dict[str, Any], problem: str):
    with pytest.raises(ConfigurationError, match=problem):
        async with running(a_consumer(), **options):
            pass


async def test_a_consumer_without_handlers_and_two_of_one_name_are_refused():
    for consumers in ([Consumer("etl", bindings=["#"])], [a_consumer(), a_consumer()]):
        with pytest.raises(ConfigurationError):
            async with running(*consumers):
                pass


async def test_an_empty_database_is_migrated_and_kept(tmp_path: Path, empty_postgres_url: str):
    for database in (tmp_path / "mine.db", empty_postgres_url):
        async with running(a_consumer(), database=database, tables=METADATA) as app:
            await app.call(Upload(size=1))
        own = create_async_engine(app.database_url)
        async with own.connect() as connection:
            assert await connection.scalar(sa.text("SELECT count(*) FROM outbox")) is not None
        await own.dispose()
        async with running(a_consumer(), database=app.database_url) as again:
            assert await sizes(again) == [1]


async def test_an_application_may_name_its_schema(empty_postgres_url: str):
    on_postgres = {"database": empty_postgres_url, "settings": {"database_schema": "mq"}}
    outbox.use_schema("mq")
    try:
        for options in ({}, on_postgres):
            async with running(a_consumer(), tables=METADATA, **options) as app:
                await app.record(Upload(size=1))
                async with app.session() as session:
                    await assert_recorded(session, Upload, count=1)
                assert len((await app.drain()).published) == 2
    finally:
        outbox.use_schema(None)


async def test_an_engine_is_a_database(tmp_path: Path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'mine.db'}")
    async with running(a_consumer(), database=engine, tables=METADATA) as app:
        await app.call(Upload(size=1))
    await engine.dispose()
    assert (tmp_path / "mine.db").exists()


def own_threads() -> int:
    """The number of threads, without those that the event loop keeps for blocking calls."""
    return sum(not each.name.startswith("asyncio_") for each in threading.enumerate())


async def test_nothing_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rabbitmq_server: RabbitmqServer,
    rabbitmq_vhost: str,
    rabbitmq_url: str,
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    threads = own_threads()
    for broker in (None, rabbitmq_url):
        async with running(a_consumer(first_fails), broker=broker, tables=METADATA) as app:
            await app.record(Event("upload.taken", {"size": 1}))
            await app.drain(raises=False)

    left = [each for each in os.listdir(tmp_path) if each.startswith("outbox-test-")]  # noqa: PTH208
    assert left == []
    assert await rabbitmq_server.http.queues(rabbitmq_vhost) == {}
    await eventually(lambda: own_threads() <= threads)
    assert asyncio.all_tasks() == {asyncio.current_task()}
