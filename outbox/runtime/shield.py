"""
Work that no cancellation interrupts.
"""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection


async def commit(connection: AsyncConnection) -> None:
    """
    Commit, and let no cancellation come in between: its outcome would be unknown.

    There is no timeout either. A client that stops waiting for a COMMIT does not undo it.
    """
    await shielded(connection.commit())


async def shielded(work: Any) -> None:
    """Wait for the coroutine *work* to its end; a cancellation is raised only after it."""
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
