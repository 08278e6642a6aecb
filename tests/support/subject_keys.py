"""
Keys of persons in the memory of the test, for producers and consumers in its process.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from outbox.encryption.digests import digest
from outbox.encryption.subjects import SubjectErased, SubjectKey
from outbox.errors import KeysUnavailable


@dataclass
class _Held:
    keys: Mapping[UUID, bytes | None]
    is_lost: bool = False

    async def verify(self) -> None:
        if self.is_lost:
            raise KeysUnavailable("the session of the key database was lost")


@dataclass
class SubjectKeysInMemory:
    """
    Implements SubjectKeys and SubjectKeyReader.

    `is_reachable` may be set to False; `read` counts the batches that read keys.
    """

    is_reachable: bool = True
    read: int = 0
    _ids: dict[bytes, UUID] = field(default_factory=dict)
    _keys: dict[UUID, bytes | None] = field(default_factory=dict)
    _held: list[_Held] = field(default_factory=list)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    def key_of(self, digest: bytes, /) -> SubjectKey:
        self._check()
        id_ = self._ids.setdefault(digest, uuid4())
        key = self._keys.setdefault(id_, os.urandom(32))
        if key is None:
            raise SubjectErased
        return SubjectKey(id_, key)

    @asynccontextmanager
    async def holding(self, ids: Collection[UUID], /) -> AsyncIterator[_Held]:
        self._check()
        self.read += 1
        held = _Held({id_: self._keys[id_] for id_ in ids if id_ in self._keys})
        self._held.append(held)
        try:
            yield held
        finally:
            self._held.remove(held)
            self._freed.set()

    async def erase(self, subject: str, digest_key: bytes) -> None:
        """Destroy the key of *subject*, once the batches that began before have ended."""
        id_ = self._ids[digest(digest_key, "subject", subject)]
        older = list(self._held)
        while any(each in self._held for each in older):
            self._freed.clear()
            await self._freed.wait()
        self._keys[id_] = None

    def lose_sessions(self) -> None:
        """Let the sessions of the batches that are handled now be lost."""
        for held in self._held:
            held.is_lost = True

    def _check(self) -> None:
        if not self.is_reachable:
            raise KeysUnavailable("the key database cannot be reached")
