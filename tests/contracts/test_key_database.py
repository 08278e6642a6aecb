"""
Key databases: what producers and consumers read and write there, with each driver.
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from outbox.encryption import sources
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_database import KeyDatabase
from outbox.encryption.key_ring import new_ring
from outbox.encryption.key_tables import subject_keys
from outbox.encryption.keys import KeysUnavailable
from outbox.encryption.subject_key_database import SubjectKeyDatabase
from outbox.encryption.subjects import SubjectErased
from outbox.erasure.batches import wait_for_older
from outbox.errors import BatchesNotEnded, ConfigurationError
from outbox.key_store import creation
from outbox.key_store.batch_file import BatchFile
from outbox.key_store.reader import SubjectKeyStore
from tests.support.breakpoints import BreakpointProxy
from tests.support.keys import SETTING, KeyStore, engine_of, key_store


@pytest.fixture(params=["sqlite", "asyncpg", "psycopg"])
def key_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty database of each kind, which names the driver."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'keys.db'}"
    empty = make_url(request.getfixturevalue("empty_postgres_url"))
    named = empty.set(drivername=f"postgresql+{request.param}")
    return named.render_as_string(hide_password=False)


@pytest.fixture
async def store(key_url: str) -> AsyncIterator[KeyStore]:
    async with key_store(key_url) as made:
        yield made


@pytest.fixture
def connection(store: KeyStore) -> Iterator[KeyConnection]:
    made = KeyConnection(store.url, setting=SETTING)
    yield made
    made.close()


@pytest.fixture
def producer(store: KeyStore, connection: KeyConnection) -> SubjectKeyDatabase:
    return SubjectKeyDatabase(connection, store.ring, setting=SETTING)


@pytest.fixture
def consumer(store: KeyStore) -> SubjectKeyStore:
    return SubjectKeyStore(store.engine, store.ring, setting=SETTING)


async def test_producers_that_ask_at_the_same_time_get_one_key_for_a_person(
    store: KeyStore,
) -> None:
    connections = [KeyConnection(store.url, setting=SETTING) for _ in range(4)]
    producers = [SubjectKeyDatabase(each, store.ring, setting=SETTING) for each in connections]
    with ThreadPoolExecutor(4) as threads:
        found = [
            list(threads.map(SubjectKeyDatabase.key_of, producers, [digest] * 4))
            for digest in map(store.digest, "abcde")
        ]

    assert all(len(set(keys)) == 1 for keys in found)
    assert len({key for keys in found for key in keys}) == 5
    for each in connections:
        each.close()


async def test_a_consumer_reads_the_keys_of_producers_and_knows_erased_and_unknown_ids(
    store: KeyStore, producer: SubjectKeyDatabase, consumer: SubjectKeyStore
) -> None:
    one, erased = producer.key_of(store.digest("one")), producer.key_of(store.digest("erased"))
    await store.rows(
        sa.update(subject_keys)
        .where(subject_keys.c.id == erased.id)
        .values(state="erased", wrapped=None)
    )

    async with consumer.holding({one.id, erased.id, uuid4()}) as held:
        assert held.keys == {one.id: one.key, erased.id: None}
        await held.verify()
    with pytest.raises(SubjectErased):
        producer.key_of(store.digest("erased"))


async def test_a_key_database_is_the_source_of_keys_and_of_new_ones(
    store: KeyStore, connection: KeyConnection
) -> None:
    keys = KeyDatabase(connection, setting=SETTING)
    wrapped = keys.wrap(bytes(32))
    later = new_ring(datetime.now(UTC) - timedelta(seconds=1))
    await store.add_key(later)
    keys._read_at -= 60

    assert store.ring.unwrap(wrapped) == bytes(32)
    assert keys.unwrap(later.wrap(bytes(32))) == bytes(32)
    assert keys.wrap(bytes(32)).key_id == later.current.id
    assert keys.digest_key() == store.ring.digest_key()


async def test_one_url_is_the_source_of_both(store: KeyStore) -> None:
    keys, subjects = sources.both(store.url, None)

    assert keys.digest_key() == store.ring.digest_key()
    assert subjects is not None
    assert subjects.key_of(store.digest("one")) == subjects.key_of(store.digest("one"))
    subjects._connection.close()  # type: ignore[attr-defined]
    keys._connection.close()  # type: ignore[attr-defined]


async def test_subjects_of_another_digest_key_are_refused(
    store: KeyStore, producer: SubjectKeyDatabase, connection: KeyConnection
) -> None:
    producer.key_of(store.digest("one"))
    other = SubjectKeyDatabase(connection, new_ring(datetime.now(UTC)), setting=SETTING)

    with pytest.raises(ConfigurationError, match=r"^MQ_SUBJECT_KEYS_URL: .* another digest key"):
        other.key_of(bytes(32))


async def test_tables_are_made_once_and_never_beside_an_outbox(
    store: KeyStore,
) -> None:
    assert not await creation.create(store.engine, setting=SETTING)
    await store.rows(sa.text("CREATE TABLE outbox (id integer)"))

    with pytest.raises(ConfigurationError, match="must be another database"):
        await creation.create(store.engine, setting=SETTING)


async def test_a_database_without_the_tables_is_named(store: KeyStore) -> None:
    await store.rows(sa.text("DROP TABLE key_store"))
    connection = KeyConnection(store.url, setting=SETTING)

    with pytest.raises(KeysUnavailable, match=r"^MQ_SUBJECT_KEYS_URL: .* run `relay keys init`"):
        KeyDatabase(connection, setting=SETTING)
    connection.close()


async def test_a_forked_process_asks_by_a_connection_of_its_own(
    store: KeyStore, producer: SubjectKeyDatabase, connection: KeyConnection
) -> None:
    before, keys = producer.key_of(store.digest("one")), KeyDatabase(connection, setting=SETTING)
    with keys._lock:  # as if another thread asked for the keys
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(20)
                keys.refresh()
                os._exit(0 if producer.key_of(store.digest("one")) == before else 1)
            finally:
                os._exit(2)

    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert producer.key_of(store.digest("one")) == before


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_server_that_does_not_answer_blocks_a_producer_for_a_limited_time(
    driver: str, empty_postgres_url: str
) -> None:
    async with (
        key_store(empty_postgres_url) as store,
        BreakpointProxy(empty_postgres_url) as proxy,
    ):
        url = make_url(proxy.url).set(drivername=f"postgresql+{driver}")
        text = url.render_as_string(hide_password=False)
        connection = KeyConnection(text, setting=SETTING, seconds=1)
        producer = SubjectKeyDatabase(connection, store.ring, setting=SETTING)
        proxy.after(lambda message: b"FROM subject_keys" in message)

        with pytest.raises(KeysUnavailable, match="did not answer within 1 seconds"):
            await asyncio.to_thread(producer.key_of, store.digest("one"))
        found = await asyncio.to_thread(producer.key_of, store.digest("one"))
        proxy.reset()
        again = await asyncio.to_thread(producer.key_of, store.digest("one"))

        assert found == again
        await asyncio.to_thread(connection.close)


async def test_a_batch_that_has_lost_its_session_does_not_commit(
    empty_postgres_url: str,
) -> None:
    async with key_store(empty_postgres_url) as store:
        reader = SubjectKeyStore(store.engine, store.ring, setting=SETTING)
        async with reader.holding({uuid4()}) as held:
            await held.verify()
            await store.rows(
                sa.text(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE state = 'idle in transaction' AND datname = current_database()"
                )
            )
            with pytest.raises(KeysUnavailable, match=f"^{SETTING}: "):
                await held.verify()
        async with reader.holding({uuid4()}) as held:
            await held.verify()


async def test_a_batch_without_subjects_asks_no_server(tmp_path: Path) -> None:
    async with key_store(f"sqlite:///{tmp_path / 'keys.db'}") as store:
        reader = SubjectKeyStore(store.engine, store.ring, setting=SETTING)
        await store.rows(sa.text("DROP TABLE subject_keys"))

        async with reader.holding(()) as held:
            await held.verify()
            assert held.keys == {}
        with pytest.raises(KeysUnavailable):
            async with reader.holding({uuid4()}):
                pytest.fail("the table is missing")


async def test_a_handler_makes_the_key_of_a_new_person_while_its_batch_holds_keys(
    store: KeyStore, producer: SubjectKeyDatabase, consumer: SubjectKeyStore
) -> None:
    one = producer.key_of(store.digest("one"))

    async with consumer.holding({one.id}):
        assert producer.key_of(store.digest("two")) != one


async def test_an_erasure_that_goes_on_waits_for_all_batches_that_began_before(
    store: KeyStore, consumer: SubjectKeyStore
) -> None:
    """Also if another program has changed the journal mode of a SQLite file meanwhile."""
    wait = partial(wait_for_older, store.engine, report=Mock())
    async with consumer.holding({uuid4()}):
        if store.engine.dialect.name == "sqlite":
            with closing(sqlite3.connect(store.engine.url.database or "")) as other:
                other.execute("PRAGMA journal_mode = WAL")
        for _ in ("ends early", "goes on"):
            with pytest.raises(BatchesNotEnded, match="--wait: not ended"):
                await wait(within=timedelta(0))

    await wait(within=timedelta(0))


async def test_an_erasure_on_sqlite_waits_for_no_later_batch(tmp_path: Path) -> None:
    (database := tmp_path / "keys.db").touch()
    database.chmod(0o660)
    file, of_eraser = BatchFile(database), BatchFile(database)
    with ExitStack() as older:
        older.enter_context(file.held())
        assert of_eraser.begin()
        with file.held():
            assert not of_eraser.is_free()
            older.close()
            assert of_eraser.is_free()
    assert (tmp_path / "keys.db-batches").stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize("wanted", ["any", "prefer-standby"])
async def test_a_standby_of_the_key_database_is_refused(
    wanted: str, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure on the primary does not see the batches that read keys from a standby."""
    connect = asyncpg.connect

    async def to_standby(*arguments: Any, **options: Any) -> Any:
        # As a standby reports itself to the driver, which then tries the next server.
        if options["target_session_attrs"] == "primary":
            raise asyncpg.exceptions.TargetServerAttributeNotMatched
        return await connect(*arguments, **options)

    async with key_store(empty_postgres_url) as store:
        monkeypatch.setattr(asyncpg, "connect", to_standby)
        url = make_url(store.url).update_query_dict({"target_session_attrs": wanted})
        async with engine_of(url.render_as_string(hide_password=False)) as engine:
            reader = SubjectKeyStore(engine, store.ring, setting=SETTING)
            with pytest.raises(KeysUnavailable, match="no server is primary"):
                async with reader.holding({uuid4()}):
                    pytest.fail("its batches are not seen")
