import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pamqp.commands import Basic

from outbox.transports.rabbitmq.connection import heartbeat_to_request
from outbox.transports.rabbitmq.in_flight import MAX_BYTES, MAX_MESSAGES, InFlight, windows
from outbox.transports.rabbitmq.publish_batch import publish_batch
from outbox.transports.rabbitmq.unconfirmed import take_over
from outbox.wire.codec import WireMessage
from tests.support.eventually import eventually

LATE = 60.0


def a_message(message_id: str | None = None, body: bytes = b"") -> WireMessage:
    return WireMessage(exchange="", routing_key="", body=body, message_id=message_id)


def soon() -> float:
    return asyncio.get_running_loop().time() + LATE


def test_windows_hold_as_many_messages_as_may_be_in_flight():
    messages = [a_message() for _ in range(2 * MAX_MESSAGES + 1)]

    assert list(windows(messages)) == [
        range(MAX_MESSAGES),
        range(MAX_MESSAGES, 2 * MAX_MESSAGES),
        range(2 * MAX_MESSAGES, 2 * MAX_MESSAGES + 1),
    ]


def test_windows_hold_a_limited_number_of_bytes_but_one_message_at_least():
    half, huge = bytes(MAX_BYTES // 2), bytes(MAX_BYTES + 1)

    found = list(windows([a_message(body=body) for body in (half, half, b"x", huge, b"x")]))

    assert found == [range(2), range(2, 3), range(3, 4), range(4, 5)]


def test_windows_hold_no_message_id_twice():
    ids = ["a", "b", "a", "b", None, None, ""]

    assert list(windows([a_message(id_) for id_ in ids])) == [range(2), range(2, 7)]


def test_an_empty_batch_has_no_windows():
    assert list(windows([])) == []


async def test_batches_without_a_common_id_are_in_flight_together():
    in_flight = InFlight()

    async with (
        in_flight.room({"a", "b"}, deadline=soon()),
        in_flight.room({"c"}, deadline=soon()),
    ):
        pass


@pytest.mark.parametrize("others", [{"a"}, {str(number) for number in range(MAX_MESSAGES)}])
async def test_a_batch_waits_for_a_common_id_and_for_room(others):
    in_flight = InFlight()
    entered = asyncio.Event()

    async def enter() -> None:
        async with in_flight.room(others, deadline=soon()):
            entered.set()

    async with asyncio.TaskGroup() as tasks:
        async with in_flight.room({"a"}, deadline=soon()):
            waiting = tasks.create_task(enter())
            await eventually(in_flight._entry.locked)
            with pytest.raises(TimeoutError):
                async with in_flight.room(
                    {"z"}, deadline=asyncio.get_running_loop().time() + 0.05
                ):
                    pytest.fail("overtook the one that waits for longer")
            assert not entered.is_set()
        await waiting


async def test_a_batch_that_is_too_large_is_published_alone():
    in_flight = InFlight()
    large = {str(number) for number in range(MAX_MESSAGES + 1)}

    async with in_flight.room(large, deadline=soon()):
        pass


async def test_a_cancelled_batch_leaves_no_waiter_behind():
    in_flight = InFlight()
    async with in_flight.room({"a"}, deadline=soon()):
        given_up = asyncio.create_task(_pass(in_flight, {"a", "b"}))
        await eventually(in_flight._entry.locked)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)

        await _pass(in_flight, {"b"})


class Channel:
    """A channel of aiormq that sends nothing, with tags of an earlier batch in flight."""

    def __init__(self, *, earlier: int) -> None:
        self.number = 1
        self.lock = asyncio.Lock()
        take_over(self)
        self.confirmations.update(dict.fromkeys(range(1, earlier + 1)))
        self.delivery_tag = earlier
        self.write_queue: asyncio.Queue[Any] = asyncio.Queue()
        self.connection = self
        self.connection_tune = SimpleNamespace(frame_max=4096)

    async def ready(self) -> None:
        """The broker does not block the connection."""

    def create_future(self) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().create_future()

    def _confirm_delivery(self, tag: int, _frame: Any) -> None:
        del self.confirmations[tag]

    async def confirm_all(self, *tags: int, every: float) -> None:
        """Confirm tag after tag."""
        for tag in tags:
            await asyncio.sleep(every)
            await self._on_confirm_frame(Basic.Ack(tag))


async def test_a_deadline_moves_on_while_the_broker_confirms_what_was_sent_before():
    channel = Channel(earlier=4)
    deadline = asyncio.get_running_loop().time() + 0.5
    publishing = asyncio.create_task(
        publish_batch(channel, [a_message("own")], in_flight=InFlight(), deadline=deadline)
    )
    await eventually(lambda: channel.delivery_tag == 5)

    await channel.confirm_all(1, 2, 3, 4, 5, every=0.3)

    assert [type(confirm) for confirm in await publishing] == [Basic.Ack]


async def test_a_deadline_passes_while_the_broker_confirms_only_what_was_sent_later():
    channel = Channel(earlier=0)
    deadline = asyncio.get_running_loop().time() + 0.5
    publishing = asyncio.create_task(
        publish_batch(channel, [a_message("own")], in_flight=InFlight(), deadline=deadline)
    )
    await eventually(lambda: channel.delivery_tag == 1)
    channel.confirmations.update(dict.fromkeys(range(2, 9)))

    confirming = asyncio.create_task(channel.confirm_all(*range(2, 9), every=0.2))
    (confirm,) = await publishing
    confirming.cancel()

    assert isinstance(confirm, TimeoutError)


async def _pass(in_flight: InFlight, ids: set[str]) -> None:
    async with in_flight.room(ids, deadline=soon()):
        pass


@given(st.integers(3, 600))
@example(3)
def test_a_dead_peer_is_noticed_within_three_heartbeats(noticed_within):
    heartbeat = heartbeat_to_request(noticed_within)

    assert heartbeat >= 1
    assert 3 * (heartbeat + 1) + heartbeat / 2 <= 3 * noticed_within


@pytest.mark.parametrize("noticed_within", [1, 2])
def test_no_heartbeat_is_shorter_than_a_second(noticed_within):
    assert heartbeat_to_request(noticed_within) == 1
