"""
The keys of a consumer's process: for messages that it reads, and events that its handlers record.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from outbox import producer_encryption
from outbox.extras import packages_of
from outbox.runtime import process
from outbox.settings import SharedSettings

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption
    from outbox.encryption.keys import KeyProvider
    from outbox.encryption.subjects import SubjectKeyReader, SubjectKeys


@asynccontextmanager
async def decrypting(settings: SharedSettings) -> AsyncIterator["Decryption | None"]:
    """Yield what `decryption_of` returns, and close its connections at the end."""
    decryption = await decryption_of(settings)
    try:
        yield decryption
    finally:
        if decryption is not None:
            await decryption.close()


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
    reader = _reader(chosen.subjects, chosen.keys, settings)
    return Decryption(Decryptor(chosen.keys), reader, required)


def _reader(
    subjects: "SubjectKeys | None", keys: "KeyProvider", settings: SharedSettings
) -> "SubjectKeyReader | None":
    """
    Return *subjects* if a consumer can read them too, as keys in memory may be.

    Else those of the same key database, by asyncio; it has as many connections as the database of
    the effects, so that no batch waits for one. Raises ConfigurationError.
    """
    if subjects is None or hasattr(subjects, "holding"):
        return cast("SubjectKeyReader | None", subjects)
    from outbox.encryption.subject_key_database import SubjectKeyDatabase  # noqa: PLC0415
    from outbox.key_store.reader import opened_reader  # noqa: PLC0415

    if not isinstance(subjects, SubjectKeyDatabase):
        return None
    return opened_reader(
        subjects.url,
        keys,
        setting=subjects.setting,
        allow_insecure=settings.allow_insecure,
        application_name=process.name("outbox consumer keys"),
        pool_size=settings.database_pool_size,
    )
