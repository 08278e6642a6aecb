"""
A wrapped key as the current key wraps it, and how many rows have one.
"""

from collections import Counter
from dataclasses import dataclass, field

from outbox.encryption.keys import KeyProvider, UnknownKey, WrappedKey, WrongKey
from outbox.errors import ConfigurationError
from outbox.wire.encrypted import KEY_UNKNOWN, NOT_AUTHENTIC


@dataclass(slots=True)
class Summary:
    """The result so far: committed rows by table, and those that were left by their code."""

    done: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether every row has the current key."""
        return not self.left and not self.interrupted


def wrapped_again(keys: KeyProvider, wrapped: WrappedKey) -> WrappedKey | str:
    """
    Return what *wrapped* is when the current key wraps it, or the code why that is unknown.

    The old wrapped key is about to be overwritten, so the new one is unwrapped once. Raises
    ConfigurationError if the source does not return the same key, and KeysUnavailable.
    """
    try:
        key = keys.unwrap(wrapped)
    except UnknownKey:
        return KEY_UNKNOWN
    except WrongKey:
        return NOT_AUTHENTIC
    new = keys.wrap(key)
    if not _is_of(keys, new, key):
        raise ConfigurationError(
            "MQ_ENCRYPTION_KEYS: the source cannot unwrap what it has wrapped"
        )
    return new


def _is_of(keys: KeyProvider, wrapped: WrappedKey, key: bytes) -> bool:
    try:
        return keys.unwrap(wrapped) == key
    except (UnknownKey, WrongKey):
        return False
