"""
An outbox that gives no rows while its tables are not as they must be.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta

from outbox.runtime.schema_monitor import Gate
from relay.storage.base import MEASURED_ROWS, Backlog, Claim, OutboxStore


@dataclass(frozen=True, slots=True)
class GatedStore:
    """*store*, whose claims raise DatabaseUnavailable while *gate* is closed."""

    store: OutboxStore
    gate: Gate

    def claim(self, *, limit: int, size: int) -> AbstractAsyncContextManager[Claim]:
        self.gate.check()
        return self.store.claim(limit=limit, size=size)

    async def due_in(self) -> timedelta | None:
        return await self.store.due_in()

    async def promote(self) -> int:
        return await self.store.promote()

    async def backlog(self, *, limit: int = MEASURED_ROWS, by_route: bool = False) -> Backlog:
        return await self.store.backlog(limit=limit, by_route=by_route)

    async def close(self) -> None:
        await self.store.close()
