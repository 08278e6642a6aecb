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
from outbox.tables import database_now
from tests.support.crashing import CALLED
from tests.support.eventually import eventually
from tests.support.proxied_consumer import RECORD, ProxiedConsumer, a_message
from tests.support.wire_protocols import ACK, COMMIT, statement

pytestmark = pytest.mark.fault

COMPLETION = statement("UPDATE processed_messages")
RETRY, DEAD_LETTER = "test.leased.repeat", "test.leased.stop"


@pytest.fixture
async def stage(postgres_url, rabbitmq_url, tmp_path):
    async with ProxiedConsumer(postgres_url, rabbitmq_url, tmp_path) as stage:
        yield stage


def calls(stage: ProxiedConsumer) -> int:
    return stage.deployment.logs().count(CALLED)


async def is_completed(stage: ProxiedConsumer, *, after: int) -> None:
    """Check that the message was completed in *after* calls, and the queues are empty."""

    async def completed() -> bool:
        return await stage.records() == [("completed", 1)]

    await eventually(completed)
    await stage.ends()
    assert calls(stage) == after
    assert await stage.deployment.dead() == []
    assert await stage.left() == {}


async def is_stopped(stage: ProxiedConsumer, *, after: int) -> None:
    """Check that the message was dead-lettered after *after* calls, for an operator."""
    await stage.gives_up(1)
    await stage.ends()
    assert calls(stage) == after
    assert [row["reason"] for row in await stage.deployment.dead()] == ["lease_expired"]
    assert await stage.records() == [("failed", 1)]
    assert await stage.left() == {}


async def lease_is_over(stage: ProxiedConsumer) -> bool:
    over = sa.select(processed_messages.c.lease_until < database_now())
    async with stage.deployment.engine.connect() as connection:
        return bool(await connection.scalar(over))


@pytest.mark.parametrize("event_type", [RETRY, DEAD_LETTER])
@pytest.mark.parametrize("committed", [False, True])
async def test_a_claim_whose_outcome_is_unknown_is_repeated_and_leads_to_one_call(
    stage, committed, event_type
):
    await stage.consumer()
    trap = (stage.database.after if committed else stage.database.before)(RECORD, COMMIT)
    await stage.publish(a_message(event_type))
    await trap.sprung()

    trap.cut()

    await is_completed(stage, after=1)


async def test_a_consumer_killed_before_its_claim_is_committed_leaves_the_message_to_another(
    stage,
):
    doomed = await stage.consumer()
    trap = stage.database.before(RECORD, COMMIT)
    await stage.publish(a_message(DEAD_LETTER))
    await trap.sprung()

    doomed.kill()
    await stage.consumer()

    await is_completed(stage, after=1)


async def test_a_consumer_killed_once_its_claim_is_committed_may_have_called_its_handler(stage):
    doomed = await stage.consumer()
    trap = stage.database.after(RECORD, COMMIT)
    await stage.publish(a_message(DEAD_LETTER))
    await trap.sprung()

    doomed.kill()
    await stage.consumer()

    await is_stopped(stage, after=0)


@pytest.mark.parametrize("event_type", [RETRY, DEAD_LETTER])
async def test_a_consumer_killed_after_the_call_leaves_the_decision_to_the_policy(
    stage, event_type
):
    doomed = await stage.consumer()
    trap = stage.database.before(COMPLETION)
    await stage.publish(a_message(event_type))
    await trap.sprung()

    doomed.kill()
    await stage.consumer()

    if event_type == RETRY:
        await is_completed(stage, after=2)
    else:
        await is_stopped(stage, after=1)


async def test_a_database_that_is_unavailable_for_longer_than_the_lease_leads_to_no_second_call(
    stage,
):
    await stage.consumer()
    trap = stage.database.before(COMPLETION)
    await stage.publish(a_message(DEAD_LETTER))
    await trap.sprung()

    await stage.database.cut()
    await eventually(lambda: lease_is_over(stage))
    assert await stage.records() == [("processing", 1)]
    await stage.database.restore()

    await is_completed(stage, after=1)


@pytest.mark.parametrize("event_type", [RETRY, DEAD_LETTER])
@pytest.mark.parametrize("committed", [False, True])
async def test_a_completion_whose_outcome_is_unknown_leads_to_no_second_call(
    stage, committed, event_type
):
    await stage.consumer()
    trap = (stage.database.after if committed else stage.database.before)(COMPLETION, COMMIT)
    await stage.publish(a_message(event_type))
    await trap.sprung()
    acknowledged = stage.broker.before(ACK)

    trap.cut()

    await acknowledged.sprung()
    acknowledged.release()
    await is_completed(stage, after=1)


async def test_a_consumer_killed_once_it_has_completed_leads_to_no_second_call(stage):
    doomed = await stage.consumer()
    trap = stage.broker.before(ACK)
    await stage.publish(a_message(DEAD_LETTER))
    await trap.sprung()

    doomed.kill()
    successor = await stage.consumer()

    await successor.wait_for_line('"status": "duplicate"')
    await is_completed(stage, after=1)
