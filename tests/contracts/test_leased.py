"""
Leased attempts, in both databases.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from consumer.execution.decode import Attempt, decode_delivery
from consumer.execution.leased import Leased, after_lost_lease
from consumer.execution.reading import Reading
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler, Lease, OnLeaseExpired
from consumer.message import Message
from consumer.storage.leases import Held, Leases
from consumer.storage.tables import processed_messages
from consumer.verdict import DONE, DUPLICATE, DeadLetter, Wait
from outbox.database_time import now_plus
from outbox.errors import KeysUnavailable, LeaseLost
from outbox.transports.delivery import Delivery
from tests.support.builders import an_event, on_the_wire

LEASE = timedelta(seconds=1)
BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
Function = Callable[[Message[Any]], Awaitable[None]]


async def succeed(_message: Message[Any]) -> None: ...


def a_handler(function: Function = succeed, **changes: Any) -> Handler:
    lease = Lease(LEASE, changes.pop("expired", OnLeaseExpired.RETRY))
    return Handler("test.happened", function=function, lease=lease, **changes)


@pytest.fixture
def attempt() -> Attempt:
    delivery = Delivery(on_the_wire(an_event(), exchange="main"), 1, redelivered=False)
    opened = decode_delivery(delivery, a_handler(), now=datetime.now(UTC), oldest=BEFORE_ALL)
    assert isinstance(opened, Attempt)
    return opened


@pytest.fixture
def leased(engine: AsyncEngine) -> Leased:
    return Leased(UnitOfWorkFactory(engine), Leases("mail"))


async def held(leased: Leased, attempt: Attempt, handler: Handler) -> Held:
    claim = await leased.claim(handler, attempt, owner=uuid4())
    assert isinstance(claim, Held)
    return claim


async def take_over(leased: Leased) -> None:
    """Take the lease, as another process does once it has expired."""
    async with leased.units.begin() as work:
        await work.session.execute(sa.update(processed_messages).values(owner=uuid4()))
        await work.commit()


async def test_a_leased_handler_is_called_once(leased, attempt):
    handler = a_handler()
    claim = await held(leased, attempt, handler)

    called = await leased.call(handler, attempt, claim)
    assert await leased.complete(handler, attempt, claim, took=called.took) is DONE

    assert await leased.claim(handler, attempt, owner=uuid4()) is DUPLICATE


async def test_a_second_delivery_checks_again_before_the_lease_expires(leased, attempt):
    handler = a_handler()
    await held(leased, attempt, handler)

    busy = await leased.claim(handler, attempt, owner=uuid4())

    assert isinstance(busy, Wait)
    assert timedelta(0) < busy.delay <= LEASE


@pytest.mark.parametrize("expired", list(OnLeaseExpired))
async def test_after_an_expired_lease_the_handler_is_called_again_or_the_message_is_dead_lettered(
    leased, attempt, expired
):
    handler = a_handler(expired=expired)
    await held(leased, attempt, handler)
    async with leased.units.begin() as work:
        expired_lease = {"lease_until": now_plus(sa.literal(-1.0))}
        await work.session.execute(sa.update(processed_messages).values(expired_lease))
        await work.commit()

    found = await leased.claim(handler, attempt, owner=uuid4())

    if expired is OnLeaseExpired.RETRY:
        assert isinstance(found, Held)
    else:
        assert found == DeadLetter(1, "lease_expired")


@pytest.mark.parametrize("expired", list(OnLeaseExpired))
async def test_a_handler_whose_lease_is_lost_is_cancelled(leased, attempt, expired):
    ended = asyncio.Event()

    async def hang(_message: Message[Any]) -> None:
        await take_over(leased)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    handler = a_handler(hang, expired=expired)
    claim = await held(leased, attempt, handler)

    with pytest.raises(LeaseLost):
        await leased.call(handler, attempt, claim)

    assert ended.is_set()
    verdict = await leased.complete(handler, attempt, claim, took=LEASE)
    assert verdict == after_lost_lease(handler, attempt)
    assert isinstance(verdict, Wait if expired is OnLeaseExpired.RETRY else DeadLetter)


@pytest.mark.parametrize(
    "error", [RuntimeError, SystemExit, KeyboardInterrupt, asyncio.CancelledError]
)
async def test_an_error_of_a_leased_handler_is_raised_to_its_caller_only(leased, attempt, error):
    """Raised in the caller's task: in a task of its own it would end the event loop."""

    async def fail(_message: Message[Any]) -> None:
        raise error

    handler = a_handler(fail)
    claim = await held(leased, attempt, handler)

    with pytest.raises(error):
        await leased.call(handler, attempt, claim)

    await leased.release(attempt, claim)
    assert isinstance(await leased.claim(handler, attempt, owner=uuid4()), Held)


async def test_a_handler_has_as_long_as_its_timeout_says(leased, attempt):
    async def hang(_message: Message[Any]) -> None:
        await asyncio.Event().wait()

    handler = a_handler(hang, timeout=timedelta(milliseconds=20))
    claim = await held(leased, attempt, handler)

    with pytest.raises(TimeoutError):
        await leased.call(handler, attempt, claim)


async def test_a_cancellation_from_outside_ends_the_handler_and_leaves_the_lease(leased, attempt):
    """The effects of the cancelled handler are unknown, so its lease must not be released."""
    working = asyncio.Event()

    async def hang(_message: Message[Any]) -> None:
        working.set()
        await asyncio.Event().wait()

    handler = a_handler(hang)
    claim = await held(leased, attempt, handler)
    calling = asyncio.create_task(leased.call(handler, attempt, claim))
    await working.wait()

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    assert isinstance(await leased.claim(handler, attempt, owner=uuid4()), Wait)


async def test_a_message_whose_person_may_be_erased_is_not_called_and_has_no_lease(
    leased, attempt
):
    """The session that held the key was lost, as during the call before in the same batch."""
    function = AsyncMock()
    attempt.reading = Reading(verify=AsyncMock(side_effect=KeysUnavailable("lost")))
    rest = {"owner": uuid4(), "telemetry": Mock(), "after_failure": Mock()}

    with pytest.raises(KeysUnavailable):
        await leased.execute(a_handler(function), attempt, **rest)

    function.assert_not_called()
    assert isinstance(await leased.claim(a_handler(), attempt, owner=uuid4()), Held)
