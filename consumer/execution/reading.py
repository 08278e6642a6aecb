"""
By which keys the messages of a batch are read, and whether those keys are still there: a value.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from outbox.wire.encrypted import Decrypt


@dataclass(frozen=True, slots=True)
class Reading:
    """
    How the messages of a batch are read.

    Args:
        decrypt: Decrypts them; None if this consumer has no keys.
        verify: Called before a COMMIT of their effects; raises KeysUnavailable if one of their
            subjects may have been erased meanwhile. None if they have no subjects.

    """

    decrypt: Decrypt | None = None
    verify: Callable[[], Awaitable[None]] | None = None


IN_CLEAR = Reading()
"""How a consumer without keys reads."""
