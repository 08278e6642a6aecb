"""
Messages whose body has expired: the columns that stay, and a replay that leaves them out.

    column             after the body has expired
    body               empty; of an encrypted one, the id of the person's key, so that a new body
                       is encrypted with the same key, and is erased with that person
    content_encoding   EXPIRED, or EXPIRED_ENCRYPTED: no program takes the rest for a body
    headers            only those of the wire format: an application's may hold anything
    correlation_id,    null: both often name a person
    ordering_key
    idempotency_key,   as before: a replay with a new body needs them, and they are how consumers
    message_id         find duplicates
    all others         as before: lists, groups and filters need them

The lane among the headers is a keyed hash, from which no reader gets the ordering key.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.wire.cloudevents import PREFIXES, REQUIRED
from outbox.wire.encrypted import ENCODING, is_encrypted
from outbox.wire.headers import NAMES

if TYPE_CHECKING:
    from outbox.dead_letters.replay import Destination

BODY_EXPIRED = "body_expired"
"""The reason code of a message without its body."""

EXPIRED = "outbox-expired"
EXPIRED_ENCRYPTED = f"{ENCODING}-expired"
"""The content encodings in place of the one of the body."""

START_BYTES = 18
"""The first bytes of an encrypted body: version, compression and the id of a person's key."""

_NO_KEYS = bytes(3)
"""The part of an encrypted body that has neither the id of a key nor a wrapped key."""

_CLOUDEVENT = frozenset(
    prefix + name for prefix in PREFIXES for name in (*REQUIRED, "time", "datacontenttype")
)
"""Without these a consumer could not read a CloudEvent with a new body."""


def columns(*, headers: Any, content_encoding: Any, start: bytes) -> dict[str, Any]:
    """
    Return the columns that an expired body changes; *start* has its first `START_BYTES`.

    A caller adds `body_expired_at`.
    """
    encrypted = is_encrypted(content_encoding)
    return {
        "body": start[:START_BYTES] + _NO_KEYS if encrypted else b"",
        "content_encoding": EXPIRED_ENCRYPTED if encrypted else EXPIRED,
        "headers": _kept(headers) if isinstance(headers, Mapping) else {},
        "correlation_id": None,
        "ordering_key": None,
    }


def _kept(headers: Mapping[str, Any]) -> dict[str, Any]:
    kept = NAMES | _CLOUDEVENT
    return {name: value for name, value in headers.items() if name in kept}


def as_it_was(letter: Mapping[str, Any]) -> dict[str, Any]:
    """Return *letter* with the content encoding that its body had, so that it can be repaired."""
    of_body = {EXPIRED: None, EXPIRED_ENCRYPTED: ENCODING}
    encoding = letter["content_encoding"]
    return {**letter, "content_encoding": of_body.get(encoding, encoding)}


def is_expired(letter: Mapping[str, Any]) -> bool:
    """Return whether the body of *letter* has expired."""
    return letter.get("body_expired_at") is not None


class WithBody:
    """A *destination* that gets only dead letters whose body has not expired."""

    def __init__(self, destination: "Destination") -> None:
        self._destination = destination

    async def ready(self) -> None:
        """Raise BrokerUnavailable if the destination is unreachable."""
        await self._destination.ready()

    async def send(
        self, connection: AsyncConnection, letters: Sequence[Any], *, run: UUID
    ) -> list[str | None]:
        """Send those of *letters* that have a body; the code of the others is `body_expired`."""
        whole = [letter for letter in letters if not is_expired(letter)]
        found = await self._destination.send(connection, whole, run=run) if whole else []
        codes = iter(found)
        return [BODY_EXPIRED if is_expired(letter) else next(codes) for letter in letters]
