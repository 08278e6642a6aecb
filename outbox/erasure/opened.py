"""
The two databases that an erasure works on, and the keys that it needs.
"""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from sqlite3 import SQLITE_BUSY

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.engine import waiting_at_most
from outbox.database.sqlite_errors import primary_code
from outbox.encryption.digests import digest
from outbox.encryption.keys import KeyProvider
from outbox.encryption.subject_key_database import OTHER_DIGEST_KEY, fingerprint
from outbox.erasure import key_rows
from outbox.erasure.key_rows import KeyRow
from outbox.errors import BatchesNotEnded, ConfigurationError
from outbox.key_store import creation
from outbox.key_store.engine import key_errors_translated


@dataclass(frozen=True, slots=True)
class Found:
    """The key of each subject that has one, by the name; and the number of those without."""

    rows: Mapping[str, KeyRow]
    unknown: int


@dataclass(frozen=True, slots=True)
class Opened:
    """
    The key database, whose URL stands in *setting*, and the database of the outbox.

    Statements on SQLite wait at most *wait* for the batches of consumers.
    """

    key_database: AsyncEngine
    setting: str
    outbox: AsyncEngine
    keys: KeyProvider
    wait: timedelta

    @asynccontextmanager
    async def key_transaction(self) -> AsyncIterator[AsyncConnection]:
        """
        Open a transaction that changes keys.

        Raises KeysUnavailable, and on SQLite BatchesNotEnded if its commit waits too long.
        """
        engine = self.key_database.execution_options(**waiting_at_most(self.wait))
        with self.translated():
            try:
                async with engine.begin() as connection:
                    yield connection
            except DBAPIError as error:
                if primary_code(error.orig) == SQLITE_BUSY:
                    raise BatchesNotEnded(
                        f"--wait: readers of the key database have not ended after"
                        f" {self.wait.total_seconds():g} seconds: run the command again"
                    ) from None
                raise

    def translated(self) -> AbstractContextManager[None]:
        """Raise KeysUnavailable for errors of the key database."""
        return key_errors_translated(self.setting)

    async def find(self, subjects: Iterable[str]) -> Found:
        """
        Return the keys of *subjects*.

        Raises KeysUnavailable, and ConfigurationError if the digest key is another one than that
        of the producers: then no subject would be found.
        """
        digest_key = self.keys.digest_key()
        names = {digest(digest_key, "subject", each): each for each in subjects}
        with self.translated():
            async with self.key_database.connect() as connection:
                await creation.verify(connection, setting=self.setting)
                recorded = await key_rows.fingerprint(connection)
                if recorded not in {None, fingerprint(digest_key)}:
                    raise ConfigurationError(f"{self.setting}: {OTHER_DIGEST_KEY}")
                rows = await key_rows.of_digests(connection, list(names))
        found = {names[row.digest]: row for row in rows if row.digest is not None}
        return Found(found, len(names) - len(found))
