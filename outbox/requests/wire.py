"""
The names of requests and replies on the wire: pure.
"""

from outbox.validation import is_key
from outbox.wire.codec import WireMessage

ANSWERED = "outbox.reply"
"""The type of a reply."""

FAILED = "outbox.reply.failed"
"""The type of an error reply, whose payload is `{"code": …}`: a reason code, no health data."""


def is_answerable(message: WireMessage) -> bool:
    """Whether *message* is a request that a reply can be sent to."""
    correlation_id = message.correlation_id or message.message_id
    return _is_key(message.reply_to) and _is_key(correlation_id)


def _is_key(text: str | None) -> bool:
    return text is not None and is_key(text)
