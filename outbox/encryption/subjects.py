"""
The protocol of the keys of persons. Who destroys the key of a person has erased the events.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol
from uuid import UUID

from outbox.errors import InvalidEvent


class SubjectKey(NamedTuple):
    """The *key* of one subject, 32 bytes, and its random *id*."""

    id: UUID
    key: bytes

    def __repr__(self) -> str:
        return f"SubjectKey(id={self.id})"


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


class HeldSubjectKeys(Protocol):
    """The keys of the subjects of some messages; no erasure of them ends before they are freed."""

    @property
    def keys(self) -> Mapping[UUID, bytes | None]:
        """The keys by their ids; None if the subject was erased; absent if an id is unknown."""
        ...

    async def verify(self) -> None:
        """Raise KeysUnavailable if an erasure may have ended meanwhile: the session was lost."""
        ...


class SubjectKeyReader(Protocol):
    """The keys of subjects, as a consumer needs them."""

    def holding(self, ids: Collection[UUID], /) -> AbstractAsyncContextManager[HeldSubjectKeys]:
        """
        Return a context that reads the keys with these *ids*, and holds them until its exit.

        An erasure that began before the entry is seen; one that begins later waits for the exit.
        The effects of the messages are committed before the exit. Raises KeysUnavailable.
        """
        ...
