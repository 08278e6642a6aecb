"""
What a process brings to the commands on its dead letters.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database import migrate
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.replay import Destination, Duplicates
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.dead_letters.store import DeadLetters, TypeCount
from outbox.errors import ConfigurationError, InvalidEvent
from outbox.settings import SharedSettings
from outbox.validation import allow_headers


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSource:
    """
    One of the two ends of the way: the relay, or a consumer.

    Args:
        name: What its dead letters have in the column `source`.
        database: The database that they are in.
        destination: Where they go when they are replayed.
        duplicates: Knows which would have no effect; None if nobody there knows.

    """

    name: str
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]]
    destination: Callable[[], AbstractAsyncContextManager[Destination]]
    duplicates: Duplicates | None = None

    @asynccontextmanager
    async def opened(self, selection: Selection) -> AsyncIterator["OpenedSource"]:
        """
        The letters that *selection* means.

        Raises ConfigurationError if one of its ids is unknown, SchemaMismatch, and
        DatabaseUnavailable.
        """
        letters = DeadLetters(self.name)
        async with self.database() as engine:
            await migrate.verify(engine)
            async with reading(engine) as connection:
                snapshot = await letters.snapshot(connection)
                unknown = await letters.unknown(connection, selection.ids)
                if unknown:
                    names = ", ".join(map(str, unknown))
                    raise ConfigurationError(f"--id: {self.name} has no dead letter {names}")
                tallies = await letters.tallies(connection, selection, snapshot)
            yield OpenedSource(engine, letters, selection, snapshot, tallies)


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """Letters at the moment when a command began, and how many of them are meant."""

    engine: AsyncEngine
    letters: DeadLetters
    selection: Selection
    snapshot: Snapshot
    tallies: list[TypeCount]

    @property
    def count(self) -> int:
        """How many letters are meant."""
        return sum(tally.letters for tally in self.tallies)


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A transaction that only reads: on SQLite it waits for no writer."""
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            yield connection


def allow_configured_headers(settings: SharedSettings) -> None:
    """Raises ConfigurationError if a name in MQ_ALLOWED_HEADERS cannot be one."""
    try:
        allow_headers(*settings.allowed_headers)
    except InvalidEvent as error:
        raise ConfigurationError(f"MQ_ALLOWED_HEADERS: {error.problem}") from None
