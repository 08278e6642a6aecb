"""
Reading replies from the table `replies`, which only the consumer of replies changes.

A waiter polls the table, at first every 20 milliseconds and at last every half second, and holds
no connection in between, so that it works behind any connection pooler. One in the process that
stores the replies is woken at once.
"""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox import producer_encryption
from outbox.backoff import Exponential
from outbox.database_time import database_now, now_plus
from outbox.errors import InvalidEvent, RequestFailed, RequestTimedOut, UnknownRequest
from outbox.reply_table import replies as table
from outbox.requests.reply import Reply, body_of, payload_of
from outbox.requests.waiting import woken_by
from outbox.written_table import written

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

RETENTION = timedelta(hours=24)
"""How long a request and its reply are kept after the deadline."""

PURGE_LIMIT = 1_000

Sessions = async_sessionmaker[AsyncSession]

_POLLS = Exponential(first=timedelta(milliseconds=20), cap=timedelta(milliseconds=500))
_MOST_DOUBLINGS = 10


class _Found(NamedTuple):
    """A row of `replies`, and the time until its deadline."""

    row: Mapping[str, Any]
    left: timedelta


@overload
async def wait(
    session_factory: Sessions, correlation_id: str, /, *, model: "type[Model]"
) -> "Reply[Model]": ...
@overload
async def wait(
    session_factory: Sessions, correlation_id: str, /, *, model: None = None
) -> Reply[Any]: ...
async def wait(
    session_factory: Sessions, correlation_id: str, /, *, model: Any = None
) -> Reply[Any]:
    """
    Wait for the reply to the request with *correlation_id*, and return it, as a *model* if given.

    It waits until the deadline of the request, by the clock of the database, and holds no
    connection in between. A reply that is stored is returned at once, also after the deadline.

    Raises RequestTimedOut, RequestFailed, UnknownRequest, UnreadableMessage if the reply cannot be
    read, KeysUnavailable, and the errors of the database driver.
    """
    polls = 0
    with woken_by(*_as_sent(correlation_id)) as woken:
        while True:
            woken.clear()
            found = await _find(session_factory, correlation_id)
            if (reply := await _reply(found, correlation_id, model)) is not None:
                return reply
            polls = min(polls + 1, _MOST_DOUBLINGS)
            pause = _POLLS.delay(polls, jitter=1.0) or timedelta(0)
            await _wait_for(woken, min(pause, found.left))


@overload
async def get(
    session_factory: Sessions, correlation_id: str, /, *, model: "type[Model]"
) -> "Reply[Model] | None": ...
@overload
async def get(
    session_factory: Sessions, correlation_id: str, /, *, model: None = None
) -> Reply[Any] | None: ...
async def get(
    session_factory: Sessions, correlation_id: str, /, *, model: Any = None
) -> Reply[Any] | None:
    """
    Return the reply to the request with *correlation_id*; None while its caller has to wait.

    Raises as `wait`.
    """
    return await _reply(await _find(session_factory, correlation_id), correlation_id, model)


async def is_recorded(session_factory: Sessions, correlation_id: str, /) -> bool:
    """Whether a request with *correlation_id* is recorded; raises the errors of the driver."""
    try:
        await _find(session_factory, correlation_id)
    except UnknownRequest:
        return False
    return True


async def purge(session_factory: Sessions, /, *, older_than: timedelta = RETENTION) -> int:
    """
    Delete at most 1,000 requests whose deadline is *older_than* this, with their replies.

    Returns their number. The consumer that stores replies purges them as well; this is for a
    database whose replies have stopped. Raises the errors of the database driver.
    """
    async with session_factory() as session, session.begin():
        return await purge_in(session, older_than=older_than, limit=PURGE_LIMIT)


async def purge_in(session: AsyncSession, /, *, older_than: timedelta, limit: int) -> int:
    """Like `purge`, in the transaction of *session*, and at most *limit* requests."""
    here = _table()
    # The index replies_expires_at finds the oldest. SKIP LOCKED: no transaction waits for another.
    # A sub-select: the clock may give another time for each row, and then Postgres reads all.
    clock = now_plus(sa.literal(-older_than.total_seconds(), sa.Double))
    before = sa.select(clock).scalar_subquery()
    old = (
        sa.select(here.c.correlation_id)
        .where(here.c.expires_at < before)
        .order_by(here.c.expires_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    deleted = sa.delete(here).where(here.c.correlation_id.in_(old))
    result: Any = await session.execute(deleted)
    return int(result.rowcount)


async def _find(session_factory: Sessions, correlation_id: str) -> _Found:
    given: object = correlation_id
    if not isinstance(given, str) or not given:
        raise InvalidEvent("correlation_id", "must be a string that is not empty")
    here = _table()
    # By primary key, however often a waiter asks.
    query = sa.select(here, database_now().label("now")).where(
        here.c.correlation_id.in_(_as_sent(correlation_id))
    )
    async with session_factory() as session:
        row = (await session.execute(query)).mappings().first()
    if row is None:
        raise UnknownRequest("no request with this correlation id is recorded here")
    return _Found(dict(row), row["expires_at"] - row["now"])


async def _reply(found: _Found, correlation_id: str, model: Any) -> Reply[Any] | None:
    row, left = found
    if row["state"] == "failed":
        raise RequestFailed(row["code"] or "unknown")
    if row["state"] == "waiting":
        if left <= timedelta(0):
            raise RequestTimedOut("no reply came before the deadline of the request")
        return None
    is_encrypted = row["content_encoding"] is not None
    # A source of keys may be a server.
    body = await asyncio.to_thread(body_of, row) if is_encrypted else body_of(row)
    return Reply(
        correlation_id=correlation_id,
        payload=payload_of(body, row["content_type"], model),
        content_type=row["content_type"],
        answered_at=row["answered_at"],
        is_late=row["answered_at"] > row["expires_at"],
    )


async def _wait_for(woken: asyncio.Event, pause: timedelta) -> None:
    try:
        async with asyncio.timeout(pause.total_seconds()):
            await woken.wait()
    except TimeoutError:
        return


def _as_sent(correlation_id: str) -> list[str]:
    """The forms in which *correlation_id* may be sent: as it is, or as a digest."""
    digest = producer_encryption.digest_of("correlation_id", correlation_id)
    return [correlation_id] if digest is None else [correlation_id, digest]


def _table() -> sa.Table:
    """The table, in the schema of `outbox.use_schema`."""
    return _in_schema(written().schema)


@cache
def _in_schema(schema: str | None) -> sa.Table:
    return table if schema is None else table.to_metadata(sa.MetaData(), schema=schema)
