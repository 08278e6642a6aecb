"""
Recording a request in the caller's transaction: an event, and a row of `replies` that waits.

| a crash …                         | leaves                                                      |
|-----------------------------------|-------------------------------------------------------------|
| before the caller's COMMIT        | no request: neither row is there                            |
| after it                          | both rows: the relay publishes, and any process may wait    |
| after the deadline, unpublished   | the row of `replies`; the relay deletes the other one       |
"""

from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import sqlalchemy as sa

from outbox.database_time import now_plus
from outbox.errors import InvalidEvent
from outbox.record import Recordable, SupportsAdd, event_of, rows
from outbox.requests.queue import reply_queue

LONGEST = timedelta(days=30)


class Request(NamedTuple):
    """A recorded request; `outbox.replies.wait` takes its *correlation_id*, in any process."""

    correlation_id: str


def request_in(
    session: SupportsAdd, event: Recordable, /, *, timeout: timedelta, reply_to: str | None = None
) -> Request:
    """
    Record *event* as a request in the transaction of *session*; never awaited, like `outbox.add`.

    The request is published after the COMMIT. Then `outbox.replies.wait` waits for the reply.

    Args:
        session: A `Session` or an `AsyncSession`.
        event: As for `outbox.add`.
        timeout: Until the deadline, from the moment at which the session writes the rows, by the
            clock of the database; at most 30 days. After it the relay does not publish the
            request, and no handler that answers is called.
        reply_to: The queue of this service for replies. Default is MQ_REPLY_QUEUE.

    The correlation id is that of the event, or else the id of the event. The database refuses a
    second request with it when the session writes its rows. Raises InvalidEvent as `outbox.add`,
    and ConfigurationError.

    """
    if not callable(getattr(session, "add", None)):
        raise InvalidEvent("session", "must be a Session or an AsyncSession")
    given: object = timeout
    if not isinstance(given, timedelta) or not timedelta(0) < given <= LONGEST:
        raise InvalidEvent("timeout", "must be a timedelta above 0, at most 30 days")
    from outbox.requests.rows import reply_row, request_row  # noqa: PLC0415 - the ORM takes a while
    from outbox.session import check  # noqa: PLC0415

    check(session, request_row(), reply_row())
    request, queue = event_of(event), reply_queue(reply_to)
    if request.correlation_id is None:
        request = replace(request, correlation_id=str(request.id))
    (values,) = rows([request])
    expires_at = now_plus(sa.literal(timeout.total_seconds(), sa.Double))
    session.add(request_row()(**values, reply_to=queue, expires_at=expires_at))
    session.add(
        reply_row()(
            correlation_id=values["correlation_id"],
            request_id=request.id,
            type=request.type,
            expires_at=expires_at,
        )
    )
    return Request(request.correlation_id or "")
