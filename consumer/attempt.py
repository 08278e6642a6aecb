"""
One attempt at one delivery, so that its effects happen once.

    BEGIN
    record that the message is done      a duplicate ends here
    handler(message, session)            effects and outgoing events on the same session
    COMMIT                               never interrupted, never timed out
    then, and only then, the broker is told

If the outcome of the COMMIT is not known, the attempt is made again: it finds the record or not.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer import dead_letters
from consumer.consumer import Consumer, Handler
from consumer.dedup import Dedup
from consumer.message import Message, open_message
from consumer.telemetry import Telemetry
from consumer.verdict import NO_HANDLER, Done, GiveUp, Verdict, after_failure
from outbox import codec
from outbox.backoff import RetryPolicy
from outbox.errors import DatabaseUnavailable, TransactionEndedByHandler, UnreadableMessage
from outbox.event import Envelope
from outbox.runtime.engine import is_away, reason_of, translated, uninterrupted
from outbox.transports.base import Delivery


@dataclass(frozen=True, slots=True)
class Attempts:
    """What an attempt of *consumer* needs; *queue* is where its messages come from."""

    consumer: Consumer
    queue: str
    sessions: async_sessionmaker[AsyncSession]
    dedup: Dedup
    policy: RetryPolicy
    telemetry: Telemetry

    async def make(self, delivery: Delivery) -> Verdict:
        """
        Handle *delivery* and say what becomes of it.

        A message that is given up has been written to `dead_letters` when this returns.

        Raises DatabaseUnavailable if the attempt should be made again, uncounted.
        """
        attempt = codec.attempt_of(delivery.message) + 1
        try:
            envelope = codec.from_wire(delivery.message)
            handler = self._handler(envelope)
            message = open_message(
                envelope, handler.model, attempt=attempt, redelivered=delivery.redelivered
            )
        except UnreadableMessage as error:
            return await self.give_up(delivery, GiveUp(attempt, error.code))
        verdict = await self._handle(handler, message, envelope)
        if isinstance(verdict, GiveUp):
            return await self.give_up(delivery, verdict)
        return verdict

    def _handler(self, envelope: Envelope) -> Handler:
        try:
            return self.consumer.handlers[envelope.type]
        except KeyError:
            raise UnreadableMessage(NO_HANDLER) from None

    async def _handle(
        self, handler: Handler, message: Message[object], envelope: Envelope
    ) -> Verdict:
        async with self.sessions() as session:
            with translated():
                first = await self.dedup.first_time(session, envelope, attempt=message.attempt)
            if not first:
                return Done(duplicate=True)
            try:
                took = await self._carry_out(handler, message, session, envelope)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the user's code
                _raise_unless_failure(error)
                self.telemetry.handler_failed(handler.event_type, error, attempt=message.attempt)
                return after_failure(message.attempt, self.policy)
        self.telemetry.handled(handler.event_type, took=took)
        return Done()

    async def _carry_out(
        self,
        handler: Handler,
        message: Message[object],
        session: AsyncSession,
        envelope: Envelope,
    ) -> timedelta:
        """Call the handler and commit; returns how long it worked."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await handler.function(message, session)
        took = timedelta(seconds=clock() - began)
        if not await self.dedup.took(session, envelope, took):
            raise TransactionEndedByHandler
        await uninterrupted(session.commit())
        return took

    async def give_up(self, delivery: Delivery, verdict: GiveUp) -> Verdict:
        """
        Bury *delivery*, and record that it has failed, if its envelope can be read.

        Raises DatabaseUnavailable if nothing of this was done.
        """
        try:
            envelope = codec.from_wire(delivery.message)
        except UnreadableMessage:
            envelope = None
        with translated():
            async with self.sessions() as session:
                await dead_letters.bury(
                    session,
                    delivery.message,
                    source=self.consumer.name,
                    queue=self.queue,
                    reason=verdict.code,
                    attempts=verdict.attempt,
                )
                if envelope is not None:
                    await self.dedup.failed(session, envelope, attempt=verdict.attempt)
                await uninterrupted(session.commit())
        return verdict


def _raise_unless_failure(error: BaseException) -> None:
    """
    Raise what is not the handler's fault: our own cancellation, and a database that went away.

    A handler may also be cancelled by something of its own, which is a failure like any other.
    """
    if isinstance(error, DatabaseUnavailable):
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return
    # Errors of other servers, which the handler may have asked, are failures.
    if isinstance(error, SQLAlchemyError) and is_away(error):
        raise DatabaseUnavailable(reason_of(error)) from None
