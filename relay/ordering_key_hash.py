"""
What leaves the database of an ordering key: a keyed digest.

Keys may be user ids, which are few enough to try out one by one. With a secret in the digest
nobody can do that who has only seen messages, and no two databases say the same of one key.
"""

from hashlib import blake2b

LANE_BYTES = 16
"""Among 2^64 keys two may share a lane by chance; they would only wait for each other."""


class OrderingKeyHasher:
    """
    The lanes of ordering keys, the same for all relays that share *secret*.

    *secret* has at most 64 bytes.
    """

    def __init__(self, secret: bytes) -> None:
        # Copied for each key: that costs half of preparing it anew. Results are not remembered,
        # which would gain less with few keys than it would lose with many.
        self._keyed = blake2b(key=secret, digest_size=LANE_BYTES)

    def lane(self, ordering_key: str | None) -> str | None:
        """32 hex digits that stand for *ordering_key*, or None if there is none."""
        if ordering_key is None:
            return None
        digest = self._keyed.copy()
        digest.update(ordering_key.encode())
        return digest.hexdigest()
