"""
The lane of an ordering key: a keyed hash, which leaves the database in place of the key.

Keys may be user ids, and those are few enough to try out one by one. With a secret in the hash, a
reader of messages alone cannot do that, and two databases give one key different lanes.
"""

from hashlib import blake2b

LANE_BYTES = 16
"""Two of 2^64 keys may share a lane by chance; they would only wait for each other."""


class OrderingKeyHasher:
    """
    Hashes ordering keys to lanes, the same for all relays that share *secret*.

    *secret* has at most 64 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        # Copied for each key: a copy costs half of a new keyed hash. A cache of results would gain
        # less with few keys than it would lose with many.
        self._keyed = blake2b(key=secret, digest_size=LANE_BYTES)

    def lane(self, ordering_key: str | None) -> str | None:
        """The lane of *ordering_key*, 32 hex digits, or None if there is no key."""
        if ordering_key is None:
            return None
        digest = self._keyed.copy()
        digest.update(ordering_key.encode())
        return digest.hexdigest()
