"""
Encrypted bodies, as far as relay and broker have to know them: by their content encoding.

The relay has no keys. `outbox.encryption` writes and reads these bodies.
"""

from collections.abc import Callable
from typing import TypeAlias

from outbox.errors import UnreadableMessage
from outbox.wire.envelope import Envelope

ENCODING = "outbox-aes256gcm"
"""The content encoding of an encrypted body; docs/reference/encrypted-body.md has its bytes."""

KEY_UNKNOWN = "key_unknown"
"""The reason code of a body whose key this process does not have."""

NOT_AUTHENTIC = "body_not_authentic"
"""The reason code of a body that was changed, or belongs to another message."""

PLAINTEXT_REFUSED = "plaintext_refused"
"""The reason code of a plain body where MQ_REQUIRE_ENCRYPTION is set."""

SUBJECT_ERASED = "subject_erased"
"""The code of a body whose subject was erased: it is acked, and its handler is not called."""


class PrivateText(str):
    """A text from an encrypted body; in logs, spans and tables *digest* stands for it."""

    __slots__ = ("digest",)
    digest: str | None

    @classmethod
    def of(cls, text: str, digest: str | None) -> "PrivateText":
        """Return *text*, with the digest that was sent in its place."""
        private = cls(text)
        private.digest = digest
        return private

    def __repr__(self) -> str:
        """Return that of the digest: messages are logged by their `repr`."""
        return repr(self.digest)


Decrypt: TypeAlias = Callable[[Envelope], Envelope]
"""
Gives an envelope its plain body, the headers and the correlation id of its event, and returns it.

Raises UnreadableMessage.
"""


def is_encrypted(content_encoding: str | None) -> bool:
    """Return whether a body of this content encoding is encrypted."""
    return content_encoding == ENCODING


def require_encrypted(content_encoding: str | None) -> None:
    """Raise UnreadableMessage with the code `plaintext_refused` unless the body is encrypted."""
    if not is_encrypted(content_encoding):
        raise UnreadableMessage(PLAINTEXT_REFUSED)
