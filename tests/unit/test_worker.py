"""
The loop of a consumer: pauses between subscriptions that are lost.
"""

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.dispatch import worker as worker_module
from consumer.dispatch.worker import Worker
from outbox.errors import BrokerUnavailable

ENOUGH = 4


@pytest.mark.parametrize(("lasting", "failures"), [(60, [1, 2, 3, 4]), (0, [1, 1, 1, 1])])
async def test_pauses_grow_while_subscriptions_are_lost_soon_after_their_start(
    monkeypatch, lasting, failures
):
    monkeypatch.setattr(worker_module, "_LASTING_SECONDS", lasting)
    stop, pauses = asyncio.Event(), list[int]()

    @asynccontextmanager
    async def subscribe(_queue: str, **_: Any) -> Any:
        yield SimpleNamespace()

    async def lose(*_: Any) -> BrokerUnavailable:
        return BrokerUnavailable("the connection was lost")

    def pause_after(number: int) -> timedelta:
        pauses.append(number)
        if len(pauses) == ENOUGH:
            stop.set()
        return timedelta(0)

    async def run(_ready: Any, _stop: asyncio.Event, **_: Any) -> None: ...

    def said(*_: Any, **__: Any) -> None: ...

    it: Any = SimpleNamespace
    worker = Worker(
        source=it(subscribe=subscribe),
        queue="q",
        dispatcher=it(run=lose, was_idle=False, first_prefetch=1),
        executor=it(ready=None),
        database_retry=it(run=run, pause_after=pause_after),
        ordered=False,
        telemetry=it(availability=it(up=said, down=said)),
        health=it(up=said, down=said),
    )

    await worker.run(stop)

    assert pauses == failures
