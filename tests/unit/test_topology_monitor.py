"""
When the topology monitor ends the process, and when it does not.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.maintenance.topology_monitor import TopologyMonitor
from consumer.queues import ConsumerQueues
from outbox.errors import BrokerUnavailable, TopologyMismatch
from outbox.runtime.probes import Health
from outbox.runtime.topology_report import TopologyReport
from outbox.transports.base import QueueDepth
from outbox.transports.topology import Topology

QUEUES = ConsumerQueues("q", bindings=["#"], delays=[timedelta(seconds=1)])
TOPOLOGY = QUEUES.topology(main_exchange="events", dlx_exchange="dead-letters")
WORK = Topology(queues=[TOPOLOGY.queues[-1]])
UNAVAILABLE = BrokerUnavailable("unreachable")
ANOTHER = TopologyMismatch("queue q exists with another x-overflow")
SILENCE = "silence"
REFUSAL = "refusal"


class Broker:
    """
    Answers about the work queue with *answers*, one after another, and asks for the stop with the
    last. Everything else is as declared.
    """

    def __init__(self, *answers: Exception | str | None) -> None:
        self.asked: list[Topology] = []
        self.declared: list[Topology] = []
        self.counted = 0
        self.stop = asyncio.Event()
        self._answers = list(answers)

    async def declare(self, topology: Topology) -> None:
        self.declared.append(topology)

    async def depth(self, _queue: str) -> QueueDepth:
        self.counted += 1
        if self.counted == 20:
            self.stop.set()
        return QueueDepth(0, 0)

    async def verify(self, topology: Topology) -> list[str]:
        if topology != WORK:
            return []
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
        millisecond = timedelta(milliseconds=1)
        async with asyncio.timeout(10):
            await monitor(self, every=millisecond, within=10 * millisecond).run(self.stop)


def monitor(broker: Any, **changes: Any) -> TopologyMonitor:
    report = TopologyReport(CollectorRegistry(), Health())
    return TopologyMonitor(
        transport=broker, queues=QUEUES, topology=TOPOLOGY, report=report, **changes
    )


@pytest.mark.parametrize("answer", [UNAVAILABLE, SILENCE])
async def test_the_monitor_keeps_comparing_though_the_broker_is_unavailable(answer):
    broker = Broker(None, answer, None)

    await broker.is_inspected()

    assert broker.asked == [WORK] * 3


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
    """Later it only asks whether the queues exist."""
    broker = Broker(None, REFUSAL, None, None)

    await broker.is_inspected()

    assert len(broker.asked) == 2
    assert broker.counted == 20


async def test_each_check_declares_the_bindings_and_nothing_else():
    """AMQP has no way to ask whether a binding exists."""
    broker = Broker(None, None)

    await broker.is_inspected()

    assert broker.declared == [Topology(bindings=TOPOLOGY.bindings)] * 2


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 15), (0.5, 11.25)])
async def test_the_checks_of_many_processes_are_spread(monkeypatch, jitter, seconds):
    waits: list[timedelta] = []

    async def pause(_stop: asyncio.Event, duration: timedelta) -> None:
        waits.append(duration)

    monkeypatch.setattr("consumer.maintenance.topology_monitor.pause", pause)
    broker: Any = Broker(None)
    await monitor(broker, jitter=lambda: jitter).run(broker.stop)

    assert waits[0] == timedelta(seconds=seconds)
