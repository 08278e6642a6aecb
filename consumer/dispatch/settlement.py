"""
Settling deliveries as their verdicts say: in the database, and then with the broker.

| verdict               | database                   | broker                              |
|-----------------------|----------------------------|-------------------------------------|
| Done, Filtered        | –                          | ack                                 |
| Erased, Expired       | –                          | ack                                 |
| Parked                | –, the attempt parked it   | ack                                 |
| DeadLetter            | write the dead letter      | ack                                 |
| TryAgain              | record the failure         | publish a copy for the retry, ack   |
| TryAgain, in a lane   | park the message           | ack                                 |
| Wait                  | –                          | –, the delivery is handled later    |

The ack comes last. A delivery that is not acked, because the process stops or a server is
unreachable, is delivered again.

A batch is settled in steps: a retry queue that is full may take no copy for hours, and a database
may be unavailable, so no delivery waits until another one is settled.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import assert_never

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.failure_recorder import FailureRecorder
from consumer.dispatch.retry_publisher import RetryPublisher
from consumer.execution.delivery_batch import QueuedDelivery
from consumer.execution.ordering import Lanes
from consumer.lag_report import MOST_PENDING, SAMPLE
from consumer.queues import ConsumerQueues
from consumer.storage.dead_letters import DeadLetterWriter
from consumer.storage.failing import FailedAttempt
from consumer.telemetry import Telemetry
from consumer.verdict import (
    DUPLICATE,
    DeadLetter,
    Done,
    Erased,
    Expired,
    Filtered,
    Parked,
    TryAgain,
    Verdict,
    Wait,
)
from outbox.transports.base import Subscription
from outbox.transports.delivery import Delivery
from outbox.wire.codec import WireMessage


@dataclass(slots=True)
class Step:
    """
    Deliveries that are settled together, with their verdicts.

    *failed* are those of the whole batch whose failure is recorded before.
    """

    settled: Sequence[tuple[QueuedDelivery, Verdict]]
    failed: list[FailedAttempt] = field(default_factory=list)


class Settlement:
    """
    Settles deliveries of *queues*.

    *lanes* are those of an ordered consumer, *recorder* records failures of others. `retries`
    publishes the copies.
    """

    def __init__(
        self,
        *,
        queues: ConsumerQueues,
        dead_letter_writer: DeadLetterWriter,
        recorder: FailureRecorder,
        lanes: Lanes | None,
        database_retry: DatabaseRetry,
        telemetry: Telemetry,
    ) -> None:
        self.retries = RetryPublisher(queues, database_retry, telemetry)
        self._dead_letter_writer = dead_letter_writer
        self._recorder = recorder
        self._lanes = lanes
        self._database_retry = database_retry
        self._telemetry = telemetry

    def steps(
        self, batch: Sequence[QueuedDelivery], verdicts: Iterable[Verdict]
    ) -> Sequence[Step]:
        """
        The steps in which to settle *batch*.

        Deliveries that need no server are the first; those that need one follow, each for itself:
        first the database, then a retry queue. All failures of the batch are recorded in one
        statement, before the first copy is published.
        """
        at_once: list[tuple[QueuedDelivery, Verdict]] = []
        written: list[Step] = []
        copied: list[Step] = []
        failed: list[FailedAttempt] = []
        for queued, verdict in zip(batch, verdicts, strict=True):
            match verdict:
                case Done() | Filtered() | Erased() | Expired() | Parked() | Wait():
                    at_once.append((queued, verdict))
                case TryAgain() if self._lane_of(queued.delivery) is None:
                    failed += _failed(queued.delivery, verdict)
                    copied.append(Step([(queued, verdict)]))
                case TryAgain() | DeadLetter():
                    written.append(Step([(queued, verdict)]))
                case _:
                    assert_never(verdict)
        if copied:
            copied[0].failed = failed
        return [*([Step(at_once)] if at_once else []), *written, *copied]

    async def settle(
        self, subscription: Subscription, step: Step, stop: asyncio.Event
    ) -> list[timedelta | None] | None:
        """
        Carry out the verdicts of *step*.

        Returns for each delivery None, or the time after which to handle it again. Returns None
        for all if some could not be settled, and the broker has to deliver them again.
        Raises BrokerUnavailable if the subscription is lost.
        """
        if step.failed:
            await self._recorder.record(step.failed)
        all_settled = True
        waits: list[timedelta | None] = []
        acks: list[Delivery] = []
        settled: list[tuple[WireMessage, Verdict]] = []
        for queued, verdict in step.settled:
            delivery = queued.delivery
            if isinstance(verdict, Wait):
                waits.append(verdict.delay)
                continue
            waits.append(None)
            done = await self._apply(subscription, delivery, verdict, stop)
            if done is None:
                all_settled = False
                continue
            settled.append((delivery.message, done))
            if not isinstance(done, TryAgain):
                acks.append(delivery)
        self._report_lag(step)
        if acks:
            await subscription.ack(*acks)
        self._telemetry.settled(settled)
        return waits if all_settled else None

    def _report_lag(self, step: Step) -> None:
        """Report the times of the first messages of each second."""
        lag = self._telemetry.lag
        if (at := time.monotonic()) >= lag.until:
            lag.left, lag.until = SAMPLE, at + 1
        elif not lag.left:
            return
        now = asyncio.get_running_loop().time()
        messages = [
            (queued.delivery.headers, now - queued.since)
            for queued, verdict in step.settled[: lag.left]
            if type(verdict) is Done and not verdict.duplicate
        ]
        if messages:
            lag.left -= len(messages)
            lag.pending.append((time.time(), messages))
            if len(lag.pending) >= MOST_PENDING:
                lag.observe()

    def _lane_of(self, delivery: Delivery) -> str | None:
        return self._lanes.lane_of(delivery) if self._lanes else None

    async def _apply(
        self, subscription: Subscription, delivery: Delivery, verdict: Verdict, stop: asyncio.Event
    ) -> Verdict | None:
        """The verdict as it was carried out; None if it was not."""
        match verdict:
            case Done() | Filtered() | Erased() | Expired() | Parked() | Wait():
                return verdict
            case DeadLetter():
                return await self._dead_letter(delivery, verdict, stop)
            case TryAgain() if self._lanes is not None and (lane := self._lanes.lane_of(delivery)):
                park = partial(self._lanes.park, delivery, lane, verdict)
                return await self._database_retry.run(park, stop)
            case TryAgain():
                retried = await self.retries.retry(subscription, delivery, verdict, stop)
                if isinstance(retried, DeadLetter):
                    return await self._dead_letter(delivery, retried, stop)
                return retried
            case _:
                assert_never(verdict)

    async def _dead_letter(
        self, delivery: Delivery, verdict: DeadLetter, stop: asyncio.Event
    ) -> Verdict | None:
        write = partial(
            self._dead_letter_writer.write,
            delivery.message,
            reason=verdict.code,
            attempts=verdict.attempt,
            summary=verdict.summary,
        )
        written = await self._database_retry.run(write, stop)
        if written is None:
            return None
        return verdict if written else DUPLICATE


def _failed(delivery: Delivery, verdict: TryAgain) -> list[FailedAttempt]:
    """The failure behind *verdict*, if a handler has failed."""
    if verdict.summary is None:
        return []
    return [FailedAttempt(delivery.message, verdict.attempt, verdict.delay, verdict.summary)]
