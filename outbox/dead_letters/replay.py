"""
Letters leave `dead_letters`: replayed or dropped, a batch and a transaction at a time.

    first            write down that a run has started, and commit: a consumer may get a copy
                     before the batch is committed, and looks the run up
    then, a batch    BEGIN
                     lock rows that nobody else holds
                     hand them to their destination
                     delete those that have arrived there, write down how many
                     COMMIT (not to be cancelled)

A crash between the two last steps means that one batch is handed over again, with the message ids
that it had; whoever takes it drops it as a duplicate.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.audit import Action, Audit
from outbox.dead_letters.selection import Snapshot
from outbox.dead_letters.store import DeadLetters, Span
from outbox.runtime.shield import commit, shielded

BATCH = 100
AWAY = "unknown"
"""What is said of a letter whose destination gave no answer."""

Letter: TypeAlias = Any
"""A row of `dead_letters`, as a mapping."""


class Destination(Protocol):
    """Where letters go when they are replayed."""

    async def ready(self) -> None:
        """Raises BrokerUnavailable if nothing can be sent there."""

    async def send(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, run: UUID
    ) -> list[str | None]:
        """Why each of *letters* has not arrived, as a code; None if it has."""


class Duplicates(Protocol):
    """Knows which letters would be dropped, because their messages were completed before."""

    async def among(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, hold: bool
    ) -> list[int]:
        """
        The ids of such letters.

        With *hold*, whoever gets a copy waits for this transaction before it looks at the record.
        """

    async def forget(self, connection: AsyncConnection, letters: Sequence[Letter]) -> int:
        """Delete the records that *letters* are completed; returns how many there were."""


@dataclass(slots=True)
class Summary:
    """What has come of a run so far; only what is committed counts."""

    done: int = 0
    left: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    interrupted: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing was left that should have gone."""
        return not self.left and not self.interrupted


@dataclass(frozen=True, slots=True)
class Batch:
    """Letters that are locked by the open transaction of *connection*."""

    connection: AsyncConnection
    letters: Sequence[Letter]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """
    What has become of a batch.

    Args:
        problems: Of each letter why it stays, as a code; None if it is to be deleted.
        duplicates: How many have arrived where they will be dropped.

    """

    problems: Sequence[str | None]
    duplicates: int = 0


Treat: TypeAlias = Callable[[Batch], Awaitable[BatchResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One call of a command on the letters that *audit* selects.

    Args:
        stop: Ends the run after the batch in flight.
        told: Called with the number of letters that have been dealt with, after each batch.

    """

    engine: AsyncEngine
    letters: DeadLetters
    snapshot: Snapshot
    audit: Audit
    stop: asyncio.Event
    told: Callable[[int], None]
    summary: Summary = field(default_factory=Summary)

    async def replay(
        self,
        destination: Destination,
        *,
        duplicates: Duplicates | None = None,
        rerun: bool = False,
        body: bytes | None = None,
    ) -> None:
        """
        Send letters to their *destination*.

        With *rerun* those that were completed take effect again; *body* replaces theirs.

        Raises BrokerUnavailable if nothing was sent, and DatabaseUnavailable at any time.
        """
        await destination.ready()
        with driver_errors_translated(refusals=False):
            async with self.engine.connect() as connection:
                await self.audit.record(connection, Action.REPLAY_STARTED, 0)
                await commit(connection)

        async def treat(batch: Batch) -> BatchResult:
            if body is not None:
                batch = await self._repair(batch, body)
            return await self._send(batch, destination, duplicates, rerun=rerun)

        await self._sweep(treat, Action.REPLAY)

    async def drop(self) -> None:
        """
        Delete letters.

        Raises DatabaseUnavailable.
        """

        async def treat(batch: Batch) -> BatchResult:
            return BatchResult([None] * len(batch.letters))

        await self._sweep(treat, Action.DROP)

    async def _sweep(self, treat: Treat, action: Action) -> None:
        where = self.audit.selection.where(self.letters.source, self.snapshot)
        allowed = self.audit.selection.limit
        after = 0
        while allowed is None or allowed > 0:
            if self.stop.is_set():
                self.summary.interrupted = True
                return
            size = BATCH if allowed is None else min(BATCH, allowed)
            with driver_errors_translated(refusals=False):
                async with self.engine.connect() as connection:
                    letters = await self.letters.take(
                        connection,
                        where=where,
                        span=Span(after, size),
                        bodies=action is Action.REPLAY,
                    )
                    if not letters:
                        return
                    treated = await treat(Batch(connection, letters))
                    await self._settle(connection, letters, treated, action)
            self.told(len(letters))
            if set(treated.problems) == {AWAY}:
                return
            after = letters[-1]["id"]
            allowed = None if allowed is None else allowed - len(letters)

    async def _settle(
        self,
        connection: AsyncConnection,
        letters: Sequence[Letter],
        treated: BatchResult,
        action: Action,
    ) -> None:
        gone = _arrived(letters, treated.problems)
        if gone:
            await self.letters.delete(connection, [letter["id"] for letter in gone])
            await self.audit.record(connection, action, len(gone))

        async def committed() -> None:
            await connection.commit()
            self.summary.done += len(gone)
            self.summary.duplicates += treated.duplicates
            self.summary.left.update(code for code in treated.problems if code is not None)

        # Together, so that a cancelled run says what it has done, too.
        await shielded(committed())

    async def _send(
        self,
        batch: Batch,
        destination: Destination,
        duplicates: Duplicates | None,
        *,
        rerun: bool,
    ) -> BatchResult:
        connection, letters = batch.connection, batch.letters
        completed: Collection[int] = ()
        if duplicates is not None:
            # Before anything is sent: a consumer must not find the record that is about to go.
            completed = set(await duplicates.among(connection, letters, hold=rerun))
        problems = await destination.send(connection, letters, run=self.audit.run)
        sent = [one for one in _arrived(letters, problems) if one["id"] in completed]
        if duplicates is None or not rerun or not sent:
            return BatchResult(problems, len(sent))
        forgotten = await duplicates.forget(connection, sent)
        await self.audit.record(connection, Action.RERUN, forgotten)
        return BatchResult(problems)

    async def _repair(self, batch: Batch, body: bytes) -> Batch:
        repaired = []
        for letter in batch.letters:
            await self.letters.repair(batch.connection, letter["id"], body)
            repaired.append({**letter, "body": body, "content_encoding": None})
        await self.audit.record(batch.connection, Action.REPAIR, len(repaired))
        return Batch(batch.connection, repaired)


def _arrived(letters: Sequence[Letter], problems: Sequence[str | None]) -> list[Letter]:
    pairs = zip(letters, problems, strict=True)
    return [letter for letter, problem in pairs if problem is None]
