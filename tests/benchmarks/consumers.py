"""
The product's consumers under test: `consumer run tests.benchmarks.consumers:single`.

They share a queue, which is filled again for each. Each consumer has its own dedup rows.
"""

import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, TextIO

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from consumer import Consumer, Message
from tests.benchmarks import effects
from tests.benchmarks.effects import EVENT_TYPE

QUEUE = "benchmark.consumer"
BATCH_SIZE, ON_BATCH_SIZE = 100, 500
COMMITS = "BENCHMARK_COMMITS"
"""The variable that names the file of `recorded`."""


def _consumer(name: str) -> Consumer:
    return Consumer(name, bindings=[EVENT_TYPE], queue=QUEUE)


single = _consumer("single")


@single.on(EVENT_TYPE)
async def handle(message: Message[Any], session: AsyncSession) -> None:
    """One message, one transaction."""
    await effects.add(session, message.id, message.payload)


batch = _consumer("batch")


@batch.on(EVENT_TYPE, batch_size=BATCH_SIZE)
async def handle_in_batch(message: Message[Any], session: AsyncSession) -> None:
    """The same, in a transaction that it shares with others."""
    await effects.add(session, message.id, message.payload)


on_batch = _consumer("on_batch")


@on_batch.on_batch(EVENT_TYPE, size=ON_BATCH_SIZE)
async def handle_all(messages: Sequence[Message[Any]], session: AsyncSession) -> None:
    """A list of messages, and one statement for them."""
    await effects.add_many(session, [(message.id, message.payload) for message in messages])


recorded = _consumer("recorded")


@recorded.on(EVENT_TYPE)
async def record(message: Message[Any], session: AsyncSession) -> None:
    """
    Handle one message; write its id and the monotonic clock to a file after the commit.
    """
    session.sync_session.info[COMMITS] = message.id
    await effects.add(session, message.id, message.payload)


@sa.event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    if COMMITS in session.info:
        _lines().write(f"{session.info.pop(COMMITS)} {time.monotonic()}\n")


@cache
def _lines() -> TextIO:
    return Path(os.environ[COMMITS]).open("a", buffering=1)
