"""
Replaying or dropping dead letters, one batch per transaction.

    once             record in the audit log that a run has started, and commit: a consumer looks
                     up the run, and may get a copy before the batch is committed
    for each batch   BEGIN
                     lock rows, skipping those that another run has locked
                     send them to their destination
                     delete those that arrived there, record their number
                     COMMIT (a cancellation does not interrupt it)

After a crash between the last two steps one batch is sent again, with the same message ids; the
consumers drop it as duplicates.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from outbox.audit.log import Action, Audit
from outbox.database.errors import driver_errors_translated
from outbox.dead_letters.expired_body import BODY_EXPIRED, WithBody
from outbox.dead_letters.selection import Selection, Snapshot
from outbox.dead_letters.store import DeadLetters, Span
from outbox.runtime.shield import commit, shielded

BATCH = 100
NO_ANSWER = "unknown"
"""The code of a dead letter whose destination did not answer."""

Letter: TypeAlias = Any
"""A row of `dead_letters`, as a mapping."""

Repair: TypeAlias = Callable[[Letter], Awaitable[Mapping[str, Any]]]
"""Returns the columns of a dead letter with a new body: `body` and `content_encoding`."""


class Destination(Protocol):
    """The target of a replay."""

    async def ready(self) -> None:
        """Raise BrokerUnavailable if the destination is unreachable."""

    async def send(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, run: UUID
    ) -> list[str | None]:
        """Send *letters*; return a code for each that did not arrive, and None for the others."""


class Duplicates(Protocol):
    """Finds dead letters whose messages were completed before, so consumers would drop them."""

    async def among(
        self, connection: AsyncConnection, letters: Sequence[Letter], *, hold: bool
    ) -> list[int]:
        """
        Return the ids of such dead letters.

        With *hold*, a consumer that gets a copy waits for this transaction before it reads the
        record of the message.
        """

    async def forget(self, connection: AsyncConnection, letters: Sequence[Letter]) -> int:
        """Delete the records that *letters* are completed, and return their number."""


@dataclass(slots=True)
class Summary:
    """The result of a run so far; it counts only committed batches."""

    done: int = 0
    left: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    interrupted: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether all selected dead letters were replayed or dropped."""
        return not self.left and not self.interrupted


@dataclass(frozen=True, slots=True)
class Batch:
    """Dead letters that the open transaction of *connection* has locked."""

    connection: AsyncConnection
    letters: Sequence[Letter]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """
    The result of one batch.

    Args:
        problems: For each dead letter the code for which it stays; None if it is to be deleted.
        duplicates: Number of sent messages that consumers will drop as duplicates.
        acts: What else the audit log has to say of the batch, with numbers of messages.

    """

    problems: Sequence[str | None]
    duplicates: int = 0
    acts: tuple[tuple[Action, int], ...] = ()


BatchAction: TypeAlias = Callable[[Batch], Awaitable[BatchResult]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """
    One call of a command on the dead letters that *audit* selects.

    Args:
        stop: Ends the run after the current batch.
        on_progress: Called after each batch with the number of its dead letters.

    """

    engine: AsyncEngine
    store: DeadLetters
    snapshot: Snapshot
    audit: Audit[Selection]
    stop: asyncio.Event
    on_progress: Callable[[int], None]
    summary: Summary = field(default_factory=Summary)

    async def replay(
        self,
        destination: Destination,
        *,
        duplicates: Duplicates | None = None,
        reprocess: bool = False,
        repair: Repair | None = None,
    ) -> None:
        """
        Send dead letters to their *destination*, and delete those that arrived.

        With *reprocess* consumers process completed messages again. *repair* replaces bodies;
        without one, those whose body has expired stay.

        Raises BrokerUnavailable before the first batch, and DatabaseUnavailable at any time.
        """
        destination = WithBody(destination)
        await destination.ready()
        with driver_errors_translated(refusals=False):
            async with self.engine.connect() as connection:
                await self.audit.record(connection, Action.REPLAY_STARTED, 0)
                await commit(connection)

        async def act(batch: Batch) -> BatchResult:
            if repair is None:
                return await self._send(batch, destination, duplicates, reprocess=reprocess)
            repaired = await self._repair(batch, repair)
            result = await self._send(repaired, destination, duplicates, reprocess=reprocess)
            return replace(result, acts=((Action.REPAIR, len(batch.letters)), *result.acts))

        await self._sweep(act, Action.REPLAY)

    async def drop(self, action: Action = Action.DROP) -> None:
        """
        Delete dead letters without sending them; the audit log has *action*.

        Raises DatabaseUnavailable.
        """

        async def act(batch: Batch) -> BatchResult:
            return BatchResult([None] * len(batch.letters))

        await self._sweep(act, action)

    async def _sweep(self, act: BatchAction, action: Action) -> None:
        where = self.audit.selection.where(self.store.source, self.snapshot)
        allowed = self.audit.selection.limit
        after = 0
        while allowed is None or allowed > 0:
            if self.stop.is_set():
                self.summary.interrupted = True
                return
            size = BATCH if allowed is None else min(BATCH, allowed)
            with driver_errors_translated(refusals=False):
                async with self.engine.connect() as connection:
                    letters = await self.store.lock(
                        connection,
                        where=where,
                        span=Span(after, size),
                        bodies=action is Action.REPLAY,
                    )
                    if not letters:
                        return
                    result = await act(Batch(connection, letters))
                    await self._settle(connection, letters, result, action)
            self.on_progress(len(letters))
            if set(result.problems) - {BODY_EXPIRED} == {NO_ANSWER}:
                return
            after = letters[-1]["id"]
            allowed = None if allowed is None else allowed - len(letters)

    async def _settle(
        self,
        connection: AsyncConnection,
        letters: Sequence[Letter],
        result: BatchResult,
        action: Action,
    ) -> None:
        gone = _arrived(letters, result.problems)
        if gone:
            await self.store.delete(connection, [letter["id"] for letter in gone])
        # Last, because the log is locked from the first row of this transaction on.
        for act, messages in (*result.acts, *([(action, len(gone))] if gone else ())):
            await self.audit.record(connection, act, messages)

        async def committed() -> None:
            await connection.commit()
            self.summary.done += len(gone)
            self.summary.duplicates += result.duplicates
            self.summary.left.update(code for code in result.problems if code is not None)

        # Shielded together, so that the summary of a cancelled run is right, too.
        await shielded(committed())

    async def _send(
        self,
        batch: Batch,
        destination: Destination,
        duplicates: Duplicates | None,
        *,
        reprocess: bool,
    ) -> BatchResult:
        connection, letters = batch.connection, batch.letters
        completed: Collection[int] = ()
        if duplicates is not None:
            # Before sending: a consumer must not find a record that is about to be deleted.
            completed = set(await duplicates.among(connection, letters, hold=reprocess))
        problems = await destination.send(connection, letters, run=self.audit.run)
        sent = [one for one in _arrived(letters, problems) if one["id"] in completed]
        if duplicates is None or not reprocess or not sent:
            return BatchResult(problems, len(sent))
        forgotten = await duplicates.forget(connection, sent)
        return BatchResult(problems, acts=((Action.RERUN, forgotten),))

    async def _repair(self, batch: Batch, repair: Repair) -> Batch:
        repaired = []
        for letter in batch.letters:
            columns = {**await repair(letter), "body_expired_at": None}
            await self.store.repair(batch.connection, letter["id"], columns)
            repaired.append({**letter, **columns})
        return Batch(batch.connection, repaired)


def _arrived(letters: Sequence[Letter], problems: Sequence[str | None]) -> list[Letter]:
    pairs = zip(letters, problems, strict=True)
    return [letter for letter, problem in pairs if problem is None]
