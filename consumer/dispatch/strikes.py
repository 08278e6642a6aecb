"""
Counts the processes that end with a redelivered message in their hands, and gives it up.

    a redelivery arrives    its strikes are read: a suspect is held back
    before its handler      a strike is committed
    after its handler       the strikes are forgotten: this process has outlived the message
    the process is stopped  the strike is taken back: the message did not end it
    a lease is still held   the strike is taken back: the handler was not called

The broker counts deliveries too, but it cannot know which of the deliveries that a process held
was the one that ended it. So the work queue has no limit of its own.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from functools import partial
from uuid import UUID

from consumer.database_retry import DatabaseRetry
from consumer.dispatch.suspects import SUSPECT_FROM
from consumer.dispatch.turns import Turns
from consumer.execution.delivery_batch import BatchExecutor, DeliveryBatch
from consumer.storage.begun import BegunDeliveries, identity_of
from consumer.verdict import DELIVERY_LIMIT, DeadLetter, Verdict, Wait
from outbox.errors import DatabaseUnavailable
from outbox.runtime.shield import shielded
from outbox.transports.delivery import Delivery


class Strikes:
    """
    The strikes of redelivered messages, which *executor* handles.

    *turns* are those of an ordered consumer, whose parked messages are handled in another loop.
    """

    def __init__(
        self,
        begun: BegunDeliveries,
        executor: BatchExecutor,
        database_retry: DatabaseRetry,
        turns: Turns | None = None,
    ) -> None:
        self._begun = begun
        self._executor = executor
        self._database_retry = database_retry
        self._turns = turns
        # Batches whose strike is committed: after an outage of the database they are executed
        # again, and count no second time.
        self._counted: set[UUID] = set()
        # Verdicts on batches whose strikes are not yet forgotten, because of such an outage.
        self._verdicts: dict[UUID, list[Verdict]] = {}

    async def of(self, deliveries: Sequence[Delivery], stop: asyncio.Event) -> dict[int, int]:
        """The strikes of redeliveries by their tags, however long the database is unavailable."""
        tags = _tags_by_identity(each for each in deliveries if each.redelivered)
        if not tags:
            return {}
        read = partial(self._begun.strikes, list(tags))
        strikes = await self._database_retry.run(read, stop)
        return {tag: count for message, count in (strikes or {}).items() for tag in tags[message]}

    async def execute(self, batch: DeliveryBatch, *, limit: int) -> list[Verdict]:
        """Like `Executor.execute`, for a batch with redeliveries."""
        # A strike in a turn: no other message ends the process between the two.
        async with self._turn(batch):
            return await self._execute(batch, limit=limit)

    def _turn(self, batch: DeliveryBatch) -> AbstractAsyncContextManager[None]:
        if self._turns is None:
            return nullcontext()
        is_suspect = batch.queued[0].strikes >= SUSPECT_FROM
        return self._turns.alone() if is_suspect else self._turns.beside_others()

    async def _execute(self, batch: DeliveryBatch, *, limit: int) -> list[Verdict]:
        first = batch.queued[0]
        if first.strikes >= limit:
            await self._begun.forget(list(_tags_by_identity([batch.deliveries[0]])))
            return [DeadLetter(first.delivery.headers.failed_attempts, DELIVERY_LIMIT)]
        redelivered = [each for each in batch.deliveries if each.redelivered]
        messages = list(_tags_by_identity(redelivered))
        if batch.owner not in self._counted:
            await self._begun.begin(messages)
            self._counted.add(batch.owner)
        try:
            verdicts = self._verdicts.get(batch.owner) or await self._executor.execute(batch)
            self._verdicts[batch.owner] = verdicts
            await self._outlived(batch, verdicts)
        except asyncio.CancelledError:
            with suppress(DatabaseUnavailable):
                await shielded(self._begun.take_back(messages))
            raise
        self._counted.discard(batch.owner)
        del self._verdicts[batch.owner]
        return verdicts

    async def _outlived(self, batch: DeliveryBatch, verdicts: Sequence[Verdict]) -> None:
        """Forget the strikes of messages that are to be settled, and take back all others."""
        settled: list[Delivery] = []
        waiting: list[Delivery] = []
        for delivery, verdict in zip(batch.deliveries, verdicts, strict=True):
            if delivery.redelivered:
                (waiting if isinstance(verdict, Wait) else settled).append(delivery)
        # Before the ack: afterwards the message never comes again, and its row would stay. And
        # first, because it may be repeated after an outage of the database.
        if settled:
            await self._begun.forget(list(_tags_by_identity(settled)))
        if waiting:
            await self._begun.take_back(list(_tags_by_identity(waiting)))


def _tags_by_identity(deliveries: Iterable[Delivery]) -> dict[str, list[int]]:
    tags: dict[str, list[int]] = {}
    for delivery in deliveries:
        if (message := identity_of(delivery)) is not None:
            tags.setdefault(message, []).append(delivery.tag)
    return tags
