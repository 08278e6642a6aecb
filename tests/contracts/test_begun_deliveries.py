"""
The counts of redelivered messages that processes have begun, on both databases.
"""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from consumer.storage.begun import BegunDeliveries, identity_of
from consumer.storage.tables import ago, begun_deliveries
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage
from outbox.wire.headers import IDEMPOTENCY_KEY_HEADER


@pytest.fixture
def begun(engine: AsyncEngine) -> BegunDeliveries:
    return BegunDeliveries("etl", async_sessionmaker(engine))


async def test_each_begin_is_a_strike_of_its_message_and_consumer(begun, engine):
    other = BegunDeliveries("other", async_sessionmaker(engine))
    await begun.begin(["a", "b", "a"])
    await begun.begin(["a"])
    await other.begin(["a"])

    assert await begun.strikes(["a", "b", "c"]) == {"a": 2, "b": 1}
    assert await other.strikes(["a", "b"]) == {"a": 1}


async def test_a_strike_can_be_taken_back_and_a_message_forgotten(begun):
    await begun.begin(["a", "b"])
    await begun.begin(["a", "b"])

    await begun.take_back(["a"])
    await begun.forget(["b"])

    assert await begun.strikes(["a", "b"]) == {"a": 1}
    await begun.take_back(["a", "b"])
    await begun.take_back(["a"])
    assert (await begun.strikes(["a"])).get("a", 0) == 0


async def test_a_row_whose_message_never_came_again_is_deleted_after_a_week(begun, engine):
    await begun.begin(["old", "young"])
    async with engine.begin() as connection:
        await connection.execute(
            sa.update(begun_deliveries)
            .where(begun_deliveries.c.message == "old")
            .values(begun_at=ago(timedelta(days=8)))
        )

    await begun.forget(["another"])

    assert await begun.strikes(["old", "young"]) == {"young": 1}


@pytest.mark.parametrize("key", ["k", "x" * 60_000, "\0", "\ud800"])
def test_any_key_of_any_program_has_an_identity_of_one_size(key):
    of_key = a_delivery(headers={IDEMPOTENCY_KEY_HEADER: key}, message_id="1")
    of_id = a_delivery(headers={}, message_id=key)

    assert identity_of(of_key) == identity_of(of_id)
    assert len(identity_of(of_key) or "") == 32
    assert identity_of(a_delivery(headers={}, message_id=None)) is None


def a_delivery(**values) -> Delivery:
    return Delivery(WireMessage(exchange="", routing_key="q", body=b"", **values), 1, False)
