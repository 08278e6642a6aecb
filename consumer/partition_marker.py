"""
The drain marker: the last message of a partition that is replaced.

It is no event: it has no body, and a process settles it without a handler.
"""

from collections.abc import Callable
from uuid import UUID, uuid4

from outbox.wire.codec import WireMessage
from outbox.wire.headers import DRAIN_HEADER

TYPE = "outbox.partition.drain"


def drain_marker(queue: str, *, new_id: Callable[[], UUID] = uuid4) -> WireMessage:
    """A marker for the end of *queue*."""
    return WireMessage(
        "", queue, b"", message_id=str(new_id()), type=TYPE, headers={DRAIN_HEADER: 1}
    )


def is_drain_marker(message: WireMessage) -> bool:
    """Whether *message* is a marker; a process believes it only while the partition drains."""
    return DRAIN_HEADER in message.headers
