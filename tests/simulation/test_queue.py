"""
The queue of the simulated broker: the semantics of RabbitMQ that cost users messages or time.
"""

import asyncio
from datetime import timedelta

import pytest

from outbox.wire.codec import WireMessage
from tests.reliability.simulation.loop import SimulatedLoop, pass_time
from tests.reliability.simulation.queue import (
    DROP_HEAD,
    REJECT_PUBLISH,
    Policy,
    Receiver,
    SimulatedQueue,
)

TTL_SECONDS = 10
HIGH = 9


@pytest.fixture
def loop():
    loop = SimulatedLoop()
    loop.start_clock()
    yield loop
    loop.stop_clock()
    loop.close()


class Gone:
    """Takes what a queue dead-letters."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.messages: list[tuple[str, str, float]] = []
        self.is_full = is_full

    def __call__(self, _queue, held, reason) -> bool:
        at = round(asyncio.get_running_loop().time())
        if not self.is_full:
            self.messages.append((held.message.message_id, reason, at))
        return not self.is_full


def message(id_: str, priority: int | None = None) -> WireMessage:
    return WireMessage(
        exchange="", routing_key="queue", body=b"", message_id=id_, priority=priority
    )


def ids(queue: SimulatedQueue) -> list[str | None]:
    return [each.message_id for each in queue.messages]


def test_an_expired_message_waits_behind_one_of_a_higher_priority(loop):
    """RabbitMQ 4.0: 10, 17, 24 s and so on, where each message has a time to live of 10 s."""
    gone = Gone()

    async def story() -> None:
        queue = SimulatedQueue(
            "retry", {"x-message-ttl": TTL_SECONDS * 1000}, dead_letter=gone, has_priorities=True
        )
        for number in range(3):
            queue.put(message(f"normal-{number}"))
        for number in range(12):
            queue.put(message(f"high-{number}", HIGH))
            await pass_time(3)

    loop.run_until_complete(story())

    at = [when for id_, _, when in gone.messages if id_.startswith("normal")]
    assert at[0] - TTL_SECONDS < 7
    assert at[-1] - TTL_SECONDS > 7


def test_without_priorities_a_queue_is_first_in_first_out(loop):
    received = []

    async def story() -> None:
        queue = SimulatedQueue("work", {}, dead_letter=Gone())
        for id_, priority in (("a", None), ("b", HIGH), ("c", 0)):
            queue.put(message(id_, priority))
        queue.receivers.append(Receiver(lambda held: received.append(held.message.message_id), 3))
        queue.dispatch()

    loop.run_until_complete(story())

    assert received == ["a", "b", "c"]


def test_two_messages_of_a_high_priority_go_before_each_other_one(loop):
    received = []

    async def story() -> None:
        queue = SimulatedQueue("work", {}, dead_letter=Gone(), has_priorities=True)
        for id_, priority in (("a", None), ("b", 4), ("H1", HIGH), ("H2", HIGH), ("H3", HIGH)):
            queue.put(message(id_, priority))
        queue.receivers.append(Receiver(lambda held: received.append(held.message.message_id), 9))
        queue.dispatch()

    loop.run_until_complete(story())

    assert received == ["H1", "H2", "a", "H3", "b"]


@pytest.mark.parametrize(
    ("arguments", "overflow", "kept", "refuses"),
    [
        ({}, DROP_HEAD, ["b", "c"], False),
        ({}, REJECT_PUBLISH, ["a", "b"], True),
        ({"x-overflow": REJECT_PUBLISH}, DROP_HEAD, ["a", "b"], True),
        ({"x-overflow": DROP_HEAD}, REJECT_PUBLISH, ["b", "c"], False),
    ],
)
def test_a_policy_limits_a_queue_and_overflow_counts_only_where_none_was_declared(
    loop, arguments, overflow, kept, refuses
):
    gone = Gone()

    async def story() -> SimulatedQueue:
        queue = SimulatedQueue("dead", arguments, dead_letter=gone)
        queue.policy = Policy(2, overflow)
        for id_ in "abc":
            if not queue.refuses:
                queue.put(message(id_))
        return queue

    queue = loop.run_until_complete(story())

    assert (ids(queue), queue.refuses) == (kept, refuses)
    assert gone.messages == ([] if refuses else [("a", "maxlen", 0)])


def test_each_delivery_that_comes_back_counts_begun_or_not(loop):
    gone = Gone()

    async def story() -> SimulatedQueue:
        queue = SimulatedQueue("work", {"x-delivery-limit": 2}, dead_letter=gone)
        for id_ in "ab":
            queue.put(message(id_))
        for _ in range(3):
            receiver = Receiver(lambda _: None, capacity=2)
            queue.receivers.append(receiver)
            queue.dispatch()
            queue.leave(receiver)
        return queue

    queue = loop.run_until_complete(story())

    assert [(id_, reason) for id_, reason, _ in gone.messages] == [
        ("a", "delivery_limit"),
        ("b", "delivery_limit"),
    ]
    assert ids(queue) == []


@pytest.mark.parametrize(("jump", "expires_at"), [(7, 3), (-5, 15), (3_600, 0)])
def test_times_to_live_follow_the_wall_clock(loop, jump, expires_at):
    gone = Gone()

    async def story() -> None:
        queue = SimulatedQueue("work", {"x-message-ttl": TTL_SECONDS * 1000}, dead_letter=gone)
        queue.put(message("a"))
        loop.skip(timedelta(seconds=jump))
        queue.dispatch()
        await pass_time(20)

    loop.run_until_complete(story())

    assert gone.messages == [("a", "expired", expires_at)]


def test_a_message_whose_dead_letter_queue_is_full_stays_until_there_is_room(loop):
    gone = Gone(is_full=True)

    async def story() -> list[str | None]:
        queue = SimulatedQueue("work", {"x-message-ttl": TTL_SECONDS * 1000}, dead_letter=gone)
        queue.put(message("a"))
        await pass_time(TTL_SECONDS + 1)
        stayed = ids(queue)
        gone.is_full = False
        await pass_time(TTL_SECONDS)
        return stayed

    assert loop.run_until_complete(story()) == ["a"]
    assert [(id_, reason) for id_, reason, _ in gone.messages] == [("a", "expired")]


@pytest.mark.parametrize(
    ("strategy", "overflow", "keeps"),
    [
        ("at-least-once", REJECT_PUBLISH, True),
        ("at-least-once", DROP_HEAD, False),
        ("at-most-once", REJECT_PUBLISH, False),
    ],
)
def test_a_queue_keeps_what_it_cannot_dead_letter_only_with_both_arguments(
    strategy, overflow, keeps
):
    arguments = {"x-dead-letter-strategy": strategy, "x-overflow": overflow}
    queue = SimulatedQueue("work", arguments, dead_letter=Gone())

    assert queue.dead_letters_at_least_once is keeps
