"""
Keyed digests in place of keys that may name a person.

Equal keys have equal digests, so that order, deduplication and correlation work on the digests;
without the digest key, a digest cannot be compared with a guess.
"""

import hmac
from typing import Literal, TypeAlias, get_args

from outbox.errors import ConfigurationError

DIGEST_KEY_BYTES = 32

Domain: TypeAlias = Literal[
    "ordering_key", "idempotency_key", "correlation_id", "subject", "fingerprint"
]
"""What a digest stands for: one value has another digest in each field."""


class Digests:
    """
    HMAC-SHA-256, with *key*, of the domain, a zero byte and the value in UTF-8.

    Raises ConfigurationError if a source of keys has another key than one of 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != DIGEST_KEY_BYTES:
            raise ConfigurationError(
                f"MQ_ENCRYPTION_KEYS: the digest key must have {DIGEST_KEY_BYTES} bytes"
            )
        # A copy of a HMAC that knows key and domain costs half of a new one.
        self._begun = {
            domain: hmac.new(key, domain.encode() + b"\0", "sha256") for domain in get_args(Domain)
        }

    def of(self, domain: Domain, value: str) -> bytes:
        """The digest of *value* in this *domain*: 32 bytes."""
        return self._hmac(domain, value).digest()

    def text_of(self, domain: Domain, value: str) -> str:
        """The digest as it stands for *value* in a row: 64 hex digits."""
        return self._hmac(domain, value).hexdigest()

    def _hmac(self, domain: Domain, value: str) -> hmac.HMAC:
        begun = self._begun[domain].copy()
        begun.update(value.encode())
        return begun


def digest(key: bytes, domain: Domain, value: str) -> bytes:
    """One digest, with *key*: 32 bytes."""
    return Digests(key).of(domain, value)
