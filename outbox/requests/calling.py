"""
A request in one call: recorded in a transaction of its own, and its reply awaited.
"""

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox.errors import DuplicateRequest
from outbox.event import Event
from outbox.record import Recordable, event_of
from outbox.requests.reading import is_recorded, wait
from outbox.requests.recording import request_in
from outbox.requests.reply import Reply

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)


@overload
async def request(
    session_factory: async_sessionmaker[AsyncSession],
    event: Recordable,
    /,
    *,
    timeout: timedelta,  # noqa: ASYNC109
    model: "type[Model]",
    reply_to: str | None = None,
) -> "Reply[Model]": ...
@overload
async def request(
    session_factory: async_sessionmaker[AsyncSession],
    event: Recordable,
    /,
    *,
    timeout: timedelta,  # noqa: ASYNC109
    model: None = None,
    reply_to: str | None = None,
) -> Reply[Any]: ...
async def request(
    session_factory: async_sessionmaker[AsyncSession],
    event: Recordable,
    /,
    *,
    timeout: timedelta,  # noqa: ASYNC109 - it is the deadline of the request, sent with it
    model: Any = None,
    reply_to: str | None = None,
) -> Reply[Any]:
    """
    Record *event* as a request in a transaction of its own, wait for its reply, and return it.

    The request is committed before the wait: if this process ends, any other one may go on waiting
    with `outbox.replies.wait`, by the correlation id of the event or else its id. To record it
    together with other writes, take `outbox.request_in`.

    Args:
        session_factory: Of the database of the outbox.
        event: As for `outbox.add`.
        timeout: Until the deadline, by the clock of the database; at most 30 days.
        model: The class of pydantic models that the reply is read as.
        reply_to: The queue of this service for replies. Default is MQ_REPLY_QUEUE.

    Raises RequestTimedOut; RequestFailed if the consumer gave the request up; DuplicateRequest if
    its correlation id is taken; UnreadableMessage if the reply is no *model*; those of
    `outbox.request_in`; and the errors of the database driver.

    """
    recordable: Event = event_of(event)
    try:
        async with session_factory() as session, session.begin():
            asked = request_in(session, recordable, timeout=timeout, reply_to=reply_to)
    except IntegrityError:
        if not await is_recorded(session_factory, _correlation_id(recordable)):
            raise
        raise DuplicateRequest("another request has its correlation id") from None
    return await wait(session_factory, asked.correlation_id, model=model)


def _correlation_id(event: Event) -> str:
    return event.correlation_id or str(event.id)
