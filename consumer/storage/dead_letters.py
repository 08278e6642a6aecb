"""
Writing messages of any content to `dead_letters`, and their failure to the dedup store.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from consumer.storage import outgoing_replies, stored_message
from consumer.storage.dedup import Dedup
from consumer.storage.failing import LastFailure
from consumer.storage.inserted import verify_inserted
from outbox.database.errors import driver_errors_translated
from outbox.database_time import database_now
from outbox.dead_letters import expired_body
from outbox.errors import UnreadableMessage
from outbox.runtime.error_summary import ErrorSummary
from outbox.runtime.shield import shielded
from outbox.tables import dead_letters
from outbox.wire import codec
from outbox.wire.codec import WireMessage
from outbox.wire.envelope import Envelope


@dataclass(frozen=True, slots=True)
class DeadLetterWriter:
    """
    Writes dead letters of *consumer*, whose messages came from *queue*.

    A request whose type is one of *answered* gets an error reply in the same transaction.
    """

    consumer: str
    queue: str
    sessions: async_sessionmaker[AsyncSession]
    dedup: Dedup
    answered: Collection[str] = ()

    async def write(
        self,
        message: WireMessage,
        *,
        reason: str,
        attempts: int,
        summary: ErrorSummary | None = None,
    ) -> bool:
        """
        Write *message* to `dead_letters`, and record in the dedup store that it has failed.

        *summary* is that of the handler's error; without one, the last that was recorded is kept.

        A message whose envelope cannot be read has no row in the dedup store.
        Returns False, and writes nothing, if the message is completed and needs no repair.
        Raises DatabaseUnavailable if it is not known to be written.
        """
        with driver_errors_translated():
            async with self.sessions() as session:
                written = await self.write_in(
                    session, message, reason=reason, attempts=attempts, summary=summary
                )
                await shielded(session.commit())
                return written

    async def write_in(
        self,
        session: AsyncSession,
        message: WireMessage,
        *,
        reason: str,
        attempts: int,
        summary: ErrorSummary | None = None,
        body_expired: bool = False,
    ) -> bool:
        """The same in the transaction of *session*; without the body if it is *body_expired*."""
        envelope = _envelope(message)
        is_completed = envelope is not None and not await self.dedup.record_failed(
            session, envelope, attempt=attempts
        )
        # It waits for no retry any more, and its dead letter keeps what was recorded.
        failure = await self.dedup.failing.take(session, message)
        if is_completed:
            return False
        await write_dead_letter(
            session,
            message,
            source=self.consumer,
            queue=self.queue,
            reason=reason,
            attempts=attempts,
            summary=summary,
            failure=failure,
            body_expired=body_expired,
        )
        if message.reply_to is not None and message.type in self.answered:
            await outgoing_replies.record_failure(session, message, code=reason)
        return True


async def write_dead_letter(
    session: AsyncSession,
    message: WireMessage,
    *,
    source: str,
    queue: str,
    reason: str,
    attempts: int,
    summary: ErrorSummary | None = None,
    failure: LastFailure | None = None,
    body_expired: bool = False,
) -> None:
    """
    Write *message* to `dead_letters` in the transaction of *session*.

    *summary* is that of the last error, or else the one of the *failure* before. `first_at` is the
    time of the first error, and `last_at` the time at which the message became a dead letter.
    """
    columns = stored_message.to_columns(message)
    if body_expired:
        columns |= expired_body.columns(
            headers=columns["headers"],
            content_encoding=columns["content_encoding"],
            start=columns["body"],
        )
        columns["body_expired_at"] = database_now()
    result = await session.execute(
        sa.insert(dead_letters).values(
            source=source,
            queue=queue,
            reason=reason,
            attempts=attempts,
            **_error_columns(summary, failure),
            **columns,
        )
    )
    verify_inserted(result, dead_letters)


def _error_columns(
    summary: ErrorSummary | None, failure: LastFailure | None
) -> Mapping[str, object]:
    last = summary if summary is not None or failure is None else failure.summary
    columns: dict[str, object] = {}
    if last is not None:
        columns |= {"error_class": last.error_class, "error_place": last.place}
    if failure is not None:
        columns["first_at"] = failure.first_at
    return columns


def _envelope(message: WireMessage) -> Envelope | None:
    try:
        return codec.from_wire(message, decrypt=_as_sent)
    except UnreadableMessage:
        return None


def _as_sent(envelope: Envelope) -> Envelope:
    """The dedup store needs no body, and has what was sent in place of private fields."""
    return envelope
