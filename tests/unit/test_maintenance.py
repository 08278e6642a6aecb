"""
When the relay looks for rows that are due.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from relay import maintenance
from relay.maintenance import Maintenance
from relay.storage.base import Backlog
from relay.telemetry import Telemetry
from relay.wakeup import WakeSignal
from tests.support.eventually import eventually

NEVER, SHORTLY = timedelta(hours=1), timedelta(milliseconds=5)


class WaitingRows:
    """A store with one row that is due after *due_in*; it is promoted once."""

    def __init__(self, due_in: timedelta | None) -> None:
        self.next = due_in
        self.looks = self.promoted = 0

    async def due_in(self) -> timedelta | None:
        self.looks += 1
        due_in, self.next = self.next, timedelta(0) if self.next is not None else None
        return due_in

    async def promote(self) -> int:
        self.next = None
        self.promoted += 1
        return 1

    async def backlog(self) -> Backlog:
        return Backlog(0, timedelta(0))


@asynccontextmanager
async def at_work(store: WaitingRows) -> AsyncIterator[SimpleNamespace]:
    """Run the maintenance of *store* until the block ends."""
    wake_signal = WakeSignal()
    work = Maintenance(
        store=cast("Any", store),
        wake_signal=wake_signal,
        telemetry=Telemetry(CollectorRegistry(), exchange="x"),
    )
    running = asyncio.create_task(work.run(asyncio.Event()))
    yield SimpleNamespace(inserted=work.inserted, wake_signal=wake_signal)
    running.cancel()
    await asyncio.wait({running})


async def test_a_row_is_promoted_when_it_is_due_and_the_relay_is_woken(monkeypatch):
    monkeypatch.setattr(maintenance, "LOOK_EVERY", NEVER)
    store = WaitingRows(SHORTLY)
    async with at_work(store) as work:
        await eventually(lambda: store.promoted == 1)

        assert await work.wake_signal.wait(timedelta(seconds=5))
        await eventually(lambda: store.looks == 3)  # before, when it is due, and for the next


@pytest.mark.parametrize("due_in", [None, NEVER])
async def test_without_a_row_that_is_due_it_looks_again_after_an_insert_only(monkeypatch, due_in):
    monkeypatch.setattr(maintenance, "LOOK_EVERY", NEVER)
    store = WaitingRows(due_in)
    async with at_work(store) as work:
        await eventually(lambda: store.looks == 1)
        store.next = timedelta(0)

        monkeypatch.setattr(maintenance, "LOOK_AFTER_INSERT", SHORTLY)
        work.inserted()

        await eventually(lambda: store.promoted == 1)
    assert store.looks == 3


async def test_a_row_of_which_nothing_notifies_is_found_in_time(monkeypatch):
    monkeypatch.setattr(maintenance, "LOOK_EVERY", SHORTLY)
    store = WaitingRows(None)
    async with at_work(store):
        await eventually(lambda: store.looks)

        store.next = timedelta(0)

        await eventually(lambda: store.promoted == 1)
