"""
A consumer that dies or is cut off at each point of handling a message in a transaction.

    C0  the broker delivers
    C2  BEGIN
    C3  record that the message is done
    C4  handler: effects
    C5  COMMIT
    C6  acknowledge

| crash                                      | test                                               |
|--------------------------------------------|----------------------------------------------------|
| C0                                         | `test_a_consumer_killed_before_…[not_delivered]`   |
| C2, C3                                     | `…[not_recorded]`, also when the session ends      |
| C4, between record and effects             | `…[not_applied]`, also when the session ends       |
| C4, in the handler                         | `tests/integration/test_consumer.py`               |
| C5, COMMIT not heard by the database       | `…[not_committed]`, also when the session ends     |
| C5, outcome of the COMMIT unknown          | `test_a_consumer_that_does_not_know_…`             |
| after C5, before C6                        | `test_a_consumer_killed_before_its_acknowledgement`|
| C6 sent, the broker never got it           | `test_an_ack_that_is_lost_on_its_way_…`            |
| two consumers have it, the first commits   | `test_of_two_consumers_…_commits`                  |
| two consumers have it, the first does not  | `test_of_two_consumers_…_rolls_back`               |
| the handler raises, Postgres is unreachable| `tests/integration/test_consumer.py`               |
| the database crashes                       | `test_server_crashes`                              |

Attempts that end in another way than by their handler's failure are not counted.
"""

import pytest
import sqlalchemy as sa

from outbox.wire.codec import WireMessage
from tests.support.breakpoints import Breakpoint
from tests.support.eventually import eventually
from tests.support.proxied_consumer import APPLIED, RECORD, ProxiedConsumer, a_message
from tests.support.wire_protocols import ACK, COMMIT, DELIVER

pytestmark = pytest.mark.fault

WAITING = sa.text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    " AND datname = current_database() AND query LIKE 'INSERT INTO processed_messages%'"
)


@pytest.fixture
async def consumers(postgres_url, rabbitmq_url, tmp_path):
    async with ProxiedConsumer(postgres_url, rabbitmq_url, tmp_path) as consumers:
        yield consumers


def a_breakpoint(consumers: ProxiedConsumer, point: str) -> Breakpoint:
    match point:
        case "not_delivered":
            return consumers.broker.before_reply(DELIVER)
        case "not_recorded":
            return consumers.database.before(RECORD)
        case "not_applied":
            return consumers.database.before(APPLIED)
        case "not_committed":
            return consumers.database.before(APPLIED, COMMIT)
        case _:
            raise ValueError(point)


async def is_applied_once(consumers: ProxiedConsumer, message: WireMessage) -> None:
    """Wait for the effect, end all consumers, and check that no other trace is left."""
    await consumers.deployment.applies(1)
    await consumers.ends()
    assert [str(event_id) for event_id in await consumers.deployment.applied()] == [
        message.message_id
    ]
    assert await consumers.records() == [("completed", 1)]
    assert await consumers.deployment.dead() == []
    assert await consumers.left() == {}


@pytest.mark.parametrize(
    "point", ["not_delivered", "not_recorded", "not_applied", "not_committed"]
)
async def test_a_consumer_killed_before_its_commit_leaves_the_message_to_another(consumers, point):
    trap = a_breakpoint(consumers, point)
    doomed, message = await consumers.hit(trap)

    doomed.kill()
    await consumers.consumer()

    await is_applied_once(consumers, message)


@pytest.mark.parametrize("point", ["not_recorded", "not_applied", "not_committed"])
async def test_a_consumer_that_loses_its_session_before_its_commit_makes_the_attempt_again(
    consumers, point
):
    trap = a_breakpoint(consumers, point)
    consumer, message = await consumers.hit(trap)

    trap.cut()

    await is_applied_once(consumers, message)
    assert "handler_failed" not in consumer.output


async def test_a_consumer_that_does_not_know_whether_it_has_committed_finds_its_record(consumers):
    trap = consumers.database.after(APPLIED, COMMIT)
    consumer, message = await consumers.hit(trap)

    trap.cut()

    await consumer.wait_for_line('"status": "duplicate"')
    await is_applied_once(consumers, message)
    assert "handler_failed" not in consumer.output


async def test_a_consumer_killed_before_its_acknowledgement_has_done_its_work(consumers):
    trap = consumers.broker.before(ACK)
    doomed, message = await consumers.hit(trap)

    doomed.kill()
    successor = await consumers.consumer()

    await successor.wait_for_line('"status": "duplicate"')
    await is_applied_once(consumers, message)


async def test_an_ack_that_is_lost_on_its_way_is_sent_again(consumers):
    trap = consumers.broker.before(ACK)
    consumer, message = await consumers.hit(trap)

    trap.cut()

    await consumer.wait_for_line('"status": "duplicate"')
    await is_applied_once(consumers, message)


async def two_have_it(consumers: ProxiedConsumer, message: WireMessage) -> Breakpoint:
    """
    Two consumers are at *message*: one that has lost its channel, before its COMMIT, and one that
    waits for it. Returns the trap that holds the COMMIT.
    """
    await consumers.consumer()
    await consumers.consumer()
    delivery, commit = (
        consumers.broker.before_reply(DELIVER),
        a_breakpoint(consumers, "not_committed"),
    )
    await consumers.publish(message)
    await delivery.wait_until_hit()
    delivery.release()
    await commit.wait_until_hit()
    delivery.cut()

    async def second_waits() -> bool:
        async with consumers.deployment.engine.connect() as connection:
            return await connection.scalar(WAITING) == 1

    await eventually(second_waits)
    assert await consumers.deployment.applied() == []
    return commit


async def test_of_two_consumers_with_one_message_the_second_finds_it_done_when_the_first_commits(
    consumers,
):
    message = a_message()
    commit = await two_have_it(consumers, message)

    commit.release()

    await eventually(lambda: '"status": "duplicate"' in consumers.deployment.logs())
    await is_applied_once(consumers, message)


async def test_of_two_consumers_with_one_message_the_second_proceeds_when_the_first_rolls_back(
    consumers,
):
    message = a_message()
    commit = await two_have_it(consumers, message)

    commit.cut()

    await is_applied_once(consumers, message)
