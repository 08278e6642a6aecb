"""
The call of a handler for the attempts of a transaction, and the replies that it returns.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import timedelta
from functools import partial
from math import inf
from typing import Any, NamedTuple

from consumer.batch_sizes import LONGEST_CALLS
from consumer.execution.answers import answers_of, answers_of_list
from consumer.execution.decode import Attempt
from consumer.execution.session_guard import REFUSAL
from consumer.execution.unit_of_work import UnitOfWork
from consumer.handler import Handler
from consumer.log_fields import fields_of
from consumer.storage.outgoing_replies import record
from outbox.errors import TransactionEndedByHandler
from outbox.runtime.log_context import HANDLED


async def call(
    handler: Handler, attempts: Sequence[Attempt], work: UnitOfWork
) -> dict[str, timedelta]:
    """
    Call *handler* for *attempts*; returns how long each call took, by idempotency key.

    If it may choose the size of its batches, it calls for no further attempt after
    `LONGEST_CALLS`: a handler that has become slow holds its transaction open no longer.
    """
    if handler.takes_list:
        messages = [attempt.message for attempt in attempts]
        called = await _call(handler, messages, work)
        await record(work.session, answers_of_list(handler, attempts, called.result))
        return dict.fromkeys([attempt.key for attempt in attempts], called.took)
    durations: dict[str, timedelta] = {}
    clock = asyncio.get_running_loop().time
    latest = clock() + LONGEST_CALLS.total_seconds() if handler.batch_size is None else inf
    for attempt in attempts:
        if durations and clock() > latest:
            break
        called = await _call(handler, attempt.message, work)
        durations[attempt.key] = called.took
        if attempt.delivery.message.reply_to is not None:
            await record(work.session, answers_of(handler, [attempt], [called.result]))
        if len(attempts) > 1:
            work.session.sync_session.keep_changes()
    return durations


class Called(NamedTuple):
    """What a handler has returned, and how long its call took."""

    result: Any
    took: timedelta


async def _call(handler: Handler, argument: Any, work: UnitOfWork) -> Called:
    clock = asyncio.get_running_loop().time
    began = clock()
    handled = HANDLED.set(partial(fields_of, argument))
    try:
        async with within(handler.timeout):
            result = await handler.call(argument, work.session)
    finally:
        HANDLED.reset(handled)
    took = timedelta(seconds=clock() - began)
    if not work.is_open:
        # At once: a further handler would write into another transaction, or into none.
        raise TransactionEndedByHandler(REFUSAL)
    return Called(result, took)


def within(timeout: timedelta | None) -> AbstractAsyncContextManager[object]:
    """A deadline for the block, or none."""
    return nullcontext() if timeout is None else asyncio.timeout(timeout.total_seconds())
