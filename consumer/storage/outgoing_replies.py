"""
Replies that a consumer sends: rows of the outbox, in the transaction of the handler or of the dead
letter, so that each is sent once in effect.

A reply goes through the default exchange to the queue that the request names, with the correlation
id as it was sent. A success has the type `outbox.reply` and what the handler returned as its body;
a failure has the type `outbox.reply.failed` and the reason code of the dead letter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from outbox.errors import InvalidEvent
from outbox.event import Event
from outbox.record import rows
from outbox.requests.wire import FAILED, is_answerable
from outbox.runtime import logs
from outbox.tables import outbox
from outbox.wire.codec import WireMessage

_log = logs.get("consumer")


@dataclass(frozen=True, slots=True)
class OutgoingReply:
    """*event*, which is sent as the reply to a request with this *correlation_id*."""

    event: Event
    correlation_id: str

    def row(self) -> dict[str, Any]:
        """The values of its row; raises InvalidEvent, ConfigurationError and KeysUnavailable."""
        (row,) = rows([self.event])
        # As it was sent: a digest must not become the digest of a digest.
        return {**row, "exchange": "", "correlation_id": self.correlation_id}


async def record(session: AsyncSession, replies: Sequence[OutgoingReply]) -> None:
    """Record *replies* in the transaction of *session*; raises as `OutgoingReply.row`."""
    for reply in replies:
        await session.execute(sa.insert(outbox).values(reply.row()))


async def record_unless_refused(
    session: AsyncSession, replies: Sequence[Mapping[str, Any]], *, reason: str
) -> None:
    """
    Record the rows of *replies* in the transaction of *session*, each in a savepoint.

    The rest of the transaction counts more: a row that the database refuses is logged with
    *reason*, and its caller sees a timeout.
    """
    for row in replies:
        try:
            async with session.begin_nested():
                await session.execute(sa.insert(outbox).values(dict(row)))
        except (IntegrityError, DataError):
            _refused(row["event_id"], reason)


async def record_failure(session: AsyncSession, request: WireMessage, *, code: str) -> None:
    """
    Record that *request* was given up for the reason *code*, in the transaction of *session*.

    The dead letter counts more: if this process may not record the reply, as a database refuses
    plaintext, the caller sees a timeout.
    """
    if not is_answerable(request):
        return
    event = Event(
        FAILED,
        {"code": code},
        routing_key=request.reply_to or "",
        correlation_id=request.correlation_id or request.message_id,
    )
    reply = OutgoingReply(event, event.correlation_id or "")
    try:
        row = reply.row()
    except InvalidEvent:
        _refused(event.id, code)
    else:
        await record_unless_refused(session, [row], reason=code)


def _refused(event_id: UUID, reason: str) -> None:
    _log.error("reply_refused", message_id=str(event_id), reason=reason)
