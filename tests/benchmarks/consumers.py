"""
The product's consumers under test: `consumer run tests.benchmarks.consumers:default`.

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
from tests.benchmarks.effects import EVENT_TYPE, URGENT_TYPE, Effect

QUEUE = "benchmark.consumer"
BATCH_SIZE, ON_BATCH_SIZE = 100, 500
COMMITS = "BENCHMARK_COMMITS"
"""The variable that names the file of `recorded`."""


def _consumer(name: str) -> Consumer:
    return Consumer(name, bindings=[EVENT_TYPE], queue=QUEUE)


default = _consumer("default")


@default.on(EVENT_TYPE)
async def handle(message: Message[Any], session: AsyncSession) -> None:
    """A handler as a user writes it, with default settings."""
    session.add(Effect(message_id=message.id, number=message.payload["number"]))


batch = _consumer("batch")


@batch.on(EVENT_TYPE, batch_size=BATCH_SIZE)
async def handle_in_batch(message: Message[Any], session: AsyncSession) -> None:
    """The same, in a transaction that it shares with others."""
    session.add(Effect(message_id=message.id, number=message.payload["number"]))


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
    session.sync_session.info.setdefault(COMMITS, []).append(message.id)
    await effects.add(session, message.id, message.payload)


under_load = Consumer("under_load", bindings=[EVENT_TYPE, URGENT_TYPE], queue=QUEUE)


@under_load.on(EVENT_TYPE)
async def handle_flow(message: Message[Any], session: AsyncSession) -> None:
    """One of the many events beside the urgent ones."""
    session.add(Effect(message_id=message.id, number=message.payload["number"]))


@under_load.on(URGENT_TYPE)
async def record_urgent(message: Message[Any], session: AsyncSession) -> None:
    """An urgent event; the time of its commit is written down."""
    session.sync_session.info.setdefault(COMMITS, []).append(message.id)
    session.add(Effect(message_id=message.id, number=message.payload["number"]))


@sa.event.listens_for(Session, "after_commit")
def _committed(session: Session) -> None:
    # Several messages may share the commit.
    for identity in session.info.pop(COMMITS, ()):
        _lines().write(f"{identity} {time.monotonic()}\n")


@cache
def _lines() -> TextIO:
    return Path(os.environ[COMMITS]).open("a", buffering=1)
