"""
Data keys: the one that a process encrypts with, and those that it has unwrapped.

A data key encrypts at most MAX_EVENTS events. With random nonces of 96 bits, NIST SP 800-38D,
section 8.3, allows 2**32 for one key.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption.body_format import KEY_BYTES, key_part
from outbox.encryption.keys import KeyProvider, WrappedKey

MAX_EVENTS = 1_000_000
MAX_SECONDS = 300.0
"""A process encrypts with the new key at most this long after the old one was replaced."""
MOST_UNWRAPPED = 4_096
"""The data keys that a consumer remembers; each needs about 1 KB."""


class DataKey(NamedTuple):
    """A data key as a *cipher*, and the *key_part* of the bodies that it encrypts."""

    cipher: AESGCM
    key_part: bytes


class CurrentDataKey:
    """The data key that this process encrypts with; *clock* returns seconds."""

    def __init__(self, keys: KeyProvider, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._lock = threading.Lock()
        self._current: DataKey | None = None
        self._events = 0
        self._until = 0.0

    def take(self) -> DataKey:
        """Return the data key for one event; raises KeysUnavailable."""
        with self._lock:
            self._events += 1
            if self._current is None or self._events > MAX_EVENTS or self._clock() >= self._until:
                self._current = self._new()
                self._events, self._until = 1, self._clock() + MAX_SECONDS
            return self._current

    def _new(self) -> DataKey:
        key = os.urandom(KEY_BYTES)
        wrapped = self._keys.wrap(key)
        return DataKey(AESGCM(key), key_part(wrapped.key_id, wrapped.wrapped))


class UnwrappedKeys:
    """
    The data keys that this process has unwrapped, the latest MOST_UNWRAPPED of them.

    `may_block` says whether `cipher` may wait for a server.
    """

    def __init__(self, keys: KeyProvider) -> None:
        self._keys = keys
        self.may_block = not getattr(keys, "is_in_memory", False)
        self._known: dict[WrappedKey, AESGCM] = {}

    def is_known(self, wrapped: WrappedKey) -> bool:
        """Whether `cipher` returns without a call of the source."""
        return wrapped in self._known

    def cipher(self, wrapped: WrappedKey) -> AESGCM:
        """Return the data key; raises UnknownKey, WrongKey and KeysUnavailable."""
        found = self._known.get(wrapped)
        if found is None:
            found = AESGCM(self._keys.unwrap(wrapped))
            if len(self._known) >= MOST_UNWRAPPED:
                self._known.pop(next(iter(self._known)), None)
            self._known[wrapped] = found
        return found
