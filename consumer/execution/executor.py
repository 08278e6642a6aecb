"""
Attempts at deliveries: decodes them, calls their handlers, and returns a verdict on each.

The executor settles no delivery: `consumer.dispatch.settlement` carries out its verdicts.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from math import inf
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer import verdict
from consumer.batch_sizes import LONGEST_CALLS, BatchSizes
from consumer.execution.decode import Attempt, FilterFailed, decode_delivery, is_too_old
from consumer.execution.delivery_batch import DeliveryBatch
from consumer.execution.leased import Leased
from consumer.execution.ordering import Lanes
from consumer.execution.reading import Reading
from consumer.execution.transaction import Committed, HandlerSteps, transact
from consumer.execution.unit_of_work import UnitOfWorkFactory
from consumer.handler import Handler
from consumer.message import Message
from consumer.storage.answer import answers
from consumer.storage.dedup import Dedup
from consumer.storage.durations import SAMPLE
from consumer.telemetry import Telemetry
from consumer.verdict import WAIT, TryAgain, Verdict, Wait
from outbox.audit import log as audit
from outbox.backoff import Exponential, RetryPolicy
from outbox.database.errors import driver_errors_translated, is_contention, may_pass
from outbox.runtime.error_summary import summary_of
from outbox.transports.delivery import Delivery

BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
TRIALS = 5
"""The number of trials of a transaction that others delay, before it is a failed attempt."""

BEHIND_A_COPY = timedelta(seconds=5)
"""How long a message waits before it is tried again, while a copy of it is handled elsewhere."""

_CONTENTION = Exponential(first=timedelta(milliseconds=20), cap=timedelta(milliseconds=500))


@dataclass(frozen=True, slots=True)
class Executor:
    """
    Executes attempts of one consumer.

    Args:
        lanes: Those of an ordered consumer.
        policy: The retry policy of handlers without one of their own.
        retention: How long the dedup store keeps completed messages.
        unsupported_wait: How long a message waits for a version of the program that can handle it.
        jitter: Returns a number in [0, 1).
        batch_sizes: Of the handlers whose registration gives none.

    """

    units: UnitOfWorkFactory
    sessions: async_sessionmaker[AsyncSession]
    dedup: Dedup
    leased: Leased
    lanes: Lanes | None
    policy: RetryPolicy
    retention: timedelta
    unsupported_wait: timedelta
    telemetry: Telemetry
    jitter: Callable[[], float]
    batch_sizes: BatchSizes = field(default_factory=lambda: BatchSizes({}))
    _durations: dict[str, timedelta] = field(default_factory=dict, init=False)

    async def ready(self) -> bool:
        """Whether the database answers; always true. Raises DatabaseUnavailable."""
        return await answers(self.sessions)

    async def execute(self, batch: DeliveryBatch) -> list[Verdict]:
        """
        Handle the deliveries of *batch*; returns a verdict on each.

        Raises DatabaseUnavailable or KeysUnavailable if the batch has to be executed again; no
        attempt is counted.
        """
        handler, now = batch.handler, datetime.now(UTC)
        oldest = now - self.retention
        decode = partial(self.decode, handler, batch.reading, now)
        decoded = [decode(oldest, delivery) for delivery in batch.deliveries]
        for position, delivery in enumerate(batch.deliveries):
            if is_too_old(decoded[position]) and await self._was_replayed(delivery):
                decoded[position] = decode(BEFORE_ALL, delivery)
        attempts = [each for each in decoded if isinstance(each, Attempt)]
        if handler is None or not attempts:
            return [each for each in decoded if not isinstance(each, Attempt)]
        if handler.lease is not None:
            leased = partial(
                self.leased.execute, handler, owner=batch.owner, telemetry=self.telemetry
            )
            failed = self.after_failure
            verdicts = [await leased(each, after_failure=failed) for each in attempts]
        else:
            verdicts = await self._handle(handler, attempts)
        of_attempts = iter(verdicts)
        return [next(of_attempts) if isinstance(each, Attempt) else each for each in decoded]

    def decode(
        self,
        handler: Handler | None,
        reading: Reading,
        now: datetime,
        oldest: datetime,
        delivery: Delivery,
    ) -> Attempt | Verdict:
        """Like `decode_delivery`; if the filter raises, the attempt has failed."""
        try:
            decoded = decode_delivery(
                delivery,
                handler,
                now=now,
                oldest=oldest,
                unsupported_wait=self.unsupported_wait,
                reading=reading,
            )
        except FilterFailed as failed:
            return self.after_failure(handler, delivery, failed.error, failed.message)
        if isinstance(decoded, TryAgain) and decoded.unsupported_since is not None:
            self.telemetry.unsupported(
                delivery.message, decoded.unsupported_because, decoded.unsupported_detail
            )
        return decoded

    async def _was_replayed(self, delivery: Delivery) -> bool:
        run = delivery.headers.replay
        if run is None:
            return False
        with driver_errors_translated():
            async with self.sessions() as session:
                return await audit.is_known(session, run, within=self.retention)

    async def _handle(self, handler: Handler, attempts: Sequence[Attempt]) -> list[Verdict]:
        """Verdicts on *attempts*; if their common transaction fails, `_handle_each` follows."""
        began = _now()
        outcome = await self._transact(handler, attempts)
        if isinstance(outcome, Committed):
            routing_keys = {each.key: each.message.routing_key for each in attempts}
            self.record_success(handler, outcome.durations, routing_keys)
            self.batch_sizes.called(handler, outcome.durations, _now())
            return list(outcome.verdicts)
        took = timedelta(seconds=_now() - began)
        self.batch_sizes.failed(handler, took, _now())
        if len(attempts) == 1:
            delivery, message = attempts[0].delivery, attempts[0].message
            return [self.after_failure(handler, delivery, outcome, message)]
        summary = summary_of(outcome, package=handler.package)
        self.telemetry.batch_failed(handler.event_type, outcome, summary, size=len(attempts))
        return await self._handle_each(handler, attempts, after=took)

    async def _handle_each(
        self, handler: Handler, attempts: Sequence[Attempt], *, after: timedelta
    ) -> list[Verdict]:
        """
        Verdicts on *attempts*, each in a transaction of its own, *after* they shared one.

        With a batch size of `BatchSizes`, those for which no time is left are handled like others
        that wait: none keeps its neighbours waiting for longer than a batch may call handlers.
        """
        if handler.batch_size is not None:
            latest = inf
        elif after > LONGEST_CALLS:
            return [WAIT] * len(attempts)
        else:
            latest = _now() + LONGEST_CALLS.total_seconds()
        verdicts = await self._handle(handler, attempts[:1])
        for attempt in attempts[1:]:
            verdicts += [WAIT] if _now() > latest else await self._handle(handler, [attempt])
        return verdicts

    async def _transact(
        self, handler: Handler, attempts: Sequence[Attempt]
    ) -> Committed | BaseException:
        """The commit, or the handler's error for which nothing was committed."""
        trial = 1
        while True:
            steps = HandlerSteps(handler, attempts, dedup=self.dedup, lanes=self.lanes)
            outcome = await transact(self.units, steps)
            if isinstance(outcome, Committed) or not may_pass(outcome):
                return outcome
            if handler.batch_size is None and len(attempts) > 1:
                # Each alone locks fewer rows: two batches could wait for each other again.
                return outcome
            # Before the trial counts: an unavailable database is not the handler's failure.
            await self.pause_after(trial)
            if trial == TRIALS:
                is_alone = self.lanes is None and len(attempts) == 1
                if is_alone and not steps.was_called and is_contention(outcome):
                    # Another process still handles a copy of the message, and has its record
                    # locked. The broker has delivered it again because that takes so long.
                    return Committed([Wait(BEHIND_A_COPY)], {})
                return outcome
            trial += 1

    async def pause_after(self, trial: int) -> None:
        """
        Pause before a transaction is tried again.

        Raises DatabaseUnavailable if the consumer's own database does not answer.
        """
        await self.ready()
        pause = _CONTENTION.delay(trial, jitter=self.jitter()) or timedelta(0)
        await asyncio.sleep(pause.total_seconds())

    def record_success(
        self, handler: Handler, durations: Mapping[str, timedelta], routing_keys: Mapping[str, str]
    ) -> None:
        """Record the *durations* of calls whose effects are committed; both are by key."""
        self.telemetry.handled(handler.event_type, durations, routing_keys)
        if handler.batch_size in (None, 1):
            # The messages of a batch share one duration, which is not worth a second write of
            # each row.
            self._durations.update(islice(durations.items(), SAMPLE - len(self._durations)))

    def take_durations(self) -> dict[str, timedelta]:
        """The durations since the last call, at most `SAMPLE`, by idempotency key."""
        durations = dict(self._durations)
        self._durations.clear()
        return durations

    def after_failure(
        self,
        handler: Handler | None,
        delivery: Delivery,
        error: BaseException,
        message: Message[Any] | None,
    ) -> Verdict:
        """The verdict on *delivery*, at whose *message* an attempt has failed with *error*."""
        number = delivery.headers.failed_attempts + 1
        summary = summary_of(error, package=handler.package if handler else None)
        common: Any = {"message": message, "summary": summary}
        self.telemetry.handler_failed(delivery.message, error, attempt=number, **common)
        policy = (handler.retry if handler else None) or self.policy
        left = None
        if handler is not None and handler.answers and delivery.headers.expires_at is not None:
            left = delivery.headers.expires_at - datetime.now(UTC)
        jitter = self.jitter()
        return verdict.after_failure(error, number, policy, jitter=jitter, left=left, **common)


def _now() -> float:
    return asyncio.get_running_loop().time()
