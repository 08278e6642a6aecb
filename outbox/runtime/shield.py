"""
Work that a cancellation does not interrupt.
"""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection


async def commit(connection: AsyncConnection) -> None:
    """
    Commit; a cancellation is raised only afterwards, since the outcome would be unknown.

    It has no timeout either: a client that stops waiting for a COMMIT does not undo it.
    """
    await shielded(connection.commit())


async def shielded(work: Any) -> None:
    """Wait until the coroutine *work* ends; a cancellation is raised only afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001, S110 - raised by task.result() below
            pass
    task.result()
    if cancelled is not None:
        raise cancelled
