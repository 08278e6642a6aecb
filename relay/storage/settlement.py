"""
Settling a claim: the statements that apply verdicts to rows.

`apply` needs one statement for all deletions, however many rows there are. If the database refuses
it, `apply_apart` finds the rows that it refuses:

    retry refused            the row moves to dead_letters
    anything else refused    the row waits for a day, with the error `unsettled`
    that refused as well     this relay does not publish the row again for an hour

A dead letter is copied by the database itself, so it is stored exactly as it arrived, even if it
is too large to be read or is no valid text.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from outbox.database_time import now_plus
from outbox.tables import MAX_ATTEMPTS, dead_letters, outbox
from relay.storage.isolation import RowsUnchangedError, Scope, refused
from relay.verdict import DeadLetter, Delete, Expire, Leave, Quarantine, Retry, Verdict

SOURCE = "relay"
UNSETTLED = "unsettled"
QUARANTINE = timedelta(days=1)

ENVELOPE_COLUMNS = (
    "type",
    "exchange",
    "routing_key",
    "ordering_key",
    "idempotency_key",
    "correlation_id",
    "priority",
    "headers",
    "content_type",
    "content_encoding",
    "body",
    "occurred_at",
    "reply_to",
)
KEPT_TEXT_BYTES = 65_536
"""A longer text is not kept in a dead letter: commands could not read the others."""

_ONE_MORE_ATTEMPT = sa.case(
    (outbox.c.attempts < MAX_ATTEMPTS, outbox.c.attempts + 1), else_=outbox.c.attempts
)
_RETRY = (
    sa.update(outbox)
    .where(outbox.c.id == sa.bindparam("row"))
    .values(
        attempts=_ONE_MORE_ATTEMPT,
        last_error=sa.bindparam("code"),
        not_before=now_plus(sa.bindparam("seconds", type_=sa.Double)),
    )
)


class Settlement(ABC):
    """Applies verdicts in the open transaction of a connection; a subclass knows its database."""

    async def apply(self, connection: AsyncConnection, verdicts: Sequence[Verdict]) -> None:
        """Apply all *verdicts*, or raise the error of the database or RowsUnchangedError."""
        reasons: defaultdict[str, list[int]] = defaultdict(list)
        gone = [v.row.id for v in verdicts if isinstance(v, Delete | Expire)]
        others = [verdict for verdict in verdicts if not isinstance(verdict, Delete)]
        for verdict in others:
            if isinstance(verdict, DeadLetter):
                reasons[verdict.code].append(verdict.row.id)
        for reason, ids in reasons.items():
            await self._changed(connection, self._dead_letter(ids, reason), ids)
            gone += ids
        if gone:
            await self._delete(connection, gone)
        if retried := [_retry(v) for v in others if isinstance(v, Retry)]:
            await connection.execute(_RETRY, retried)
        if kept := [v.row.id for v in others if isinstance(v, Quarantine)]:
            await self._changed(connection, self._quarantine(kept), kept)

    async def apply_apart(
        self, scope: Scope, verdicts: Sequence[Verdict]
    ) -> tuple[list[Verdict], list[Quarantine]]:
        """
        Apply those of *verdicts* that the database accepts, and set the other rows aside.

        A transaction around *scope* must be new. Returns the applied verdicts and those that could
        not even be set aside. The verdicts of rows that are gone or that another relay holds are
        left out. Raises the error if all rows are refused because the schema lacks a name.
        """
        changing = [verdict for verdict in verdicts if not isinstance(verdict, Leave)]
        async with scope() as connection:
            held = await self._hold(connection, [verdict.row.id for verdict in changing])
        wanted: list[Verdict] = [v for v in changing if v.row.id in held]
        failed = await refused(scope, wanted, self.apply)
        hopeless: list[Verdict] = [
            DeadLetter(v.row, UNSETTLED) for v in failed if isinstance(v, Retry)
        ]
        still = {
            v.row.id for v in await refused(scope, hopeless, self.apply, others_accepted=True)
        }
        dead = [v for v in hopeless if v.row.id not in still]
        settled = {v.row.id for v in dead}
        aside = [Quarantine(v.row) for v in failed if v.row.id not in settled]
        stuck = await refused(scope, aside, self.apply, others_accepted=True)
        unapplied = {v.row.id for v in failed}
        kept = [v for v in aside if v not in stuck]
        return [*(v for v in wanted if v.row.id not in unapplied), *dead, *kept], stuck

    def has_id(self, ids: Sequence[int]) -> sa.ColumnElement[bool]:
        """Whether the id of a row is one of *ids*."""
        return outbox.c.id.in_(ids)

    @abstractmethod
    def message_id(self) -> sa.ColumnElement[str]:
        """The id of the event as text with dashes."""

    @abstractmethod
    def size(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
        """The size of *column* in bytes."""

    async def _hold(self, connection: AsyncConnection, ids: Sequence[int]) -> set[int]:
        """Those of *ids* that still exist, locked until the transaction ends."""
        return set(await connection.scalars(sa.select(outbox.c.id).where(self.has_id(ids))))

    async def _delete(self, connection: AsyncConnection, ids: Sequence[int]) -> None:
        await self._changed(connection, sa.delete(outbox).where(self.has_id(ids)), ids)

    async def _changed(
        self,
        connection: AsyncConnection,
        statement: Any,
        ids: Sequence[int],
        parameters: dict[str, Any] | None = None,
    ) -> None:
        """Execute *statement*; raises RowsUnchangedError if it changes fewer rows than *ids*."""
        if (await connection.execute(statement, parameters)).rowcount < len(ids):
            raise RowsUnchangedError

    def _dead_letter(self, ids: Sequence[int], reason: str) -> sa.Insert:
        values: dict[str, Any] = {
            "source": sa.literal(SOURCE),
            "reason": sa.literal(reason),
            "attempts": _ONE_MORE_ATTEMPT,
            "message_id": self.message_id(),
            "first_at": outbox.c.created_at,
            **{name: self._kept(outbox.c[name]) for name in ENVELOPE_COLUMNS},
        }
        rows = sa.select(*values.values()).where(self.has_id(ids)).order_by(outbox.c.id)
        return sa.insert(dead_letters).from_select(list(values), rows)

    def _kept(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        if column.name == "headers":
            empty = sa.type_coerce({}, column.type)
            return sa.case((self.size(column) <= KEPT_TEXT_BYTES, column), else_=empty)
        if isinstance(column.type, sa.Text):
            return sa.case((self.size(column) <= KEPT_TEXT_BYTES, column))
        return column

    def _quarantine(self, ids: Sequence[int]) -> sa.Update:
        later = now_plus(sa.literal(QUARANTINE.total_seconds(), sa.Double))
        return (
            sa.update(outbox)
            .where(self.has_id(ids))
            .values(not_before=later, last_error=UNSETTLED)
        )


def _retry(verdict: Retry) -> dict[str, Any]:
    return {
        "row": verdict.row.id,
        "code": verdict.code,
        "seconds": verdict.delay.total_seconds(),
    }
