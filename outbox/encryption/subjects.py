"""
The protocol of the keys of persons. Who destroys the key of a person has erased the events.
"""

from typing import NamedTuple, Protocol
from uuid import UUID

from outbox.errors import InvalidEvent


class SubjectKey(NamedTuple):
    """The *key* of one subject, 32 bytes, and its random *id*."""

    id: UUID
    key: bytes


class SubjectErased(InvalidEvent):
    """The subject of an event was erased; raised to the producer that records the event."""

    def __init__(self) -> None:
        super().__init__("subject", "was erased: see `relay readmit`")


class SubjectKeys(Protocol):
    """The keys of subjects, as a producer needs them; it may block."""

    def key_of(self, digest: bytes, /) -> SubjectKey:
        """
        Return the key of the subject with this *digest*, made when it is first asked for.

        Raises SubjectErased and KeysUnavailable.
        """
        ...
