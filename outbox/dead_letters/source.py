"""
What the relay or a consumer provides to the commands on its dead letters.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.audit.log import Action, Audit
from outbox.audit_tables import audit_log
from outbox.database import migrate, row_access
from outbox.database.engine import DEFERRED
from outbox.database.errors import driver_errors_translated
from outbox.database.privileges import Rights
from outbox.dead_letters.encrypted_letters import EnvelopeOf, OpenKeys, no_keys
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.dead_letters.store import DeadLetters, LetterGroup
from outbox.errors import ConfigurationError
from outbox.runtime.shield import commit
from outbox.tables import dead_letters

if TYPE_CHECKING:  # a running process replays nothing
    from outbox.dead_letters.replay import Destination, Duplicates

READING: Rights = {dead_letters: ("SELECT",)}
CHANGING: Rights = {dead_letters: ("SELECT", "UPDATE", "DELETE"), audit_log: ("INSERT",)}
"""The rights of commands that lock dead letters, and delete them."""
EXPIRING: Rights = {dead_letters: ("SELECT", "UPDATE"), audit_log: ("INSERT",)}
"""The rights of a process that deletes their bodies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterSource:
    """
    The relay or a consumer, as the source of dead letters.

    Args:
        name: The value of the column `source` in its dead letters.
        database: Opens the database that contains them.
        destination: Opens the target of a replay.
        duplicates: Finds those that would be dropped as duplicates; None for the relay.
        replay_rights: The rights that a replay needs besides those on the dead letters.
        reprocess_rights: Those that it needs if consumers process completed messages again.
        envelope_of: The envelope of a dead letter, as it was sent.
        keys: Opens the keys of the operator, for encrypted bodies.
        two_person: Whether a second person has to approve that bodies are opened.

    """

    name: str
    database: Callable[[], AbstractAsyncContextManager[AsyncEngine]]
    destination: Callable[[], AbstractAsyncContextManager["Destination"]]
    envelope_of: EnvelopeOf
    duplicates: "Duplicates | None" = None
    replay_rights: Rights = field(default_factory=dict)
    reprocess_rights: Rights = field(default_factory=dict)
    keys: OpenKeys = no_keys
    two_person: bool = False

    @asynccontextmanager
    async def opened(
        self,
        selection: Selection,
        audit: Audit[Selection] | None = None,
        *,
        rights: Rights = READING,
    ) -> AsyncIterator["OpenedSource"]:
        """
        Open the database, and count the dead letters that *selection* matches.

        A selection by key needs *audit*, which records it: the number says whether a person has
        dead letters. The command needs *rights* on all rows.
        Raises ConfigurationError without it, or if one of the ids is unknown, SchemaMismatch and
        DatabaseUnavailable.
        """
        store = DeadLetters(self.name)
        async with self.database() as engine:
            await migrate.verify(engine)
            await row_access.verify(engine, rights)
            async with reading(engine) as connection:
                snapshot = await store.snapshot(connection)
                unknown = await store.unknown(connection, selection.ids)
                if unknown:
                    ids = " or ".join(map(str, unknown))
                    raise ConfigurationError(f"--id: there is no dead letter {ids} of {self.name}")
                groups = await store.groups(connection, selection, snapshot)
            opened = OpenedSource(engine, store, selection, snapshot, groups)
            if selection.key is not None:
                await _record_search(opened, audit)
            yield opened


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """The dead letters of a source when a command began, and the number of matches."""

    engine: AsyncEngine
    store: DeadLetters
    selection: Selection
    snapshot: Snapshot
    groups: list[LetterGroup]

    @property
    def count(self) -> int:
        """Number of dead letters that match the selection."""
        return sum(each.letters for each in self.groups)


async def _record_search(opened: OpenedSource, audit: Audit[Selection] | None) -> None:
    if audit is None:
        raise ConfigurationError("--because: is needed with --key")
    with driver_errors_translated(refusals=False):
        async with opened.engine.connect() as connection:
            await audit.record(connection, Action.FIND_BY_KEY, opened.count)
            await commit(connection)


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that only reads; on SQLite it waits for no writer."""
    with driver_errors_translated(refusals=False):
        async with engine.connect() as connection:
            await connection.execution_options(**DEFERRED)
            yield connection
