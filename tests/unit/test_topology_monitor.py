"""
When the topology monitor ends the process, and when it does not.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from consumer.maintenance.topology_monitor import TopologyMonitor
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.transports.topology import Queue, Topology

QUEUE = Queue("q", {"x-queue-type": "quorum"})
UNAVAILABLE = BrokerUnavailable("unreachable")
ANOTHER = TopologyMismatch("queue q exists with another x-overflow")
SILENCE = "silence"
REFUSAL = "refusal"


class Broker:
    """Returns *answers*, one after another, and asks for the stop with the last."""

    def __init__(self, *answers: Exception | str | None) -> None:
        self.asked: list[Topology] = []
        self.stop = asyncio.Event()
        self._answers = list(answers)

    async def verify(self, topology: Topology) -> list[str]:
        self.asked.append(topology)
        answer = self._answers.pop(0)
        if not self._answers:
            self.stop.set()
        if isinstance(answer, Exception):
            raise answer
        if answer == SILENCE:
            await asyncio.Event().wait()
        return ["queue q"] if answer == REFUSAL else []

    async def is_inspected(self) -> None:
        transport: Any = self
        millisecond = timedelta(milliseconds=1)
        inspector = TopologyMonitor(
            transport=transport, queue=QUEUE, every=millisecond, within=10 * millisecond
        )
        async with asyncio.timeout(10):
            await inspector.run(self.stop)


@pytest.mark.parametrize("answer", [UNAVAILABLE, SILENCE])
async def test_the_monitor_keeps_comparing_though_the_broker_is_unavailable(answer):
    broker = Broker(None, answer, None)

    await broker.is_inspected()

    assert broker.asked == [Topology(queues=[QUEUE])] * 3


async def test_a_mismatch_in_two_consecutive_checks_is_an_error():
    broker = Broker(None, ANOTHER, ANOTHER, None)

    with pytest.raises(TopologyMismatch, match="another x-overflow"):
        await broker.is_inspected()


@pytest.mark.parametrize("answer", [None, UNAVAILABLE, SILENCE])
async def test_a_mismatch_that_the_next_check_does_not_confirm_is_no_error(answer):
    broker = Broker(ANOTHER, answer, ANOTHER, None)

    await broker.is_inspected()

    assert len(broker.asked) == 4


async def test_the_monitor_compares_once_if_the_user_has_no_permission():
    broker = Broker(None, REFUSAL, None, None)

    await broker.is_inspected()

    assert len(broker.asked) == 2
    assert not broker.stop.is_set()


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 15), (0.5, 11.25)])
async def test_the_checks_of_many_processes_are_spread(monkeypatch, jitter, seconds):
    waits: list[timedelta] = []

    async def pause(_stop: asyncio.Event, duration: timedelta) -> None:
        waits.append(duration)

    monkeypatch.setattr("consumer.maintenance.topology_monitor.pause", pause)
    broker: Any = Broker(None)
    await TopologyMonitor(transport=broker, queue=QUEUE, jitter=lambda: jitter).run(broker.stop)

    assert waits[0] == timedelta(seconds=seconds)
