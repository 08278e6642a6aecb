"""
Pauses that a stop ends.
"""

import asyncio
from datetime import timedelta

import pytest

from outbox.runtime.service import pause
from tests.support.eventually import eventually


async def test_a_pause_ends_by_its_time_or_by_the_stop():
    stop = asyncio.Event()

    await pause(stop, timedelta(milliseconds=1))
    stop.set()
    await asyncio.wait_for(pause(stop, timedelta(hours=1)), timeout=10)


async def test_a_pause_that_is_cancelled_as_the_stop_comes_is_cancelled():
    stop = asyncio.Event()
    pausing = asyncio.create_task(pause(stop, timedelta(hours=1)))
    await eventually(lambda: bool(stop._waiters))

    stop.set()
    pausing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await pausing
