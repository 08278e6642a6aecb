"""
Watching an exchange: a page of copies after another, until a limit, a time, or a signal.

Copies with bodies are returned only after the audit log has a committed row with the person and
their number.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from outbox.audit.log import Action
from outbox.audit_tables import audit_log
from outbox.database import migrate, privileges, row_access
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights
from outbox.encryption_settings import KEYS
from outbox.errors import ConfigurationError, UnreadableMessage
from outbox.runtime.shield import commit
from outbox.transports.observation import Copy, Observation
from outbox.watching import shown
from outbox.watching.request import WatchRequest, WatchSource
from outbox.wire import codec
from outbox.wire.encrypted import is_encrypted

if TYPE_CHECKING:
    from outbox.dead_letters.letter_keys import LetterKeys

PAGE = 500
"""The most copies that are shown, and recorded, at a time."""
RIGHTS: Rights = {audit_log: ("INSERT",)}


@dataclass(frozen=True, slots=True)
class Page:
    """Copies as JSON objects, and how many are known to be lost so far."""

    copies: Sequence[Mapping[str, Any]]
    missed: int


async def pages(
    source: WatchSource, request: WatchRequest, stop: asyncio.Event
) -> AsyncGenerator[Page]:
    """
    Yield the copies as they come; the first page is empty, and says that the observer is there.

    It ends at the limit or the time of *request*, or when *stop* is set.
    Raises ConfigurationError, BrokerUnavailable, DatabaseUnavailable and KeysUnavailable.
    """
    async with AsyncExitStack() as stack:
        engine, keys = await _opened(source, request, stack)
        messages, has_bodies = request.messages, request.audit is not None
        name = f"{source.name}.watch.{secrets.token_hex(8)}"
        observation = await stack.enter_async_context(
            source.transport().observe(messages.bindings(name), name=name, bodies=has_bodies)
        )
        yield Page([], 0)
        chosen = await stack.enter_async_context(aclosing(batches(observation, request, stop)))
        async for copies in chosen:
            if engine is not None and request.audit is not None:
                await _record(engine, request, len(copies))
            now = datetime.now(UTC)
            objects = []
            for each in copies:
                found = shown.metadata(each, at=now)
                if has_bodies:
                    found |= shown.private(each, await _decrypted(each, keys))
                objects.append(found)
            yield Page(objects, observation.missed)


async def _opened(
    source: WatchSource, request: WatchRequest, stack: AsyncExitStack
) -> "tuple[AsyncEngine | None, LetterKeys | None]":
    """Open the database and the keys that *request* needs."""
    if request.audit is None:
        return None, None
    engine = await stack.enter_async_context(source.database())
    await migrate.verify(engine)
    await privileges.verify(engine, RIGHTS)
    await row_access.verify(engine, RIGHTS)
    if not request.decrypt:
        return engine, None
    keys = await stack.enter_async_context(source.keys())
    if keys is None:
        raise ConfigurationError(f"--decrypt: needs {KEYS}")
    return engine, keys


async def batches(
    observation: Observation, request: WatchRequest, stop: asyncio.Event
) -> AsyncGenerator[list[Copy]]:
    """The copies of *observation*, until *stop* is set or *request* says that it is enough."""
    left = request.limit
    clock = asyncio.get_running_loop().time
    ends_at = None if request.within is None else clock() + request.within.total_seconds()
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while left is None or left > 0:
            rest = None if ends_at is None else ends_at - clock()
            # Where copies always wait, taking them never does.
            if stop.is_set() or (rest is not None and rest <= 0):
                return
            taking = asyncio.ensure_future(
                observation.take(PAGE if left is None else min(PAGE, left))
            )
            try:
                await asyncio.wait(
                    {taking, stopping}, timeout=rest, return_when=asyncio.FIRST_COMPLETED
                )
                if not taking.done():
                    return
            finally:
                taking.cancel()
            copies = taking.result()
            left = None if left is None else left - len(copies)
            yield copies
    finally:
        stopping.cancel()


async def _record(engine: AsyncEngine, request: WatchRequest, number: int) -> None:
    if request.audit is None:
        return
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await request.audit.record(connection, Action.WATCH_BODIES, number)
            await commit(connection)


async def _decrypted(copy: Copy, keys: "LetterKeys | None") -> dict[str, Any]:
    """Return the fields of *copy* that *keys* decrypt, or why they do not."""
    if keys is None or not is_encrypted(copy.message.content_encoding):
        return {}
    try:
        envelope = codec.from_wire(copy.message, decrypt=lambda encrypted: encrypted)
        content = await keys.content(envelope)
    except UnreadableMessage as error:
        return {"private": {"not_decrypted": error.code}}
    return {
        "body": content.body,
        "content_encoding": None,
        "private": {"correlation_id": content.correlation_id, "headers": dict(content.headers)},
    }
