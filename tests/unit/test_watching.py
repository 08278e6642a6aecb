"""
When watching ends, while copies come faster than they are shown.
"""

import asyncio
from datetime import timedelta

import pytest

from outbox.transports.observation import Copy, CopyBuffer
from outbox.watching.request import WatchedMessages, WatchRequest
from outbox.watching.watch import batches
from outbox.wire.codec import WireMessage

COPIES = [Copy(WireMessage("events", "a", b""), size=0, queues=[])] * 600
PATTERNS = WatchedMessages("events", ["#"])


@pytest.mark.parametrize("within", [None, timedelta(milliseconds=50)])
async def test_watching_ends_although_copies_always_wait(within: timedelta | None) -> None:
    observation, stop, shown = CopyBuffer(), asyncio.Event(), 0
    observation.put(COPIES)
    request = WatchRequest(messages=PATTERNS, within=within)

    async with asyncio.timeout(10):
        async for _ in batches(observation, request, stop):
            observation.put(COPIES)
            shown += 1
            if within is None and shown == 3:
                stop.set()

    assert shown == 3 or within is not None
