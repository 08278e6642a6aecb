"""
The log fields of messages: ids, type and attempt, and nothing that a producer wrote as text.
"""

from collections.abc import Sequence
from typing import Any

from consumer.message import Message
from outbox.runtime.loggable_ids import loggable
from outbox.wire.codec import WireMessage


def ids_of(message: WireMessage) -> dict[str, str]:
    """The ids that a delivered *message* has, each as it is or as a digest."""
    ids = {"message_id": message.message_id, "correlation_id": message.correlation_id}
    return {name: loggable(identifier) for name, identifier in ids.items() if identifier}


def fields_of(handled: Message[Any] | Sequence[Message[Any]]) -> dict[str, object]:
    """
    The fields of the message, or the messages, that a handler is called with.

    Of several messages, only their number and their type.
    """
    if not isinstance(handled, Message):
        of_one = fields_of(handled[0])
        if len(handled) == 1:
            return {**of_one, "messages": 1}
        return {"type": of_one["type"], "messages": len(handled)}
    fields: dict[str, object] = {
        "message_id": loggable(handled.id),
        "type": handled.type,
        "attempt": handled.attempt,
    }
    if handled.correlation_id:
        fields["correlation_id"] = loggable(handled.correlation_id)
    return fields
