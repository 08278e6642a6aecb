"""
Data keys: the one that a process encrypts with, and those that it has unwrapped.

A data key encrypts at most MAX_EVENTS events. With random nonces of 96 bits, NIST SP 800-38D,
section 8.3, allows 2**32 for one key; a child that is forked goes on with the key of its parent,
and counts for itself.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption.body_format import KEY_BYTES, key_part
from outbox.encryption.keys import KeyProvider, WrappedKey, WrongKey
from outbox.encryption.process_lock import ProcessLock
from outbox.errors import ConfigurationError, KeysUnavailable

MAX_EVENTS = 1_000_000
MAX_SECONDS = 300.0
"""A process encrypts with the new key at most this long after the old one was replaced."""
MAX_SECONDS_UNAVAILABLE = 3_600.0
"""So old may a data key become while no new one can be wrapped."""
RETRY_SECONDS = 10.0
"""A source that was unavailable is asked again after this time."""
EARLIER_SECONDS = 30.0
"""A source that may block is asked so much earlier than MAX_SECONDS, beside the producer."""
MOST_UNWRAPPED = 4_096
"""The data keys that a consumer remembers; each needs about 1 KB."""


class DataKey(NamedTuple):
    """A data key as a *cipher*, and the *key_part* of the bodies that it encrypts."""

    cipher: AESGCM
    key_part: bytes


class _Use(NamedTuple):
    """The use of *key*: *numbers* counts its events; it is replaced at *until*."""

    key: DataKey
    numbers: Iterator[int]
    until: float
    last: float


class CurrentDataKey:
    """
    The data key that this process encrypts with; *clock* returns seconds.

    A source that may block is asked for the next key in a thread of its own: a producer in an
    event loop waits for its first key, and after a pause, but not while it records. While the
    source is unavailable, the key that was wrapped before stays in use, up to MAX_EVENTS events
    and MAX_SECONDS_UNAVAILABLE.
    """

    def __init__(self, keys: KeyProvider, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._may_block = not getattr(keys, "is_in_memory", False)
        self._clock = clock
        self._lock = ProcessLock()
        self._use: _Use | None = None

    def take(self) -> DataKey:
        """Return the data key for one event; raises KeysUnavailable and ConfigurationError."""
        use = self._use
        if use is None or self._clock() >= use.until or next(use.numbers) >= MAX_EVENTS:
            use = self._next_use(use)
        return use.key

    def _next_use(self, used: _Use | None) -> _Use:
        """The use that follows *used*, for the first of its events."""
        with self._lock:
            use = self._use
            # Another thread has replaced it already.
            if use is None or use is used or next(use.numbers) >= MAX_EVENTS:
                use = self._use = self._renewed(use)
            return use

    def _renewed(self, used: _Use | None) -> _Use:
        now = self._clock()
        if used is None or now >= used.last or next(used.numbers) >= MAX_EVENTS:
            return self._made()
        # After a pause the key may have been replaced long ago.
        if self._may_block and now < used.until + RETRY_SECONDS and self._is_made_beside():
            return used._replace(until=min(now + RETRY_SECONDS, used.last))
        try:
            return self._made()
        except (KeysUnavailable, ConfigurationError):
            # Without an active key, too: a clock may have been set back.
            return used._replace(until=min(self._clock() + RETRY_SECONDS, used.last))

    def _is_made_beside(self) -> bool:
        """Whether a thread has begun to make the next use."""
        try:
            threading.Thread(target=self._make_beside, daemon=True).start()
        except RuntimeError:  # there are too many threads, or the process ends
            return False
        return True

    def _make_beside(self) -> None:
        with suppress(KeysUnavailable, ConfigurationError):
            made = self._made()
            with self._lock:
                self._use = made

    def _made(self) -> _Use:
        key = self._new()
        now = self._clock()
        until = now + MAX_SECONDS - (EARLIER_SECONDS if self._may_block else 0)
        return _Use(key, count(1), until, now + MAX_SECONDS_UNAVAILABLE)

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
        self._lock = ProcessLock()
        self._known: dict[tuple[str, bytes], AESGCM] = {}

    def is_known(self, wrapped: WrappedKey) -> bool:
        """Whether `cipher` returns without a call of the source."""
        return wrapped in self._known

    def cipher(self, wrapped: WrappedKey) -> AESGCM:
        """Return the data key; raises UnknownKey, WrongKey and KeysUnavailable."""
        found = self._known.get(wrapped)
        return self._unwrapped(wrapped) if found is None else found

    def _unwrapped(self, wrapped: WrappedKey) -> AESGCM:
        key = self._keys.unwrap(wrapped)
        if len(key) != KEY_BYTES:
            # A shorter one would be a key of a weaker cipher.
            raise WrongKey
        cipher = AESGCM(key)
        with self._lock:
            if len(self._known) >= MOST_UNWRAPPED:
                del self._known[next(iter(self._known))]
            self._known[wrapped] = cipher
        return cipher
