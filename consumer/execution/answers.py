"""
The replies of a handler: what it returned, as events. Pure, but for the keys that encrypt them.

    a value                  the reply: a JSON value, bytes, a pydantic model, or an `Event`, whose
                             payload, headers, subject and compression are taken; the subject is
                             that which the model names, if the event has none
    None                     an empty reply, if the annotation of the handler says that it returns
                             something; no reply, if it says None or nothing
    of a handler of lists    a list with the reply to each message, in their order; or None

A handler that returns a value to a message that is no request has done nothing wrong: the value is
dropped, as the caller wants none.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

from consumer.execution.decode import Attempt
from consumer.handler import Handler
from consumer.storage.outgoing_replies import OutgoingReply
from outbox.errors import InvalidEvent, KeysUnavailable
from outbox.event import Event
from outbox.payload import encode
from outbox.producer_encryption import subject_of
from outbox.requests.wire import ANSWERED, is_answerable

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_RETRY_EVERY = timedelta(seconds=1)


def answers_of_list(
    handler: Handler, attempts: Sequence[Attempt], result: Any
) -> list[OutgoingReply]:
    """
    The replies of a *handler* of lists that returned *result*.

    Raises InvalidEvent if a request is among *attempts*, and *result* is not one value for each.
    """
    if all(each.delivery.message.reply_to is None for each in attempts):
        return []
    if result is None:
        return answers_of(handler, attempts, [None] * len(attempts))
    if not isinstance(result, list | tuple) or len(result) != len(attempts):
        raise InvalidEvent("reply", "must be a list with one reply for each message, or None")
    return answers_of(handler, attempts, result)


def answers_of(
    handler: Handler, attempts: Sequence[Attempt], results: Sequence[Any]
) -> list[OutgoingReply]:
    """
    The replies to those of *attempts* that are requests, from the *results* of *handler*.

    Raises InvalidEvent for a result that no event can carry; it names the field, not the value.
    """
    return [
        _reply(attempt, result)
        for attempt, result in zip(attempts, results, strict=True)
        if is_answerable(attempt.delivery.message) and (handler.answers or result is not None)
    ]


async def rows_of_answer(handler: Handler, attempt: Attempt, result: Any) -> Rows:
    """
    The rows of the reply to *attempt*, however long the keys for it are unavailable.

    Raises InvalidEvent and ConfigurationError.
    """
    while True:
        try:
            return [reply.row() for reply in answers_of(handler, [attempt], [result])]
        except KeysUnavailable:
            await asyncio.sleep(_RETRY_EVERY.total_seconds())


def _reply(attempt: Attempt, result: Any) -> OutgoingReply:
    request = attempt.delivery.message
    correlation_id = request.correlation_id or request.message_id or ""
    common: dict[str, Any] = {
        "routing_key": request.reply_to,
        "correlation_id": correlation_id,
        "priority": attempt.envelope.priority,
    }
    if isinstance(result, Event):
        body, content_type = result.body, result.content_type
        common |= {
            "headers": result.headers,
            "subject": result.subject or subject_of(result.payload),
            "compression": result.compression,
        }
    elif isinstance(result, bytes):
        body, content_type = result, "application/octet-stream"
    else:
        body, content_type = encode(result, "")
        common["subject"] = subject_of(result)
    event = Event(ANSWERED, body, content_type=content_type, **common)
    return OutgoingReply(event, correlation_id)
