"""
The protocol of a source of keys.

A source has key-encryption keys, each with an id, and the digest key. A key management service
(KMS) is a source whose key-encryption keys never leave the service.
"""

from typing import NamedTuple, Protocol

from outbox.errors import KeysUnavailable

__all__ = ["KeyProvider", "KeysUnavailable", "UnknownKey", "WrappedKey", "WrongKey"]


class WrappedKey(NamedTuple):
    """A key as the key-encryption key *key_id* has encrypted it."""

    key_id: str
    wrapped: bytes


class UnknownKey(Exception):  # noqa: N818 - callers turn it into a reason code
    """The source has no key-encryption key of this id, or no longer."""


class WrongKey(Exception):  # noqa: N818 - callers turn it into a reason code
    """A wrapped key was changed, or was wrapped by another key of the same id."""


class KeyProvider(Protocol):
    """
    A source of keys. Its methods may block, and may be called by several threads.

    A producer calls `wrap` every five minutes and a consumer calls `unwrap` once for each data
    key, so that a service on the network is called rarely. All raise KeysUnavailable.

    A source with an attribute `is_in_memory` that is true never waits: a consumer calls it in its
    event loop, and any other source in a thread.
    """

    def digest_key(self) -> bytes:
        """Return the digest key: 32 bytes, the same for ever and for all processes."""
        ...

    def wrap(self, key: bytes, /) -> WrappedKey:
        """Encrypt *key*, 32 bytes, with the key-encryption key that is current now."""
        ...

    def unwrap(self, wrapped: WrappedKey, /) -> bytes:
        """Decrypt a key; raises UnknownKey or WrongKey."""
        ...
