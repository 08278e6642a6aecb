"""
The keys of a consumer's process: for messages that it reads, and events that its handlers record.
"""

import asyncio
from typing import TYPE_CHECKING, cast

from outbox import producer_encryption
from outbox.extras import packages_of
from outbox.settings import SharedSettings

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption
    from outbox.encryption.subjects import SubjectKeyReader


async def decryption_of(settings: SharedSettings) -> "Decryption | None":
    """
    Return how a consumer with these *settings* decrypts; None if it has no keys.

    Events of its handlers are encrypted with the same keys from now on. Where the program has
    called `outbox.use_encryption`, those keys count. Raises ConfigurationError, also without the
    extra `encryption`, and KeysUnavailable.
    """
    chosen = await asyncio.to_thread(
        producer_encryption.use_settings,
        settings.keys,
        subjects=settings.subject_keys,
        required=settings.require_encryption,
    )
    if chosen.keys is None:
        return None
    with packages_of(f"{producer_encryption.KEYS}: encryption", extra="encryption"):
        from consumer.execution.decryption import Decryption  # noqa: PLC0415 - an extra
        from outbox.encryption.decryptor import Decryptor  # noqa: PLC0415
    required = settings.require_encryption or chosen.required
    return Decryption(Decryptor(chosen.keys), _reader(chosen.subjects), required)


def _reader(subjects: object) -> "SubjectKeyReader | None":
    """*subjects* if it can be read by a consumer too, as keys in memory may be."""
    return cast("SubjectKeyReader", subjects) if hasattr(subjects, "holding") else None
