"""
The subject keys that a consumer has unwrapped, for a limited time.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias
from uuid import UUID

from outbox.encryption.keys import KeyProvider, UnknownKey, WrappedKey, WrongKey

SECONDS = 60.0
"""A key that no batch has used for two of these times is forgotten with the next batch."""
MOST = 10_000

Row: TypeAlias = tuple[UUID, str, bytes]
"""The id of a subject key, the id of the key that wraps it, and the wrapped key."""


class _Key(NamedTuple):
    wrapped: bytes
    key: bytes


class UnwrappedSubjectKeys:
    """Subject keys that *keys* has unwrapped; *clock* returns seconds."""

    def __init__(self, keys: KeyProvider, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._recent: dict[UUID, _Key] = {}
        self._older: dict[UUID, _Key] = {}
        self._until = clock() + SECONDS

    def known(self, rows: Iterable[Row]) -> dict[UUID, bytes]:
        """The keys of *rows* that were unwrapped before."""
        if self._clock() >= self._until or len(self._recent) >= MOST:
            self._older, self._recent = self._recent, {}
            self._until = self._clock() + SECONDS
        found = {}
        for id_, _, wrapped in rows:
            key = self._recent.get(id_) or self._older.get(id_)
            if key is not None and key.wrapped == wrapped:
                self._recent[id_] = key
                found[id_] = key.key
        return found

    def all(self, rows: Iterable[Row]) -> dict[UUID, bytes]:
        """
        The keys of *rows*, unwrapped now if they were not; those that cannot be are left out.

        Raises KeysUnavailable; may block.
        """
        wanted = list(rows)
        found = self.known(wanted)
        for id_, key_id, wrapped in wanted:
            if id_ in found:
                continue
            try:
                key = self._keys.unwrap(WrappedKey(key_id, wrapped))
            except (UnknownKey, WrongKey):
                continue
            self._recent[id_] = _Key(wrapped, key)
            found[id_] = key
        return found

    def forget(self, ids: Iterable[UUID]) -> None:
        """Forget the keys of *ids*, which were erased."""
        for id_ in ids:
            self._recent.pop(id_, None)
            self._older.pop(id_, None)
