"""
A consumer that dies or is cut off while it retries a message, or dead-letters it.

    publish a copy to the retry queue, and wait for the confirm; then acknowledge
    write to dead_letters and record that it has failed, COMMIT; then acknowledge

| crash                                      | test                                               |
|--------------------------------------------|----------------------------------------------------|
| before the copy is with the broker         | `test_a_consumer_killed_before_the_copy_…`         |
| the broker has the copy, confirm not heard | `test_a_consumer_killed_between_…[not_confirmed]`  |
| the copy is confirmed, no acknowledgement  | `test_a_consumer_killed_between_…[not_acked]`      |
| likewise, and all attempts fail            | `test_original_and_copy_that_both_fail_…`          |
| the confirm is lost with the connection    | `test_a_consumer_that_loses_the_confirm_…`         |
| the copy is returned                       | `test_as_long_as_no_queue_takes_the_copy_…`        |
| before the dead letter is committed        | `test_a_dead_letter_that_was_not_committed_…`      |
| outcome of its COMMIT unknown              | `test_a_consumer_that_does_not_know_…`             |
| after it, before the acknowledgement       | `test_a_dead_lettered_message_that_was_not_acked_…`|

Neither publish and acknowledgement nor COMMIT and acknowledgement can be one. A message that comes
again is a duplicate only if it was completed, and not if it was dead-lettered; so each such crash
can leave one dead letter more.
"""

import pytest

from tests.support.breakpoints import Breakpoint
from tests.support.processes import ChildProcess
from tests.support.proxied_consumer import RETRY_QUEUE, ProxiedConsumer, a_message
from tests.support.wire_protocols import ACK, COMMIT, PUBLISH, RETURN, statement

pytestmark = pytest.mark.fault

DEAD_LETTER = statement("INSERT INTO dead_letters")


@pytest.fixture
async def consumers(postgres_url, rabbitmq_url, tmp_path):
    async with ProxiedConsumer(postgres_url, rabbitmq_url, tmp_path) as consumers:
        yield consumers


@pytest.fixture
async def last_try(postgres_url, rabbitmq_url, tmp_path):
    """Consumers that dead-letter a message after its first failure."""
    async with ProxiedConsumer(
        postgres_url, rabbitmq_url, tmp_path, MQ_MAX_RETRIES="0"
    ) as consumers:
        yield consumers


def attempts_that_failed(consumers: ProxiedConsumer) -> int:
    return consumers.deployment.logs().count('"event": "handler_failed"')


async def is_applied_once(consumers: ProxiedConsumer) -> None:
    await consumers.deployment.applies(1)
    await consumers.ends()
    assert len(await consumers.deployment.applied()) == 1
    assert await consumers.records() == [("completed", 2)]
    assert await consumers.deployment.dead() == []
    assert await consumers.left() == {}


async def replaced(
    consumers: ProxiedConsumer, trap: Breakpoint, doomed: ChildProcess, event_type: str
) -> ChildProcess:
    """Publish a message; when *trap* is hit, kill *doomed*. Returns its successor."""
    await consumers.publish(a_message(event_type))
    await trap.wait_until_hit()
    doomed.kill()
    return await consumers.consumer()


async def test_a_consumer_killed_before_the_copy_is_with_the_broker_has_not_counted_its_attempt(
    consumers,
):
    doomed = await consumers.consumer()

    await replaced(consumers, consumers.broker.before(PUBLISH), doomed, "test.fails.once")

    await is_applied_once(consumers)
    assert attempts_that_failed(consumers) == 2


@pytest.mark.parametrize("point", ["not_confirmed", "not_acked"])
async def test_a_consumer_killed_between_copy_and_acknowledgement_leaves_both_and_one_counts(
    consumers, point
):
    doomed = await consumers.consumer()
    trap = (
        consumers.broker.before_reply(ACK)
        if point == "not_confirmed"
        else consumers.broker.before(ACK)
    )

    successor = await replaced(consumers, trap, doomed, "test.fails.once")

    await successor.wait_for_line('"status": "duplicate"')
    await is_applied_once(consumers)
    assert attempts_that_failed(consumers) <= 2


async def test_original_and_copy_that_both_fail_are_two_dead_letters_and_no_more(
    postgres_url, rabbitmq_url, tmp_path
):
    async with ProxiedConsumer(
        postgres_url, rabbitmq_url, tmp_path, MQ_MAX_RETRIES="1"
    ) as consumers:
        doomed = await consumers.consumer()

        await replaced(consumers, consumers.broker.before(ACK), doomed, "test.fails.always")

        await consumers.waits_for_dead_letters(2)
        await consumers.ends()
        assert [row["attempts"] for row in await consumers.deployment.dead()] == [2, 2]
        assert attempts_that_failed(consumers) == 4
        assert await consumers.records() == [("failed", 2)]
        assert await consumers.deployment.applied() == []
        assert await consumers.left() == {}


async def test_a_consumer_that_loses_the_confirm_publishes_another_copy_and_one_counts(consumers):
    trap = consumers.broker.before_reply(ACK)
    consumer, _ = await consumers.hit(trap, "test.fails.once")

    trap.cut()

    await consumer.wait_for_line('"status": "duplicate"')
    await is_applied_once(consumers)
    assert attempts_that_failed(consumers) == 1


async def test_as_long_as_no_queue_takes_the_copy_the_message_is_not_acknowledged(consumers):
    await consumers.consumer()
    await consumers.delete(RETRY_QUEUE)
    returns, ack = consumers.broker.before_reply(RETURN, RETURN), consumers.broker.before(ACK)

    await consumers.publish(a_message("test.fails.once"))

    await returns.wait_until_hit()
    assert not ack.is_hit
    returns.release()
    await consumers.declare()
    await ack.wait_until_hit()
    ack.release()
    await is_applied_once(consumers)
    assert attempts_that_failed(consumers) == 1


async def test_a_dead_letter_that_was_not_committed_is_written_once_after_a_crash(last_try):
    doomed = await last_try.consumer()
    trap = last_try.database.before(DEAD_LETTER, COMMIT)

    await replaced(last_try, trap, doomed, "test.fails.always")

    await last_try.waits_for_dead_letters(1)
    await is_dead_lettered(last_try, letters=1)


@pytest.mark.parametrize(("committed", "letters"), [(False, 1), (True, 2)])
async def test_a_consumer_that_does_not_know_whether_its_dead_letter_is_committed_writes_it_again(
    last_try, committed, letters
):
    database = last_try.database
    trap = (database.after if committed else database.before)(DEAD_LETTER, COMMIT)
    await last_try.hit(trap, "test.fails.always")

    trap.cut()

    await last_try.waits_for_dead_letters(letters)
    await is_dead_lettered(last_try, letters=letters)
    assert attempts_that_failed(last_try) == 1


async def test_a_dead_lettered_message_that_was_not_acked_is_handled_and_dead_lettered_again(
    last_try,
):
    doomed = await last_try.consumer()

    await replaced(last_try, last_try.broker.before(ACK), doomed, "test.fails.always")

    await last_try.waits_for_dead_letters(2)
    await is_dead_lettered(last_try, letters=2)
    assert attempts_that_failed(last_try) == 2


async def test_a_dead_lettered_message_that_was_not_acked_may_yet_succeed(last_try):
    """Its dead letter stays, although no repair is needed."""
    doomed = await last_try.consumer()

    await replaced(last_try, last_try.broker.before(ACK), doomed, "test.recovers")

    await last_try.deployment.applies(1)
    await last_try.ends()
    assert len(await last_try.deployment.applied()) == 1
    assert await last_try.records() == [("completed", 1)]
    assert len(await last_try.deployment.dead()) == 1
    assert await last_try.left() == {}


async def is_dead_lettered(consumers: ProxiedConsumer, *, letters: int) -> None:
    await consumers.ends()
    assert [row["reason"] for row in await consumers.deployment.dead()] == letters * [
        "retries_exhausted"
    ]
    assert await consumers.records() == [("failed", 1)]
    assert await consumers.deployment.applied() == []
    assert await consumers.left() == {}
