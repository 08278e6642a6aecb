"""
What becomes of a message of the dead queue whose copy the broker does not take.
"""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumer.collector import Collector, ReturnPolicy
from consumer.patience import Patience
from consumer.telemetry import Telemetry
from outbox.backoff import Exponential
from outbox.codec import WireMessage
from outbox.runtime.probes import Health
from outbox.topology import ConsumerQueues
from outbox.transports.base import Delivery, Outcome

MILLISECOND = timedelta(milliseconds=1)
DEATH = {"queue": "q", "reason": "expired", "exchange": "main", "routing-keys": ["a"]}


class Broker:
    """Answers the copies with *outcomes*; remembers what is asked of it and of the database."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.asked: list[str] = []
        self._outcomes = list(outcomes)

    async def replace(self, _delivery: Delivery, _copy: WireMessage) -> Outcome:
        self.asked.append("replace")
        return self._outcomes.pop(0)

    async def ack(self, *_: Delivery) -> None:
        self.asked.append("ack")

    async def give_up(self, message: WireMessage, *, reason: str, attempts: int) -> bool:
        self.asked.append(f"bury {message.routing_key}: {reason}, {attempts}")
        return True


@pytest.mark.parametrize(
    ("outcomes", "asked"),
    [
        ([Outcome.UNKNOWN, Outcome.NACKED, Outcome.ACKED], ["replace"] * 3),
        ([Outcome.REJECTED], ["replace", "bury a: rejected, 0", "ack"]),
    ],
)
async def test_a_copy_is_sent_until_it_is_taken_or_will_never_be(outcomes, asked):
    broker: Any = Broker(*outcomes)
    telemetry = Telemetry(CollectorRegistry(), source="test", queue="q", known=())
    collector = Collector(
        transport=broker,
        queues=ConsumerQueues("q", bindings=["#"], delays=[MILLISECOND]),
        policy=ReturnPolicy({"expired"}, most=1),
        burials=broker,
        patience=Patience(
            reconnect=Exponential(first=MILLISECOND, cap=MILLISECOND),
            telemetry=telemetry,
            health=Health(),
            chance=lambda: 0.0,
        ),
        telemetry=telemetry,
    )
    dead = WireMessage(exchange="dlx", routing_key="q", body=b"", headers={"x-death": [DEATH]})

    async with asyncio.timeout(10):
        await collector._collect(broker, [Delivery(dead, 1, redelivered=False)], asyncio.Event())

    assert broker.asked == asked
