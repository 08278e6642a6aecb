"""
The room of a subscription that fetches its messages: how many more it may hold.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta


class Capacity:
    """Room for *prefetch* messages at most; those that are held are counted by its owner."""

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        self._for_one = asyncio.Event()
        self._for_range = asyncio.Event()
        self.changed(free=prefetch)

    def changed(self, *, free: int) -> None:
        """So many more messages may be held now."""
        for event, least in ((self._for_one, 1), (self._for_range, self.prefetch // 4)):
            if free >= max(least, 1):
                event.set()
            else:
                event.clear()

    async def wait(self, *, longest: timedelta) -> None:
        """
        Wait until a range of messages can be fetched.

        For a single one it waits no longer than *longest*, because the others may be held for any
        time. To fetch one message costs as much as to fetch many.
        """
        await self._for_one.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(longest.total_seconds()):
                await self._for_range.wait()
