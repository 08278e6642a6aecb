"""
Encrypts rows of the outbox, in the process of their producer.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from outbox.encryption import associated_data, content
from outbox.encryption.body_format import NO_KEY_PART, NONCE_BYTES, fixed
from outbox.encryption.content import PUBLIC_HEADERS, Content
from outbox.encryption.data_keys import CurrentDataKey
from outbox.encryption.digests import Digests, Domain
from outbox.encryption.keys import KeyProvider
from outbox.encryption.process_lock import ProcessLock
from outbox.encryption.subjects import SubjectKey, SubjectKeys
from outbox.errors import InvalidEvent
from outbox.payload import MAX_BODY_BYTES, Compression
from outbox.wire.compression import compress
from outbox.wire.encrypted import ENCODING

SUBJECT_SECONDS = 60.0
"""A producer remembers the key of a subject this long: later it is refused if it was erased."""
MOST_SUBJECTS = 10_000


class _Subject(NamedTuple):
    key: SubjectKey
    cipher: AESGCM
    until: float


class Encryptor:
    """
    Encrypts rows with the keys of *keys*, or with those of *subjects*.

    Body, correlation id and headers become the content of the encrypted body; keys that may name
    a person become digests. Type, routing key, content type, priority, times and the context of a
    trace stay as they are. *clock* returns seconds.
    """

    def __init__(
        self,
        keys: KeyProvider,
        *,
        subjects: SubjectKeys | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._digests = Digests(keys.digest_key())
        self._current = CurrentDataKey(keys, clock=clock)
        self._subject_keys = subjects
        self._subjects: dict[bytes, _Subject] = {}
        self._clock = clock
        self._lock = ProcessLock()

    def encrypted(
        self, row: Mapping[str, Any], *, subject: str | None = None, compression: Compression
    ) -> dict[str, Any]:
        """
        Return the encrypted *row* of an event about *subject*, its content not compressed yet.

        Raises InvalidEvent, which names the field, SubjectErased and KeysUnavailable.
        """
        event_id, key = str(row["event_id"]), row["idempotency_key"]
        if key != event_id:
            key = self.digest("idempotency_key", key)
        public = private = headers = row["headers"]
        if headers:
            public = {name: headers[name] for name in headers if name in PUBLIC_HEADERS}
            private = {name: headers[name] for name in headers if name not in PUBLIC_HEADERS}
        packed = content.pack(Content(row["body"], row["correlation_id"], private))
        packed, compression = _compressed(packed, compression, row["content_type"])
        if subject is None:
            cipher, key_part = self._current.take()
            start = fixed(compression, None)
        else:
            found = self._subject(subject)
            cipher, key_part, start = found.cipher, NO_KEY_PART, fixed(compression, found.key.id)
        bound = associated_data.of_body(
            start, row["type"], row["routing_key"], row["content_type"], event_id, key
        )
        nonce = os.urandom(NONCE_BYTES)
        body = b"".join((start, key_part, nonce, cipher.encrypt(nonce, packed, bound)))
        if len(body) > MAX_BODY_BYTES:
            raise InvalidEvent("payload", f"is larger than {MAX_BODY_BYTES} bytes when encrypted")
        return {
            **row,
            "idempotency_key": key,
            "ordering_key": self._digest_of("ordering_key", row["ordering_key"]),
            "correlation_id": self._correlation_id(event_id, row["correlation_id"]),
            "headers": public,
            "content_encoding": ENCODING,
            "body": body,
        }

    @property
    def subject_ciphers(self) -> Mapping[UUID, AESGCM]:
        """The keys of the subjects of the last events, by their ids."""
        return {each.key.id: each.cipher for each in self._subjects.values()}

    def digest(self, domain: Domain, value: str) -> str:
        """The digest that stands for *value* outside the body: 64 hex digits."""
        return self._digests.text_of(domain, value)

    def _digest_of(self, domain: Domain, value: str | None) -> str | None:
        return None if value is None else self.digest(domain, value)

    def _correlation_id(self, event_id: str, value: str | None) -> str | None:
        # The id of the event itself names no person, and other programs copy it into a reply.
        return value if value == event_id else self._digest_of("correlation_id", value)

    def _subject(self, subject: str) -> _Subject:
        if self._subject_keys is None:
            raise InvalidEvent("subject", "needs a key database: set MQ_SUBJECT_KEYS_URL")
        name = self._digests.of("subject", subject)
        found, now = self._subjects.get(name), self._clock()
        if found is None or now >= found.until:
            key = self._subject_keys.key_of(name)
            found = _Subject(key, AESGCM(key.key), now + SUBJECT_SECONDS)
            with self._lock:
                self._subjects.pop(name, None)
                if len(self._subjects) >= MOST_SUBJECTS:
                    del self._subjects[next(iter(self._subjects))]
                self._subjects[name] = found
        return found


def _compressed(
    packed: bytes, compression: Compression, content_type: str
) -> tuple[bytes, Compression]:
    """*packed*, compressed if that pays."""
    smaller, encoding = compress(packed, compression, content_type)
    return smaller, "none" if encoding is None else compression
