import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outbox.transports.rabbitmq.connection import heartbeat_to_request
from outbox.transports.rabbitmq.in_flight import MAX_BYTES, MAX_MESSAGES, InFlight, windows
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
