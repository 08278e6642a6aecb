"""
Ids that may be logged as they are, and digests of all others: pure, but for a random key.

Producers choose correlation ids, and other publishers choose message ids, so one may be a name, a
mail address or the number of a patient. An id is logged only if its form shows that a program has
drawn it. Of any other id the log has a digest, which is the same as long as the process runs. Its
key is random: without one, a digest of a number is found by digesting all numbers.
"""

import re
import secrets
from hashlib import blake2b
from uuid import UUID

from outbox.wire.encrypted import PrivateText

_KEY = secrets.token_bytes(32)

_OPAQUE = re.compile(
    # A UUID, also in braces or as a URN
    r"(?:urn:uuid:)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|\{[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\}"
    # The header traceparent of W3C Trace Context
    r"|[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
    # Digits alone may be the number of a person or of a card, so one letter is needed
    r"|(?=\d*[a-z])(?:[0-9a-f]{16,}|[0-7][0-9a-hjkmnp-tv-z]{25})",
    re.ASCII | re.IGNORECASE,
)


def loggable(identifier: UUID | str, *, key: bytes = _KEY) -> str:
    """
    Return *identifier* if its form shows that it is random, else its digest with *key*.

    For a private text, the digest that was sent.
    """
    text = str(identifier.digest if isinstance(identifier, PrivateText) else identifier)
    return text if is_loggable(text) else digest(text, key=key)


def is_loggable(identifier: UUID | str) -> bool:
    """Return whether the form of *identifier* shows that it is random."""
    return _OPAQUE.fullmatch(str(identifier)) is not None


def digest(text: str, *, key: bytes = _KEY) -> str:
    """Return a digest of *text* that only a program with *key* can compute."""
    hashed = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6, key=key)
    return f"digest:{hashed.hexdigest()}"
