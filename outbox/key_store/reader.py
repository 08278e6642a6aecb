"""
The keys of the persons of a batch, which no erasure destroys before the batch ends.

An erasure first commits the state `erasing`, and then waits for the batches that had begun to read
before. On Postgres a batch reads its keys in a transaction that stays open until its end, and the
erasure finds it by its lock on the table; on SQLite see `batch_file`. Batches never wait for each
other.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import DEFERRED
from outbox.database.errors import TRANSLATED, with_deadline
from outbox.encryption.key_tables import ACTIVE, subject_keys
from outbox.encryption.keys import KeyProvider, KeysUnavailable
from outbox.encryption.subjects import HeldSubjectKeys
from outbox.errors import DatabaseUnavailable
from outbox.key_store.batch_file import BatchFile
from outbox.key_store.engine import (
    NO_TIMEOUTS_FOR_TRANSACTION,
    is_pooled,
    keys_unavailable,
)
from outbox.key_store.unwrapped import UnwrappedSubjectKeys

ANSWER = timedelta(seconds=10)
"""How long a batch waits for an answer of the key database."""

_ALIVE = sa.text("SELECT 1")


class SubjectKeyStore:
    """
    The keys of persons in the key database of *engine*, wrapped by *keys*.

    Each batch takes one connection of the engine; errors begin with *setting*. Raises
    KeysUnavailable.
    """

    def __init__(self, engine: AsyncEngine, keys: KeyProvider, *, setting: str) -> None:
        self._engine = engine.execution_options(**DEFERRED)
        self._setting = setting
        self._unwrapped = UnwrappedSubjectKeys(keys)
        is_file = engine.dialect.name == "sqlite"
        self._file = BatchFile(engine.url.database or "") if is_file else None

    @asynccontextmanager
    async def holding(self, ids: Collection[UUID], /) -> AsyncIterator[HeldSubjectKeys]:
        """Hold the keys with these *ids* until the exit; see `SubjectKeyReader`."""
        if not ids:
            yield _NONE
            return
        if self._file is not None:
            with self._locked(self._file):
                yield _HeldByFile(await self._read_once(ids))
            return
        connection = await self._connected()
        try:
            keys = await self._read(connection, ids)
            yield _Held(connection, keys, self._setting)
        finally:
            await _release(connection)

    @contextmanager
    def _locked(self, file: BatchFile) -> Iterator[None]:
        """Hold the lock of a batch; errors of the block are raised as they are."""
        with ExitStack() as stack:
            try:
                stack.enter_context(file.held())
            except OSError as error:
                name = type(error).__name__
                raise KeysUnavailable(
                    f"{self._setting}: the file {file.name} cannot be locked ({name})"
                ) from None
            yield

    async def _read_once(self, ids: Collection[UUID]) -> Mapping[UUID, bytes | None]:
        """Read keys in a transaction that ends at once."""
        connection = await self._connected()
        try:
            return await self._read(connection, ids)
        finally:
            await _release(connection)

    async def _connected(self) -> AsyncConnection:
        connection: AsyncConnection = await self._answer(self._engine.connect().start())
        return connection

    async def _read(
        self, connection: AsyncConnection, ids: Collection[UUID]
    ) -> Mapping[UUID, bytes | None]:
        if is_pooled(self._engine):
            await self._answer(connection.execute(NO_TIMEOUTS_FOR_TRANSACTION))
        rows = (await self._answer(connection.execute(_select(connection, ids)))).all()
        erased: dict[UUID, bytes | None] = {
            id_: None for id_, _, wrapped, state in rows if state != ACTIVE or wrapped is None
        }
        wanted = [
            (id_, key_id, bytes(wrapped)) for id_, key_id, wrapped, _ in rows if id_ not in erased
        ]
        self._unwrapped.forget(erased)
        found = self._unwrapped.known(wanted)
        if len(found) < len(wanted):
            # A source may ask a server.
            found = await asyncio.to_thread(self._unwrapped.all, wanted)
        return erased | found

    async def _answer(self, request: Any) -> Any:
        try:
            async with with_deadline(ANSWER):
                return await request
        except DatabaseUnavailable as error:
            raise keys_unavailable(self._setting, error) from None


class _Held:
    def __init__(
        self, connection: AsyncConnection, keys: Mapping[UUID, bytes | None], setting: str
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._setting = setting

    @property
    def keys(self) -> Mapping[UUID, bytes | None]:
        return self._keys

    async def verify(self) -> None:
        try:
            async with with_deadline(ANSWER):
                await self._connection.execute(_ALIVE)
        except DatabaseUnavailable as error:
            raise keys_unavailable(self._setting, error) from None


@dataclass(frozen=True, slots=True)
class _HeldByFile:
    """The keys of a batch on SQLite."""

    keys: Mapping[UUID, bytes | None]

    async def verify(self) -> None:
        """Do nothing: the lock is held until this process frees it."""


class _HeldNone:
    """The keys of a batch without subjects, which needs no key database."""

    keys: Mapping[UUID, bytes | None] = {}

    async def verify(self) -> None:
        """Do nothing: there is no key to destroy."""


_NONE = _HeldNone()


def _select(connection: AsyncConnection, ids: Collection[UUID]) -> sa.Select[Any]:
    column = subject_keys.c
    # One statement for any number of ids on Postgres, which is prepared once.
    where = (
        column.id == sa.any_(sa.cast(list(ids), postgresql.ARRAY(sa.Uuid())))
        if connection.dialect.name == "postgresql"
        else column.id.in_(list(ids))
    )
    return sa.select(column.id, column.key_id, column.wrapped, column.state).where(where)


async def _release(connection: AsyncConnection) -> None:
    """End the transaction; a connection that does not answer is ended without it."""
    try:
        async with asyncio.timeout(ANSWER.total_seconds()):
            await connection.close()
    except TRANSLATED:
        await connection.invalidate()
        await connection.close()
