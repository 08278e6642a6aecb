"""
Turns of the two loops of an ordered consumer.
"""

import asyncio
from contextlib import AbstractAsyncContextManager

from consumer.dispatch.turns import Turns


async def test_a_turn_alone_waits_for_those_before_and_holds_up_those_behind():
    turns, now = Turns(), []
    ends = {name: asyncio.Event() for name in ("first", "second", "alone", "last")}

    async def take(name: str, turn: AbstractAsyncContextManager[None]) -> None:
        async with turn:
            now.append(name)
            await ends[name].wait()
            now.remove(name)

    kinds = {"alone": turns.alone}
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name in ends:
            group.create_task(take(name, kinds.get(name, turns.beside_others)()))
        for expected in (["first", "second"], ["second"], ["alone"], ["last"]):
            for _ in range(10):
                await asyncio.sleep(0)
            assert now == expected
            ends[expected[0]].set()


async def test_a_turn_alone_that_is_cancelled_holds_up_no_other():
    turns = Turns()
    async with turns.beside_others():
        waiting = asyncio.ensure_future(turns.alone().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        async with asyncio.timeout(10), turns.beside_others():
            pass
