"""
The story: everything is started, some of it is killed, and in the end all is counted.
"""

import asyncio
import time
from contextlib import suppress
from datetime import timedelta

from rich.console import Console

from outbox_demo import history
from outbox_demo.display import Display, Ending, final_table
from outbox_demo.plot import Plot
from outbox_demo.processes import Child, ChildFailed, Troupe
from outbox_demo.reckoning import reckon
from outbox_demo.scoreboard import Counts, Scoreboard, scoreboard
from outbox_demo.stage import Stage
from outbox_demo.villain import Shares, Villain

LOOK_SECONDS = 0.2
DRAIN_SECONDS = 30.0


class Story:
    """One *plot*, with its processes."""

    def __init__(self, plot: Plot, display: Display, board: Scoreboard) -> None:
        self._plot = plot
        self._display = display
        self._board = board
        self._stage = Stage(plot.run, plot.settings)
        self._workers = [self._consumer(number) for number in (1, 2)]
        self._relay = self._child("relay", "relay", "run")
        self._producer = self._child(
            *("producer", "outbox_demo.producer", str(plot.directory), str(plot.seed))
        )
        self._villain = Villain(self._relay, self._workers, self._between_publish_and_settle)

    async def tell(self) -> Ending:
        """
        From the first start to the last exit code.

        Raises ChildFailed if one of them ends unasked.
        """
        began, in_time = time.monotonic(), False
        self._display.say("two workers, a relay and a producing application start")
        async with Troupe([*self._workers, self._relay, self._producer]) as troupe:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._plot.deadline.total_seconds()):
                    await self._all_applied()
                    took = time.monotonic() - began
                    await self._quiet()
                    in_time = True
            if not in_time:
                took = time.monotonic() - began
            for worker in self._workers:
                await self._villain.count_duplicates(worker)
            self._display.say("all are asked to end")
            exit_codes = await troupe.stop(within=DRAIN_SECONDS)
        counts = await self._look()
        past = history.read(self._plot.directory / history.FILE_NAME)
        return Ending(
            reckon(await self._board.uploads(), await self._board.effects(), past),
            counts,
            duplicates=self._villain.duplicates,
            killed=self._villain.killed,
            took=timedelta(seconds=took),
            exit_codes=exit_codes,
            in_time=in_time,
        )

    async def _all_applied(self) -> None:
        """Watch until there is nothing left to do, and kill who has to die by then."""
        counts, told = Counts(), False
        while self._villain.plans or not (told and self._done(counts)):
            await asyncio.sleep(LOOK_SECONDS)
            counts = await self._look()
            self._check()
            if not told and self._producer.exit_code == 0:
                told = True
                self._display.say("the application has committed its last event")
            for deed in await self._villain.strike(self._shares(counts)):
                self._display.say(deed)

    async def _quiet(self) -> None:
        """Wait until nothing is left in the queue either, and all are up again."""
        self._display.say("everything is applied; waiting for messages that come again")
        while not await self._is_quiet():
            self._check()
            await asyncio.sleep(LOOK_SECONDS)

    async def _is_quiet(self) -> bool:
        for child in (*self._workers, self._relay):
            if not await child.ready():
                return False
        return await self._stage.left() == 0

    async def _look(self) -> Counts:
        counts = await self._board.counts()
        self._display.show(counts)
        return counts

    def _done(self, counts: Counts) -> bool:
        return not counts.waiting and counts.applied >= self._plot.intended.effects

    def _check(self) -> None:
        for child in (*self._workers, self._relay):
            if child.exit_code is not None:
                raise ChildFailed(child)
        if self._producer.exit_code not in {None, 0}:
            raise ChildFailed(self._producer)

    def _shares(self, counts: Counts) -> Shares:
        intended = self._plot.intended
        return Shares(counts.published / intended.events, counts.applied / intended.effects)

    async def _between_publish_and_settle(self) -> bool | None:
        """Whether the broker has what is still in the outbox; None if nothing will be there."""
        counts = await self._look()
        if not counts.waiting:
            return None if self._producer.exit_code == 0 else False
        return await self._stage.left() + counts.applied > counts.published

    def _consumer(self, number: int) -> Child:
        return self._child(f"worker {number}", "consumer", "run", "outbox_demo.etl:etl")

    def _child(self, name: str, *program: str) -> Child:
        return Child(name, *program, log=self._plot.directory / f"{name.replace(' ', '-')}.log")


async def perform(plot: Plot, console: Console) -> bool:
    """Whether *plot* came to a happy end, which the table on *console* tells of."""
    await Stage(plot.run, plot.settings).set_up()
    async with scoreboard(plot.settings, plot.run) as board:
        with Display(console, plot.intended) as display:
            ending = await Story(plot, display, board).tell()
    console.print(final_table(ending))
    return ending.happy
