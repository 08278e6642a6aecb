"""
The keys of a consumer's process: for messages that it reads, and events that its handlers record.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from consumer.settings import SPARE_CONNECTIONS, ConsumerSettings
from outbox import producer_encryption
from outbox.errors import ConfigurationError
from outbox.extras import packages_of
from outbox.producer_encryption import KEYS, REQUIRED

if TYPE_CHECKING:
    from consumer.execution.decryption import Decryption
    from outbox.encryption.subjects import SubjectKeyReader


@asynccontextmanager
async def decryption(
    settings: ConsumerSettings, *, name: str
) -> AsyncIterator["Decryption | None"]:
    """
    Yield how a consumer with these *settings* decrypts; None if it has no keys.

    Events of its handlers are encrypted with the same keys from now on. Where the program has
    called `outbox.use_encryption`, those keys count. A key database shows the process as *name*.
    Raises ConfigurationError, also without the extra `encryption` or if encryption is required and
    there are no keys, and KeysUnavailable.
    """
    choose = partial(
        producer_encryption.use_settings,
        settings.keys,
        subjects=settings.subject_keys,
        required=settings.require_encryption,
        allow_insecure=settings.allow_insecure,
    )
    # A source may ask a server; without one there is nothing to wait for.
    chosen = choose() if settings.keys is None else await asyncio.to_thread(choose)
    if chosen.keys is None:
        check_required(settings)
        yield None
        return
    with packages_of(f"{KEYS}: encryption", extra="encryption"):
        from consumer.execution.decryption import Decryption  # noqa: PLC0415 - an extra
        from outbox.encryption.decryptor import Decryptor  # noqa: PLC0415
    async with AsyncExitStack() as stack:
        if not chosen.by_call:
            stack.push_async_callback(asyncio.to_thread, chosen.close)
        reader = await _reader(chosen, settings, name, stack)
        required = settings.require_encryption or chosen.required
        yield Decryption(Decryptor(chosen.keys), reader, required)


def check_required(settings: ConsumerSettings) -> None:
    """Raise ConfigurationError if the process has no keys, and has to refuse plaintext."""
    chosen = producer_encryption.chosen()
    has_keys = settings.keys is not None or (chosen is not None and chosen.keys is not None)
    is_required = settings.require_encryption or (chosen is not None and chosen.required)
    if is_required and not has_keys:
        raise ConfigurationError(f"{KEYS}: is needed with {REQUIRED}")


async def _reader(
    chosen: producer_encryption.Choice,
    settings: ConsumerSettings,
    name: str,
    stack: AsyncExitStack,
) -> "SubjectKeyReader | None":
    """The keys of persons as a consumer reads them; None if there are none."""
    if chosen.subjects_url is None or chosen.keys is None:
        # Keys in memory, as in a test, may be read by producers and consumers.
        subjects: Any = chosen.subjects
        return cast("SubjectKeyReader", subjects) if hasattr(subjects, "holding") else None
    url, setting = chosen.subjects_url
    # Imports the engine of the database.
    from outbox.key_store.opening import subject_key_store  # noqa: PLC0415

    return await stack.enter_async_context(
        subject_key_store(
            url,
            chosen.keys,
            setting=setting,
            allow_insecure=settings.allow_insecure,
            application_name=name,
            pool_size=settings.concurrency + SPARE_CONNECTIONS,
        )
    )
