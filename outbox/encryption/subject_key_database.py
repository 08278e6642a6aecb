"""
The keys of persons in a key database, as a producer asks for them.
"""

import os
from functools import partial
from typing import NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from outbox.encryption.body_format import KEY_BYTES
from outbox.encryption.digests import digest
from outbox.encryption.key_connection import KeyConnection
from outbox.encryption.key_tables import ACTIVE, digest_fingerprint, subject_keys
from outbox.encryption.keys import KeyProvider, KeysUnavailable, UnknownKey, WrappedKey, WrongKey
from outbox.encryption.subjects import SubjectErased, SubjectKey
from outbox.errors import ConfigurationError


class _Found(NamedTuple):
    id: UUID
    key_id: str
    wrapped: bytes | None
    state: str


class SubjectKeyDatabase:
    """
    The keys of persons in the database of *connection*, wrapped by *keys*; *setting* names it.

    Its user needs SELECT and INSERT. Of producers that ask for a new person at the same time, all
    get the key that was inserted first.
    """

    def __init__(self, connection: KeyConnection, keys: KeyProvider, *, setting: str) -> None:
        self._connection = connection
        self._keys = keys
        self._setting = setting
        self._is_checked = False

    def key_of(self, digest: bytes, /) -> SubjectKey:
        """
        Return the key of the subject with this *digest*, made when it is first asked for.

        Raises SubjectErased, KeysUnavailable, and ConfigurationError if the subjects of the
        database have another digest key.
        """
        if not self._is_checked:
            self._check()
        found = self._connection.run(partial(_read, digest))
        if found is None:
            wrapped = self._keys.wrap(os.urandom(KEY_BYTES))
            found = self._connection.run(partial(_added, digest, uuid4(), wrapped))
        if found.state != ACTIVE or found.wrapped is None:
            raise SubjectErased
        try:
            key = self._keys.unwrap(WrappedKey(found.key_id, found.wrapped))
        except (UnknownKey, WrongKey):
            raise KeysUnavailable(
                f"MQ_ENCRYPTION_KEYS: lacks the key that wraps a subject key ({found.key_id})",
                refused=True,
            ) from None
        return SubjectKey(found.id, key)

    def close(self) -> None:
        """Close the connection; a call that needs it makes another one."""
        self._connection.close()

    def _check(self) -> None:
        own = fingerprint(self._keys.digest_key())
        if self._connection.run(partial(_recorded_fingerprint, own)) != own:
            raise ConfigurationError(f"{self._setting}: {OTHER_DIGEST_KEY}")
        self._is_checked = True


OTHER_DIGEST_KEY = (
    "its subjects have another digest key than MQ_ENCRYPTION_KEYS: they would not be found"
)


def fingerprint(digest_key: bytes) -> bytes:
    """The bytes by which a digest key is recognised, and not found."""
    return digest(digest_key, "fingerprint", "")


def _read(name: bytes, connection: sa.Connection) -> _Found | None:
    column = subject_keys.c
    found = connection.execute(
        sa.select(column.id, column.key_id, column.wrapped, column.state).where(
            column.digest == name
        )
    ).first()
    if found is None:
        return None
    id_, key_id, wrapped, state = found
    return _Found(id_, key_id, None if wrapped is None else bytes(wrapped), state)


def _added(name: bytes, id_: UUID, key: WrappedKey, connection: sa.Connection) -> _Found:
    """The key of the subject: this one, unless another producer was first."""
    row = {"id": id_, "digest": name, "key_id": key.key_id, "wrapped": key.wrapped}
    connection.execute(_insert(connection, subject_keys).values(row).on_conflict_do_nothing())
    found = _read(name, connection)
    if found is None:
        # The person was readmitted between the two statements.
        raise SubjectErased
    return found


def _recorded_fingerprint(own: bytes, connection: sa.Connection) -> bytes:
    """The recorded fingerprint; *own* becomes it if there is none."""
    read = sa.select(digest_fingerprint.c.fingerprint)
    found = connection.scalar(read)
    if found is None:
        row = {"fingerprint": own}
        insert = _insert(connection, digest_fingerprint).values(row)
        connection.execute(insert.on_conflict_do_nothing())
        found = connection.scalar(read)
    return bytes(found or b"")


def _insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    # ON CONFLICT is not in SQLAlchemy's common API, although both databases have the same syntax.
    is_sqlite = connection.dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)
