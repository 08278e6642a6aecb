"""
`python -m tests.support.canary.producer FILE` records the events in FILE, a JSON object: those of
`encrypted` with the keys of the environment, and those of `plain` without. Its log has all
statements, and the errors of events that cannot be recorded.
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import outbox
from outbox import Event
from outbox.errors import InvalidEvent

log = logging.getLogger("producer")


def an_event(fields: dict[str, Any]) -> Event:
    return Event(**{**fields, "id": UUID(fields["id"])})


async def record(events: list[dict[str, Any]]) -> None:
    engine = create_async_engine(os.environ["MQ_DATABASE_URL"], echo="debug")
    async with AsyncSession(engine) as session:
        outbox.add(session, *map(an_event, events))
        await session.commit()
    try:
        an_event({**events[0], "correlation_id": events[0]["correlation_id"] + " "})
    except InvalidEvent:
        log.exception("an event with a space in an id")
    try:
        async with AsyncSession(engine) as session:
            outbox.add(session, an_event({**events[0], "type": "canary.twice"}))
            await session.flush()
            outbox.add(session, an_event({**events[0], "type": "canary.twice"}))
            await session.commit()
    except IntegrityError:
        log.exception("an event that is recorded twice")
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG)
    given = json.loads(Path(sys.argv[1]).read_text())
    asyncio.run(record(given["encrypted"]))
    outbox.use_encryption(None)
    asyncio.run(record(given["plain"]))
