"""
Encrypted dead letters, as commands find, show and repair them: by their keys, if there are any.

Nothing of `outbox.encryption` is imported without MQ_ENCRYPTION_KEYS.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from outbox.dead_letters.expired_body import as_it_was
from outbox.dead_letters.selection import Selection
from outbox.encryption_settings import KEYS, SUBJECT_KEYS
from outbox.errors import ConfigurationError, UnreadableMessage
from outbox.extras import packages_of
from outbox.settings import SharedSettings
from outbox.wire.encrypted import ENCODING, KEY_UNKNOWN, is_encrypted
from outbox.wire.envelope import Envelope

if TYPE_CHECKING:
    from outbox.dead_letters.letter_keys import LetterKeys
    from outbox.encryption.content import Content

OpenKeys: TypeAlias = Callable[[], AbstractAsyncContextManager["LetterKeys | None"]]
"""Opens the keys of the operator; None without MQ_ENCRYPTION_KEYS."""

EnvelopeOf: TypeAlias = Callable[[Any], Envelope]
"""The envelope of a dead letter, as it was sent; raises UnreadableMessage."""


def no_keys() -> AbstractAsyncContextManager["LetterKeys | None"]:
    """Open no keys."""
    return nullcontext(None)


@asynccontextmanager
async def letter_keys(
    settings: SharedSettings, *, name: str
) -> AsyncIterator["LetterKeys | None"]:
    """
    Yield the keys that *settings* name; a key database shows the command as *name*.

    Raises ConfigurationError and KeysUnavailable.
    """
    if settings.keys is None:
        yield None
        return
    with packages_of(f"{KEYS}: encryption", extra="encryption"):
        from outbox.dead_letters.letter_keys import LetterKeys  # noqa: PLC0415 - an extra
        from outbox.key_store.opening import opened_keys  # noqa: PLC0415
    async with opened_keys(settings, name=name) as opened:
        yield LetterKeys(opened.keys, opened.subjects)


async def with_digests(open_keys: OpenKeys, selected: Selection) -> Selection:
    """Return *selected*, which finds a key by its digests as well, if the operator has keys."""
    if selected.key is None:
        return selected
    async with open_keys() as keys:
        return selected if keys is None else replace(selected, digests=keys.digests(selected.key))


async def decrypted(open_keys: OpenKeys, envelope_of: EnvelopeOf, letter: Any) -> "Content":
    """
    Return the content of an encrypted *letter*.

    Raises ConfigurationError without keys or if they do not decrypt it, and KeysUnavailable.
    """
    async with open_keys() as keys:
        if keys is None:
            raise ConfigurationError(f"--decrypt: needs {KEYS}")
        try:
            return await keys.content(envelope_of(letter))
        except UnreadableMessage as error:
            raise ConfigurationError(
                f"--decrypt: cannot be decrypted: {error}{_advice(error)}"
            ) from None


def _advice(error: UnreadableMessage) -> str:
    if error.code != KEY_UNKNOWN:
        return ""
    if error.detail == "subject":
        return f": see {SUBJECT_KEYS}"
    return f": the source of {KEYS} lacks this key"


async def sealed(
    open_keys: OpenKeys, envelope_of: EnvelopeOf, letter: Any, body: bytes
) -> dict[str, Any]:
    """
    Return the columns of *letter* with a new *body*, encrypted if the old one is.

    Raises ConfigurationError without keys, and KeysUnavailable.
    """
    letter = as_it_was(letter)
    if not is_encrypted(letter["content_encoding"]):
        return {"body": body, "content_encoding": None}
    async with open_keys() as keys:
        if keys is None:
            raise ConfigurationError(
                f"--body: the dead letter is encrypted: set {KEYS}, so that the new body is too"
            )
        try:
            envelope = envelope_of(letter)
        except UnreadableMessage as error:
            raise ConfigurationError(f"--body: cannot be encrypted: {error}") from None
        return {"body": await keys.sealed(envelope, body), "content_encoding": ENCODING}
