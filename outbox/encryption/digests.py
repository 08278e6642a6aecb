"""
Keyed digests in place of keys that may name a person.

Equal keys have equal digests, so that order, deduplication and correlation work on the digests;
without the digest key, a digest cannot be compared with a guess.
"""

import hmac
from typing import Literal, TypeAlias

DIGEST_KEY_BYTES = 32

Domain: TypeAlias = Literal[
    "ordering_key", "idempotency_key", "correlation_id", "subject", "fingerprint"
]
"""What a digest stands for: one value has another digest in each field."""


def digest(key: bytes, domain: Domain, value: str) -> bytes:
    """HMAC-SHA-256, with *key*, of *domain*, a zero byte and *value* in UTF-8: 32 bytes."""
    return hmac.digest(key, domain.encode() + b"\0" + value.encode(), "sha256")
