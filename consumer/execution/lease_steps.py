"""
The transaction that claims, extends or ends a lease.
"""

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from consumer.execution.unit_of_work import UnitOfWork

Result = TypeVar("Result")


class LeaseSteps(Generic[Result]):
    """A transaction that claims, extends or ends a lease by *write*."""

    def __init__(self, write: Callable[[AsyncSession], Awaitable[Result]]) -> None:
        self._write = write
        self._result: Result | None = None

    async def guard(self, work: UnitOfWork) -> bool:
        self._result = await self._write(work.session)
        return True

    async def record(self, work: UnitOfWork) -> None:
        """The lease is in the dedup row."""

    async def call(self, work: UnitOfWork) -> None:
        """The handler is called outside the transaction."""

    async def settle(self, work: UnitOfWork) -> bool:
        del work
        return True

    def raise_unless_failure(self, work: UnitOfWork, error: BaseException) -> None:
        del work
        raise error

    def result(self) -> Result | None:
        return self._result
