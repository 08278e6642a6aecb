"""
A consumer that dies or is cut off around a handler whose effects are outside of the database.

    T1  claim with a lease, COMMIT
        call
    T2  complete, COMMIT
        acknowledge

| crash                                      | test                                               |
|--------------------------------------------|----------------------------------------------------|
| before T1 is committed                     | `test_a_consumer_killed_before_its_claim_…`        |
| T1, outcome of the COMMIT unknown          | `test_a_claim_whose_outcome_is_unknown_…`          |
| after T1, before the call                  | `test_a_consumer_killed_once_its_claim_…`          |
| in the call                                | `tests/integration/test_behaviours.py`             |
| after the call, before T2                  | `test_a_consumer_killed_after_the_call_…`          |
| the database is unavailable at T2          | `test_a_database_that_is_unavailable_…`            |
| T2, outcome of the COMMIT unknown          | `test_a_completion_whose_outcome_is_unknown_…`     |
| after T2, before the acknowledgement       | `test_a_consumer_killed_once_it_has_completed_…`   |

After an expired lease the outcome is unknown: `RETRY` calls the handler again, `DEAD_LETTER`
gives the message to a human.
"""

import pytest
import sqlalchemy as sa

from consumer.storage.tables import processed_messages
from outbox.database_time import database_now
from tests.support.crashing import CALLED
from tests.support.eventually import eventually
from tests.support.proxied_consumer import RECORD, ProxiedConsumer
from tests.support.wire_protocols import ACK, COMMIT, statement

pytestmark = pytest.mark.fault

COMPLETION = statement("UPDATE processed_messages")
RETRY, DEAD_LETTER = "test.leased.repeat", "test.leased.stop"


@pytest.fixture
async def consumers(postgres_url, rabbitmq_url, tmp_path):
    async with ProxiedConsumer(postgres_url, rabbitmq_url, tmp_path) as consumers:
        yield consumers


def calls(consumers: ProxiedConsumer) -> int:
    return consumers.deployment.logs().count(CALLED)


async def is_completed(consumers: ProxiedConsumer, *, after: int) -> None:
    """Check that the message was completed in *after* calls, and the queues are empty."""

    async def completed() -> bool:
        return await consumers.records() == [("completed", 1)]

    await eventually(completed)
    await consumers.ends()
    assert calls(consumers) == after
    assert await consumers.deployment.dead() == []
    assert await consumers.left() == {}


async def is_stopped(consumers: ProxiedConsumer, *, after: int) -> None:
    """Check that the message was dead-lettered after *after* calls, for an operator."""
    await consumers.waits_for_dead_letters(1)
    await consumers.ends()
    assert calls(consumers) == after
    assert [row["reason"] for row in await consumers.deployment.dead()] == ["lease_expired"]
    assert await consumers.records() == [("failed", 1)]
    assert await consumers.left() == {}


async def lease_is_over(consumers: ProxiedConsumer) -> bool:
    over = sa.select(processed_messages.c.lease_until < database_now())
    async with consumers.deployment.engine.connect() as connection:
        return bool(await connection.scalar(over))


@pytest.mark.parametrize(("committed", "event_type"), [(False, RETRY), (True, DEAD_LETTER)])
async def test_a_claim_whose_outcome_is_unknown_is_repeated_and_leads_to_one_call(
    consumers, committed, event_type
):
    trap = (consumers.database.after if committed else consumers.database.before)(RECORD, COMMIT)
    await consumers.hit(trap, event_type)

    trap.cut()

    await is_completed(consumers, after=1)


async def test_a_consumer_killed_before_its_claim_is_committed_leaves_the_message_to_another(
    consumers,
):
    trap = consumers.database.before(RECORD, COMMIT)
    doomed, _ = await consumers.hit(trap, DEAD_LETTER)

    doomed.kill()
    await consumers.consumer()

    await is_completed(consumers, after=1)


async def test_a_consumer_killed_once_its_claim_is_committed_may_have_called_its_handler(
    consumers,
):
    trap = consumers.database.after(RECORD, COMMIT)
    doomed, _ = await consumers.hit(trap, DEAD_LETTER)

    doomed.kill()
    await consumers.consumer()

    await is_stopped(consumers, after=0)


@pytest.mark.parametrize("event_type", [RETRY, DEAD_LETTER])
async def test_a_consumer_killed_after_the_call_leaves_the_decision_to_the_policy(
    consumers, event_type
):
    trap = consumers.database.before(COMPLETION)
    doomed, _ = await consumers.hit(trap, event_type)

    doomed.kill()
    await consumers.consumer()

    if event_type == RETRY:
        await is_completed(consumers, after=2)
    else:
        await is_stopped(consumers, after=1)


async def test_a_database_that_is_unavailable_for_longer_than_the_lease_leads_to_no_second_call(
    consumers,
):
    trap = consumers.database.before(COMPLETION)
    await consumers.hit(trap, DEAD_LETTER)

    await consumers.database.cut()
    await eventually(lambda: lease_is_over(consumers))
    assert await consumers.records() == [("processing", 1)]
    await consumers.database.restore()

    await is_completed(consumers, after=1)


@pytest.mark.parametrize(("committed", "event_type"), [(False, DEAD_LETTER), (True, RETRY)])
async def test_a_completion_whose_outcome_is_unknown_leads_to_no_second_call(
    consumers, committed, event_type
):
    trap = (consumers.database.after if committed else consumers.database.before)(
        COMPLETION, COMMIT
    )
    await consumers.hit(trap, event_type)
    acknowledged = consumers.broker.before(ACK)

    trap.cut()

    await acknowledged.wait_until_hit()
    acknowledged.release()
    await is_completed(consumers, after=1)


async def test_a_consumer_killed_once_it_has_completed_leads_to_no_second_call(consumers):
    trap = consumers.broker.before(ACK)
    doomed, _ = await consumers.hit(trap, DEAD_LETTER)

    doomed.kill()
    successor = await consumers.consumer()

    await successor.wait_for_line('"status": "duplicate"')
    await is_completed(consumers, after=1)
